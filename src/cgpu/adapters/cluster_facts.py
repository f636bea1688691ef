"""The facts of a cluster's GPU nodes, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from cgpu.adapters import kube
from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.doctor.cluster import (
    DaemonSet,
    PodCounts,
    daemon_sets_fact,
    facts_of_node,
    gpu_daemon_set,
    is_gpu_node,
    node_name,
    shares_gpus,
)
from cgpu.doctor.facts import Fact, Facts
from cgpu.doctor.probe_pod import ProbeList, ProbeOptions

__all__ = ["ProbeOptions", "facts_of_cluster"]

Progress = Callable[[int, int | None], None]
_FORBIDDEN: Final = 403
# From so many sharing nodes of a page on, one list of all pods costs the API less than one of each node.
_FEW_NODES: Final = 25


def facts_of_cluster(
    kubeconfig: Path | None,
    context: str | None,
    selector: str | None,
    probe: ProbeOptions | None,
    progress: Progress,
) -> Iterator[Facts]:
    """The facts of each GPU node, once, in no order that counts; each has its ``node``.

    ``selector`` is a label selector of nodes. ``progress`` is told how many nodes are done, GPU nodes
    or not, and how many there are, or None where the API does not tell (as with a selector). Close
    the iterator when you leave it early: that deletes the probes' pods.

    Raises ClusterError when the cluster can't be reached or the nodes may not be listed. What else
    may not be read is a fact that is not known.
    """
    with kube.connect(kubeconfig, context) as cluster:
        nodes = _Nodes(cluster, progress)
        if probe is None:
            for facts in nodes.facts(selector):
                yield facts
                nodes.count()
        else:
            yield from _with_probes(cluster, nodes, selector, probe)


def _with_probes(cluster: kube.Cluster, nodes: _Nodes, selector: str | None, options: ProbeOptions) -> Iterator[Facts]:
    from cgpu.adapters.node_probe import probed
    from cgpu.doctor.probes import COMMANDS, probe_node
    from cgpu.doctor.probes.files import LIMITS

    def read(folder: Path) -> Facts:
        return probe_node(folder, runner=None)

    wanted = ProbeList(LIMITS, {name: command.argv for name, command in COMMANDS.items()})
    for facts in probed(cluster, nodes.facts(selector), options, wanted, read):
        yield facts
        nodes.count()


class _Nodes:
    """Reads nodes page by page, and counts them."""

    def __init__(self, cluster: kube.Cluster, progress: Progress) -> None:
        self._cluster = cluster
        self._progress = progress
        self._done = 0
        self._read = 0
        self._total: int | None = None
        self._counts: PodCounts | None = None

    def count(self) -> None:
        """One node more is done."""
        self._done += 1
        self._progress(self._done, self._total)

    def facts(self, selector: str | None) -> Iterator[Facts]:
        """The facts of the GPU nodes, from the API alone; the others are counted as done."""
        sets = self._daemon_sets()
        for page in self._cluster.nodes(selector):
            found: list[tuple[Facts, bool]] = []
            others = 0
            for node in page.items:
                self._read += 1
                if is_gpu_node(node) and node_name(node):
                    found.append((facts_of_node(node), shares_gpus(node)))
                else:
                    others += 1
            self._total = None if page.remaining is None else self._read + page.remaining
            for _ in range(others):
                self.count()
            yield from self._completed(found, sets)

    def _completed(self, found: Sequence[tuple[Facts, bool]], sets: Sequence[DaemonSet] | Fact) -> Iterator[Facts]:
        """With the facts that other objects tell."""
        pods = self._pods([facts.value("node") for facts, shares in found if shares])
        for facts, shares in found:
            added = {"daemonsets": sets if isinstance(sets, Fact) else daemon_sets_fact(sets, facts)}
            if not shares:
                added["pods_per_gpu"] = Fact(None, "the node does not share its GPUs through aliyun.com/gpu-mem")
            elif isinstance(pods, Fact):
                added["pods_per_gpu"] = pods
            else:
                added["pods_per_gpu"] = pods.fact(facts.value("node"), facts.value("gpus"))
            yield Facts({**facts.given, **added})

    def _pods(self, nodes: Sequence[str]) -> PodCounts | Fact:
        """The pods that share the nodes' GPUs, or why they are not known."""
        if self._counts is not None:
            return self._counts
        counts = PodCounts()
        try:
            if len(nodes) > _FEW_NODES:
                for pod in self._cluster.gpu_pods():
                    counts.add(pod)
                self._counts = counts
            else:
                for node in nodes:
                    for pod in self._cluster.gpu_pods(node):
                        counts.add(pod)
        except ApiRefusedError as error:
            return _not_allowed(error)
        return counts

    def _daemon_sets(self) -> Sequence[DaemonSet] | Fact:
        try:
            return [found for item in self._cluster.daemon_sets() if (found := gpu_daemon_set(item)) is not None]
        except ApiRefusedError as error:
            return _not_allowed(error)


def _not_allowed(error: ApiRefusedError) -> Fact:
    """The fact that may not be read; every other refusal is an error of the whole."""
    if error.status != _FORBIDDEN:
        raise error
    return Fact(None, error.message)

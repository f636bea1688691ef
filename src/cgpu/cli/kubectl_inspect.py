"""``kubectl inspect cgpu``: who has how much of the GPUs of a cluster. kubectl finds it by the program's name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgpu import __version__
from cgpu.cli.exit_code import exit_code_of
from cgpu.errors import ClusterError

if TYPE_CHECKING:
    from cgpu.adapters.kube import Cluster
    from cgpu.cli.inspect_view import PendingPod, View
    from cgpu.k8s.allocations import Use
    from cgpu.k8s.asks import ClaimAsk
    from cgpu.k8s.offers import OfferedSlice

_EPILOG: Final = """\
examples:
  kubectl inspect cgpu                    a line for each node that shares its GPUs
  kubectl inspect cgpu -d node-a          the pods on one node
  kubectl inspect cgpu -o json            everything, in bytes and percent

exit codes: 0 done, 2 malformed request, 3 no answer of the cluster, or no such node
"""
_UNPLACED: Final = "status.phase=Pending,spec.nodeName="


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit code."""
    options = _parser().parse_args(arguments)
    return exit_code_of("kubectl-inspect-cgpu", lambda: _print(options))


def _print(options: argparse.Namespace) -> int:
    view = _view(options)
    from cgpu.cli import inspect_view

    if options.output == "json":
        for part in inspect_view.document(view):
            sys.stdout.write(part)
    else:
        for line in (inspect_view.details if options.details else inspect_view.summary)(view):
            print(line)
    sys.stdout.flush()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubectl inspect cgpu",
        description="Who has how much of the GPUs of a cluster.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("nodes", metavar="NODE", nargs="*", help="only these nodes")
    parser.add_argument("-d", "--details", action="store_true", help="the pods on each node")
    parser.add_argument("-o", "--output", metavar="FORMAT", choices=("json",), help="json: in bytes and percent")
    parser.add_argument("--kubeconfig", metavar="FILE", type=Path, help="how to reach the cluster")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context")
    parser.add_argument("--version", action="version", version=f"cgpu {__version__}")
    return parser


def _view(options: argparse.Namespace) -> View:
    """Everything that is printed. Of the objects read, only what is printed stays in memory."""
    from cgpu.adapters.kube import connect
    from cgpu.cli.inspect_view import View
    from cgpu.k8s.allocations import picture

    wanted = frozenset(options.nodes)
    with connect(options.kubeconfig, options.context, program="kubectl-inspect-cgpu") as cluster:
        slices = list(_slices(cluster, wanted))
        asks: dict[tuple[str, str], ClaimAsk] = {}
        found = picture(slices, _uses(cluster, wanted, asks))
        unknown = sorted(wanted - found.nodes.keys())
        if unknown:
            raise ClusterError(
                f"{', '.join(unknown)}: no such node shares its GPUs",
                "nodes that do have the label ack.node.gpu.schedule=cgpu, core_mem or share, and a running agent",
            )
        return View(found, _addresses(cluster, found.nodes.keys(), wanted), list(_pending(cluster, asks)))


def _slices(cluster: Cluster, wanted: frozenset[str]) -> Iterator[OfferedSlice]:
    from cgpu.adapters.kube_objects import SLICES
    from cgpu.k8s import names
    from cgpu.k8s.offers import parse_slice

    for item in cluster.objects(SLICES, fields=f"spec.driver={names.DRIVER}{_one(wanted, ',spec.nodeName=')}"):
        found = parse_slice(item)
        if found is not None and (not wanted or found.node in wanted):
            yield found


def _uses(cluster: Cluster, wanted: frozenset[str], asks: dict[tuple[str, str], ClaimAsk]) -> Iterator[Use]:
    """What claims have; what those ask for that have nothing yet is put into ``asks``."""
    from cgpu.adapters.kube_objects import CLAIMS
    from cgpu.k8s import names
    from cgpu.k8s.allocations import parse_uses
    from cgpu.k8s.asks import parse_asks

    for item in cluster.objects(CLAIMS, mark=names.DRIVER.encode()):
        uses = parse_uses(item)
        yield from (use for use in uses if not wanted or use.pool in wanted)
        if not uses and (ask := parse_asks(item)) is not None:
            asks[ask.namespace, ask.name] = ask


def _addresses(cluster: Cluster, known: Container[str], wanted: frozenset[str]) -> dict[str, str]:
    from cgpu.adapters.kube_objects import NODES

    found = {}
    for node in cluster.objects(NODES, fields=_one(wanted, "metadata.name=")):
        name = node["metadata"]["name"]
        if name in known:
            rows = (node.get("status") or {}).get("addresses") or ()
            internal = [row["address"] for row in rows if row["type"] == "InternalIP"]
            if internal:
                found[name] = internal[0]
    return found


def _pending(cluster: Cluster, asks: dict[tuple[str, str], ClaimAsk]) -> Iterator[PendingPod]:
    from cgpu.adapters.kube_objects import PODS
    from cgpu.cli.inspect_view import PendingPod
    from cgpu.k8s.asks import claims_of

    if not asks:
        return
    for pod in cluster.objects(PODS, fields=_UNPLACED, mark=b"resourceClaims"):
        namespace = pod["metadata"]["namespace"]
        amounts = [asks[namespace, name].memory_bytes() for name in claims_of(pod) or () if (namespace, name) in asks]
        if amounts:
            known = [amount for amount in amounts if amount is not None]
            yield PendingPod(namespace, pod["metadata"]["name"], sum(known) if len(known) == len(amounts) else None)


def _one(wanted: frozenset[str], selector: str) -> str:
    """A selector for the only wanted node: the server then sends less."""
    return f"{selector}{next(iter(wanted))}" if len(wanted) == 1 else ""


if __name__ == "__main__":
    sys.exit(main())

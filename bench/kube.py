"""How fast a cluster places pods with shares of GPUs, and what cgpu's webhook costs it.

python -m bench.kube --nodes 1000 --cards 8 --pods 5000 --batch 250 --json FILE --table FILE

Three kinds of pods: those of ACK through the webhook (two processes, over HTTPS), the same amounts as claims written
by hand without a webhook, and a whole card each. The first two are placed on one control plane, in batches by turns,
so that a machine that becomes slower, and a cluster that fills, does so for both; the third on another one.
etcd, API server, scheduler and controller manager are real; the nodes are kwok's. It runs as root, in namespaces of
its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.driver_node import control_plane
from bench.kube_figures import Batch, Trial, document, table, verdict
from bench.kube_objects import Kind
from bench.machine import describe_machine
from bench.memory import memory_of, processor_s
from cgpu.k8s.webhook_configuration import Service, configurations
from tests.e2e import tools
from tests.e2e.kube import programs
from tests.e2e.kube.control_plane import ControlPlane
from tests.e2e.kube.webhooks import NAMESPACE, PREPARE, Webhooks
from tests.e2e.node import SOURCE
from tests.e2e.tools import SEARCHED

_HOURS_S: Final = 7200.0
_TOGETHER: Final = ((Kind.ACK, Kind.CLAIMS), (Kind.WHOLE,))
"""On one control plane."""

_STAGES: Final = Path(__file__).with_name("kwok.yaml")


def main() -> int:
    """Measure and print; 1 when a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.kube", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000, metavar="N")
    parser.add_argument("--cards", type=int, default=8, metavar="N", help="of each node")
    parser.add_argument("--pods", type=int, default=5000, metavar="N", help="of each kind; at least a batch")
    parser.add_argument("--batch", type=int, default=250, metavar="N", help="pods of one kind that are made at once")
    parser.add_argument("--kinds", nargs="+", type=Kind, choices=list(Kind), default=list(Kind), metavar="KIND")
    parser.add_argument("--kube", default=programs.DEFAULT, metavar="MINOR", help="release of Kubernetes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write them as Markdown there")
    options = parser.parse_args()
    try:
        tools.root_with_namespaces()
        size = Size(options.nodes, options.cards, max(1, options.pods // options.batch), options.batch)
        trials = run(options.kinds, size, options.kube)
    except tools.MissingToolError as error:
        print(f"bench.kube: {error}", file=sys.stderr)
        return 1
    machine = describe_machine("none") | {"kubernetes": programs.RELEASES[options.kube].version}
    text = table(trials)
    print(text, end="")
    if options.json:
        options.json.write_text(json.dumps(document(machine, trials), indent=1, allow_nan=False) + "\n")
    if options.table:
        options.table.write_text(text)
    missed = verdict(trials)
    for line in missed:
        print(f"bench.kube: {line}", file=sys.stderr)
    return 1 if missed else 0


@dataclass(frozen=True)
class Size:
    """Of a measurement."""

    nodes: int
    cards: int
    batches: int
    """Of each kind."""
    batch: int
    """Pods of one."""


def order(kinds: Sequence[Kind], rounds: int) -> list[Kind]:
    """All kinds so often, forth and back, so that a machine that changes changes all of them."""
    return [kind for number in range(rounds) for kind in (kinds if number % 2 == 0 else reversed(kinds))]


def run(kinds: Collection[Kind], size: Size, minor: str = programs.DEFAULT) -> list[Trial]:
    """Raises MissingToolError."""
    groups = ([kind for kind in together if kind in kinds] for together in _TOGETHER)
    return [trial for group in groups if group for trial in _by_turns(group, size, minor)]


def _by_turns(kinds: Sequence[Kind], size: Size, minor: str) -> list[Trial]:
    """On one control plane."""
    with control_plane(minor, PREPARE) as plane, contextlib.ExitStack() as undo:
        host = plane.host
        fake = host.start(
            str(programs.kwok()), f"--kubeconfig={plane.admin}", "--manage-all-nodes",
            "--node-lease-duration-seconds=40", f"--config={_STAGES}", "--v=WARN",
            log=host.folder / "kwok.log", env={"PATH": SEARCHED, "HOME": str(host.folder)},
        )  # fmt: skip
        _load(plane, "nodes", kinds, f"--nodes={size.nodes}", f"--cards={size.cards}")
        webhooks = None
        if any(kind.has_webhook for kind in kinds):
            webhooks = undo.enter_context(Webhooks(plane))
            _only_in(plane, next(kind for kind in kinds if kind.has_webhook))
        replicas = {port: host.child(process) for port, process in webhooks.replicas.items()} if webhooks else {}
        pids = plane.pids() | {"kwok": host.child(fake)} | {f"webhook-{port}": pid for port, pid in replicas.items()}
        load, batches = os.getloadavg(), _placed(plane, kinds, size, pids)
        _load(plane, "check", kinds, f"--pods={size.batches * size.batch}")
        return [
            Trial(
                kind=kind,
                nodes=size.nodes,
                cards=size.cards,
                batches=batches[kind],
                load=(load, os.getloadavg()),
                memory={name: memory_of(pid) for name, pid in _its(kind, pids).items()},
                metrics=[_metrics(plane, port) for port in replicas] if kind.has_webhook else [],
            )
            for kind in kinds
        ]


def _placed(
    plane: ControlPlane, kinds: Sequence[Kind], size: Size, pids: Mapping[str, int]
) -> Mapping[Kind, list[Batch]]:
    pair = plane.pki.sign("measuring", "measuring", groups=["system:masters"])
    done: dict[Kind, list[Batch]] = {kind: [] for kind in kinds}
    for kind in order(kinds, size.batches):
        first = len(done[kind]) * size.batch
        watched = _its(kind, pids)
        before = {name: processor_s(pid) for name, pid in watched.items()}
        options = (f"--first={first}", f"--pods={size.batch}", "--scheduler", str(pair.certificate), str(pair.key))
        told = json.loads(_load(plane, "pods", [kind], *options))
        used = {name: processor_s(pid) - before[name] for name, pid in watched.items()}
        done[kind].append(Batch(size.batch, told["created_s"], told["placed_s"], used))
        line = f"{kind}, batch {len(done[kind])} of {size.batches}: {size.batch / told['placed_s']:.1f} pods a second"
        print(line, file=sys.stderr, flush=True)
    return done


def _its(kind: Kind, pids: Mapping[str, int]) -> Mapping[str, int]:
    """The processes that place its pods."""
    return {name: pid for name, pid in pids.items() if kind.has_webhook or not name.startswith("webhook")}


def _only_in(plane: ControlPlane, kind: Kind) -> None:
    """Let the webhooks act on that kind's pods and claims alone."""
    chosen = {"matchLabels": {"kubernetes.io/metadata.name": kind.namespace}}
    for configuration in configurations(Service(NAMESPACE)):
        patch = [
            {"op": "replace", "path": f"/webhooks/{number}/namespaceSelector", "value": chosen}
            for number, _ in enumerate(configuration["webhooks"])
        ]
        name = configuration["metadata"]["name"]
        plane.kubectl("patch", configuration["kind"].lower(), name, "--type=json", f"--patch={json.dumps(patch)}")


def _load(plane: ControlPlane, what: str, kinds: Sequence[Kind], *options: str) -> str:
    host, log = plane.host, plane.host.folder / f"load-{what}.log"
    environment = {"PATH": SEARCHED, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": f"{SOURCE}:{SOURCE.parent}"}
    command = (sys.executable, "-m", "bench.kube_load", what, f"--kubeconfig={plane.admin}", "--kinds", *kinds)
    process = host.start(*command, *options, log=log, env=environment)
    status = process.wait(_HOURS_S)
    text = log.read_text()
    assert status == 0, text[-3000:]
    log.unlink()
    return text


def _metrics(plane: ControlPlane, port: int) -> str:
    return _load(plane, "metrics", [Kind.ACK], f"--port={port}")


if __name__ == "__main__":
    sys.exit(main())

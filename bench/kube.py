"""How fast a cluster places pods with shares of GPUs, and what cgpu's webhook costs it.

python -m bench.kube --nodes 1000 --cards 8 --pods 5000 --json FILE --table FILE

Three kinds of pods, each on a fresh control plane, one after the other, and so often: those of ACK through the webhook
(two processes, over HTTPS), the same amounts as claims written by hand without a webhook, and a whole card each.
etcd, API server, scheduler and controller manager are real; the nodes are kwok's. It runs as root, in namespaces of
its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.driver_node import control_plane
from bench.kube_figures import Trial, document, table, verdict
from bench.kube_objects import Kind
from bench.machine import describe_machine
from bench.memory import memory_of, processor_s
from tests.e2e import tools
from tests.e2e.kube import programs
from tests.e2e.kube.control_plane import ControlPlane
from tests.e2e.kube.webhooks import PREPARE, Webhooks
from tests.e2e.node import SOURCE
from tests.e2e.tools import SEARCHED

_HOURS_S: Final = 7200.0
_STAGES: Final = Path(__file__).with_name("kwok.yaml")


def main() -> int:
    """Measure and print; 1 when a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.kube", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000, metavar="N")
    parser.add_argument("--cards", type=int, default=8, metavar="N", help="of each node")
    parser.add_argument("--pods", type=int, default=5000, metavar="N")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="of all kinds, each in the other order")
    parser.add_argument("--kinds", nargs="+", type=Kind, choices=list(Kind), default=list(Kind), metavar="KIND")
    parser.add_argument("--kube", default=programs.DEFAULT, metavar="MINOR", help="release of Kubernetes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write them as Markdown there")
    options = parser.parse_args()
    try:
        tools.root_with_namespaces()
        kinds = order(options.kinds, options.rounds)
        trials = []
        for trial in run(options.nodes, options.cards, options.pods, kinds, options.kube):
            print(f"{trial.kind}: {trial.rate:.1f} pods a second", file=sys.stderr, flush=True)
            trials.append(trial)
    except tools.MissingToolError as error:
        print(f"bench.kube: {error}", file=sys.stderr)
        return 1
    machine = describe_machine("none") | {"kubernetes": programs.RELEASES[options.kube].version}
    text = table(trials)
    print(text, end="")
    if options.json:
        options.json.write_text(json.dumps(document(machine, trials), indent=1) + "\n")
    if options.table:
        options.table.write_text(text)
    missed = verdict(trials)
    for line in missed:
        print(f"bench.kube: {line}", file=sys.stderr)
    return 1 if missed else 0


def order(kinds: Sequence[Kind], rounds: int) -> list[Kind]:
    """All kinds so often, forth and back, so that a machine that changes changes all of them."""
    return [kind for number in range(rounds) for kind in (kinds if number % 2 == 0 else reversed(kinds))]


def run(nodes: int, cards: int, pods: int, kinds: Sequence[Kind], minor: str = programs.DEFAULT) -> Iterator[Trial]:
    """One trial after the other. Raises MissingToolError."""
    for kind in kinds:
        with control_plane(minor, PREPARE) as plane:
            yield _trial(plane, kind, nodes, cards, pods)


def _trial(plane: ControlPlane, kind: Kind, nodes: int, cards: int, pods: int) -> Trial:
    host = plane.host
    fake = host.start(
        str(programs.kwok()), f"--kubeconfig={plane.admin}", "--manage-all-nodes", "--node-lease-duration-seconds=40",
        f"--config={_STAGES}", "--v=WARN",
        log=host.folder / "kwok.log", env={"PATH": SEARCHED, "HOME": str(host.folder)},
    )  # fmt: skip
    _load(plane, "nodes", kind, f"--nodes={nodes}", f"--cards={cards}")
    with contextlib.ExitStack() as undo:
        pids = plane.pids() | {"kwok": host.child(fake)}
        webhooks = undo.enter_context(Webhooks(plane)) if kind.has_webhook else None
        for port, process in (webhooks.replicas if webhooks else {}).items():
            pids[f"webhook-{port}"] = host.child(process)
        pair = plane.pki.sign("measuring", "measuring", groups=["system:masters"])
        before = {name: processor_s(pid) for name, pid in pids.items()}
        load = os.getloadavg()
        told = json.loads(
            _load(plane, "pods", kind, f"--pods={pods}", "--scheduler", str(pair.certificate), str(pair.key))
        )
        return Trial(
            kind=kind,
            nodes=nodes,
            cards=cards,
            pods=pods,
            created_s=told["created_s"],
            curve=[(seconds, count) for seconds, count in told["curve"]],
            load=(load, os.getloadavg()),
            processor_s={name: processor_s(pid) - before[name] for name, pid in pids.items()},
            memory={name: memory_of(pid) for name, pid in pids.items()},
            metrics=[_metrics(plane, port) for port in webhooks.replicas] if webhooks else [],
        )


def _load(plane: ControlPlane, what: str, kind: Kind, *options: str) -> str:
    host, log = plane.host, plane.host.folder / f"load-{what}.log"
    environment = {"PATH": SEARCHED, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": f"{SOURCE}:{SOURCE.parent}"}
    command = (sys.executable, "-m", "bench.kube_load", what, f"--kubeconfig={plane.admin}", f"--kind={kind}")
    process = host.start(*command, *options, log=log, env=environment)
    status = process.wait(_HOURS_S)
    text = log.read_text()
    assert status == 0, text[-3000:]
    log.unlink()
    return text


def _metrics(plane: ControlPlane, port: int) -> str:
    return _load(plane, "metrics", Kind.ACK, f"--port={port}")


if __name__ == "__main__":
    sys.exit(main())

"""Fills a cluster with nodes, then with pods, and tells how fast the scheduler places them.

python -m bench.kube_load nodes --kubeconfig FILE --kinds ack claims --nodes 1000 --cards 8
python -m bench.kube_load pods --kubeconfig FILE --kinds ack --first 0 --pods 500 --scheduler CERTIFICATE KEY
python -m bench.kube_load check --kubeconfig FILE --kinds ack claims --pods 5000
python -m bench.kube_load metrics --port 8443

Run on the control plane's host; ``bench.kube`` does it. Of pods it prints JSON, of a webhook's port its metrics.
"""

from __future__ import annotations

import argparse
import json
import re
import ssl
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bench.kube_objects import MEMORY_GIB, Kind, cards_of, node, pod, surroundings
from cgpu.adapters.kube_objects import CLAIMS, NAMESPACES, NODES, PODS, SLICES, ObjectClient, connect
from cgpu.adapters.kube_objects import Kind as Listed

_THREADS: Final = 8
_POLL_S: Final = 0.2
_STALLED_S: Final = 120.0
_SCHEDULER: Final = "https://127.0.0.1:10259/metrics"
_PLACED: Final = re.compile(r'^scheduler_schedule_attempts_total\{[^}]*result="scheduled"[^}]*\} (\S+)$', re.MULTILINE)


def main() -> None:
    """Do one of the four."""
    parser = argparse.ArgumentParser(prog="python -m bench.kube_load", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("nodes", "pods", "check", "metrics"))
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--kinds", type=Kind, nargs="+", choices=list(Kind))
    parser.add_argument("--port", type=int, help="a webhook's")
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--cards", type=int)
    parser.add_argument("--first", type=int, help="number of the first pod")
    parser.add_argument("--pods", type=int)
    parser.add_argument("--scheduler", nargs=2, type=Path, metavar="FILE", help="certificate and key for its metrics")
    options = parser.parse_args()
    if options.what == "metrics":
        print(_read(f"https://127.0.0.1:{options.port}/metrics", _trusting()))
        return
    with connect(options.kubeconfig) as api:
        if options.what == "nodes":
            make_nodes(api, options.kinds, options.nodes, options.cards)
        elif options.what == "pods":
            (kind,) = options.kinds
            numbers = range(options.first, options.first + options.pods)
            print(json.dumps(place(api, kind, numbers, Scheduler(*options.scheduler))))
        else:
            for kind in options.kinds:
                check(api, kind, options.pods)


def make_nodes(api: ObjectClient, kinds: Sequence[Kind], nodes: int, cards: int) -> None:
    """Nodes with their slices, and what pods need."""

    def make(number: int) -> None:
        for item in cards_of(api.create(NODES, node(number)), cards, kinds[0]):
            api.create(SLICES, item)

    _all(make, range(nodes))
    for kind in kinds:
        api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kind.namespace}})
    for path, document in {path: row for kind in kinds for path, row in surroundings(kind)}.items():
        parent, _, plural = path.rpartition("/")
        api.create(Listed(parent, plural), document)
    _until(lambda: _ready(api) == nodes, "all nodes are ready")


def _ready(api: ObjectClient) -> int:
    conditions = (item["status"].get("conditions", ()) for item in api.each(NODES))
    return sum(any(row["type"] == "Ready" and row["status"] == "True" for row in rows) for rows in conditions)


def place(api: ObjectClient, kind: Kind, numbers: Sequence[int], scheduler: Scheduler) -> dict[str, float]:
    """Create these pods as fast as the API server takes them; seconds until it had all, and until all were placed."""
    before = scheduler.placed()
    began = time.monotonic()
    created: list[float] = []

    def create() -> None:
        _all(lambda number: api.create(PODS, pod(number, kind), kind.namespace), numbers)
        created.append(time.monotonic() - began)

    thread = threading.Thread(target=create)
    thread.start()
    placed, moved = 0, began
    while placed < len(numbers):
        time.sleep(_POLL_S)
        last, placed, now = placed, scheduler.placed() - before, time.monotonic()
        moved = now if placed > last else moved
        assert now - moved < _STALLED_S, f"no pod is placed any more; {placed} of {len(numbers)} are"
    thread.join()
    return {"created_s": created[0], "placed_s": now - began}


def check(api: ObjectClient, kind: Kind, pods: int) -> None:
    """Every pod has its place, and no card has more than it has."""
    placed = sum("nodeName" in item["spec"] for item in api.each(PODS, kind.namespace))
    assert placed == pods, f"{placed} of {pods} pods are placed"
    results = [
        result
        for claim in api.each(CLAIMS, kind.namespace)
        for result in claim["status"]["allocation"]["devices"]["results"]
    ]
    assert len(results) == pods, f"{len(results)} of {pods} claims are allocated"
    most = 1 if kind is Kind.WHOLE else 79 // MEMORY_GIB
    fullest = max(Counter((row["pool"], row["device"]) for row in results).values())
    assert fullest <= most, f"{fullest} claims have one card"


class Scheduler:
    """Its counters, read with a client's certificate."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = _trusting()
        self._context.load_cert_chain(certificate, key)

    def placed(self) -> int:
        """Pods that it has placed since it began."""
        return sum(int(float(count)) for count in _PLACED.findall(_read(_SCHEDULER, self._context)))


def _trusting() -> ssl.SSLContext:
    """Takes any certificate: both sign their own, and this is the loopback device."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _read(url: str, context: ssl.SSLContext) -> str:
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def _all(action: Callable[[int], object], numbers: Iterable[int]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(action, numbers):
            pass


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _STALLED_S
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main()

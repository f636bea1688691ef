"""A publisher of a Node without a kubelet, on a host of its own choice.

    python -m tests.e2e.kube.bare_publisher KUBECONFIG NODE ROOT

It has two cards; the second is lost where the file ROOT/lost is. Whether Alibaba's cGPU is active is read below ROOT.
It ends with its standard input.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from cgpu.adapters.alibaba import sign_of_cgpu
from cgpu.adapters.kube_objects import connect
from cgpu.k8s.publisher import Publisher
from cgpu.k8s.slices import Card
from cgpu.model.units import GIB
from cgpu.testing.fakes import gpu


class Cards:
    """What the node has."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def cards(self) -> list[Card]:
        """See cgpu.k8s.publisher."""
        lost = "lost" if (self._root / "lost").exists() else ""
        first = Card(gpu(0), 15 * GIB, memory_layer="shim", policy="fair")
        return [first, Card(gpu(1), 15 * GIB, memory_layer="shim", policy="fair", unhealthy=lost, evict=bool(lost))]

    def allocated_bytes(self) -> Mapping[str, int]:
        """See cgpu.k8s.publisher."""
        return {}


def main() -> None:
    """Publish until the end of the input."""
    kubeconfig, node, root = sys.argv[1:]
    publisher = Publisher(connect(Path(kubeconfig)), node, Cards(Path(root)), module=lambda: sign_of_cgpu(Path(root)))
    threading.Thread(target=publisher.run, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()

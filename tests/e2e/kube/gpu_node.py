"""cGPU's node driver on a node of the cluster: the agent as a process of the node, on simulated cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tests.e2e.kube.worker import Worker
from tests.e2e.node import Node


@dataclass
class GpuNode(Node):
    """A context manager. ``label`` is the node's ``ack.node.gpu.schedule``."""

    worker: Worker | None = None
    label: str = "core_mem"

    def __enter__(self) -> Self:
        assert self.worker
        self.make_machine()
        self.start_agent()
        self.worker.control_plane.kubectl("label", "node", self.worker.name, f"ack.node.gpu.schedule={self.label}")
        return self

    def start_agent(self, *options: str) -> None:
        """Start the agent as this node's driver, and wait until it answers."""
        assert self.worker
        admin = self.worker.control_plane.admin
        driver = ("--kubernetes", f"--node-name={self.worker.name}", f"--kubeconfig={admin}")
        super().start_agent(*driver, *options)

"""cGPU's node driver on a node of the cluster: the agent as a process of the node, on simulated cards."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cgpu.sim.machine import SimMachine
from tests.e2e.host import eventually
from tests.e2e.kube.worker import Worker
from tests.e2e.node import Node


@dataclass
class GpuNode(Node):
    """A context manager. ``label`` is the node's ``ack.node.gpu.schedule``."""

    worker: Worker | None = None
    label: str = "core_mem"
    options: tuple[str, ...] = field(default=())

    def __enter__(self) -> Self:
        assert self.worker
        self.folder.mkdir()
        self.machine = SimMachine.create(self.folder / "machine", self.profile, driver=self.driver, cards=self.cards)
        for path in (self.machine.folder, *self.machine.folder.iterdir()):  # for containers whose user is not root
            path.chmod(0o777)
        self.start_agent()
        self.worker.control_plane.kubectl("label", "node", self.worker.name, f"ack.node.gpu.schedule={self.label}")
        return self

    def start_agent(self) -> None:
        """Start the agent as this node's driver, and wait until it answers."""
        assert self.worker
        admin = self.worker.control_plane.admin
        command = ["agent", "--kubernetes", f"--node-name={self.worker.name}", f"--kubeconfig={admin}"]
        log: Path = self.folder / "agent.log"
        process = self.host.start(sys.executable, "-m", "cgpu", *command, *self.options, log=log, env=self.environment)
        self.agent = process
        eventually(lambda: self.answers() or process.poll() is not None, "the agent answers")
        assert process.poll() is None, log.read_text()[-2000:]

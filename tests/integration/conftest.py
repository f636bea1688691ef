"""A simulated machine of one's own, with agents and tenants on it that end with the test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import cgpu
from cgpu.adapters.agent_client import AgentClient
from cgpu.agent.locks import agent_has_ended
from cgpu.errors import CgpuError
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine
from tests.integration.fake_api import FakeApi

SECONDS = 60.0  # more than anything here takes on a busy machine
CGPU = (sys.executable, "-m", "cgpu")
CLIENT = (sys.executable, "-m", "cgpu.sim.demo_client")


@dataclass
class Node:
    """A simulated machine, the folder of its agents, and what was started on it."""

    folder: Path
    machine: SimMachine
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What puts ``cgpu`` and its children on this node."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
        source = str(Path(cgpu.__file__).parents[1])
        return {
            **inherited,
            **self.machine.environment(inherited),
            "CGPU_RUNTIME_DIR": str(self.folder / "run"),
            "CGPU_LOCK_DIR": str(self.folder),
            "PYTHONPATH": os.pathsep.join([source, *filter(None, [inherited.get("PYTHONPATH")])]),
        }

    @property
    def settings(self) -> Settings:
        """The settings of a process on this node."""
        return Settings.from_environment(self.environment)

    @property
    def client(self) -> AgentClient:
        """The node's agent."""
        return AgentClient(self.settings.agent_socket, SECONDS)

    def cgpu(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``cgpu`` to its end."""
        options.setdefault("env", self.environment)
        return subprocess.run([*CGPU, *arguments], text=True, capture_output=True, timeout=SECONDS, **options)

    def json(self, *arguments: str) -> Any:
        """Run ``cgpu ... --json`` and read what it prints."""
        result = self.cgpu(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``cgpu`` with pipes."""
        process = subprocess.Popen(
            [*CGPU, *arguments],
            env=self.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def start_client(self, *what: str, memory: str = "2GiB", options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start the demo's client as a tenant."""
        return self.start("run", "--memory", memory, *options, "--", *CLIENT, *what)

    def start_agent(self, *arguments: str) -> subprocess.Popen[str]:
        """Start an agent, and wait until it answers."""
        process = self.start("agent", *arguments)
        eventually(lambda: self.answers() or process.poll() is not None)
        return process

    def answers(self) -> bool:
        """Whether an agent answers."""
        try:
            self.client.get("/v1/info")
        except CgpuError:
            return False
        return True

    def agent_pid(self) -> int:
        """Of the agent that answers."""
        pid: int = self.client.get("/v1/info")["pid"]
        return pid

    def share(self, name: str) -> dict[str, Any]:
        """The first share of a tenant."""
        tenant = next(row for row in self.client.get("/v1/tenants") if row["name"] == name)
        share: dict[str, Any] = tenant["shares"][0]
        return share

    def callers_tenants(self) -> list[str]:
        """The tenants that are to end by themselves."""
        try:
            return [row["id"] for row in self.client.get("/v1/tenants") if row["lifetime"] == "caller"]
        except CgpuError:
            return []

    def close(self) -> None:
        """End everything that was started here, the private agent included."""
        for process in self.started:
            process.kill()
            process.wait(SECONDS)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        eventually(lambda: not self.callers_tenants())
        with contextlib.suppress(CgpuError):
            os.kill(self.agent_pid(), signal.SIGTERM)
        assert agent_has_ended(self.settings.agent_lock, SECONDS)


def eventually(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for what another process is about to do; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a client."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    values: dict[str, Any] = json.loads(line)
    return values


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    """Makes nodes: ``make_node(cards=2)``."""
    nodes: list[Node] = []

    def make(profile: str = "t4", cards: int | None = None) -> Node:
        # Not pytest's folder: a socket's name has at most 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="cgpu-test-"))
        nodes.append(Node(folder, SimMachine.create(folder / "machine", profile, cards=cards)))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()
        shutil.rmtree(node.folder)


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """A simulated T4."""
    return make_node()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A served Kubernetes API."""
    with FakeApi().served() as served:
        yield served


@pytest.fixture
def config(api: FakeApi, tmp_path: Path) -> Path:
    """The kubeconfig of it."""
    file = tmp_path / "config"
    file.write_text(api.kubeconfig())
    return file

"""cGPU on the host: a simulated machine, the agent, and cgpu-runtime beside its configuration."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import cgpu
from cgpu.adapters.agent_client import AgentClient
from cgpu.adapters.native import RUNTIME, native_library
from cgpu.errors import CgpuError
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine
from tests.e2e.host import SECONDS, Host, Process, eventually
from tests.e2e.tools import SEARCHED, program
from tests.e2e.wanted import Result

SOURCE: Final = Path(cgpu.__file__).parents[1]
# The front starts `python -I`, which leaves PYTHONPATH out; the tests are to run on this source tree.
_PYTHON: Final = """#!/bin/sh
[ "$1" = -I ] && shift
PYTHONPATH={source} exec {python} "$@"
"""


@dataclass
class Node:
    """A simulated machine with an agent and an installed runtime. A context manager."""

    host: Host
    profile: str = "t4"
    cards: int | None = None
    driver: str | None = None
    name: str = "cgpu"
    agent: Process | None = None

    def __enter__(self) -> Self:
        self.make_machine()
        self._install()
        self.start_agent()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.agent
        self.host.stop(self.agent)

    def make_machine(self) -> None:
        """Make the folder and the simulated machine in it."""
        self.folder.mkdir()
        self.machine = SimMachine.create(self.folder / "machine", self.profile, driver=self.driver, cards=self.cards)
        for path in (self.machine.folder, *self.machine.folder.iterdir()):  # for containers whose user is not root
            path.chmod(0o777)

    @property
    def folder(self) -> Path:
        """Everything of this node."""
        return self.host.folder / self.name

    @property
    def environment(self) -> dict[str, str]:
        """What puts a command on this node."""
        return {
            "PATH": SEARCHED,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self.machine.environment({}),
            "CGPU_RUNTIME_DIR": str(self.folder / "run"),
            "CGPU_LOCK_DIR": str(self.folder),
            "PYTHONPATH": str(SOURCE),
        }

    @property
    def settings(self) -> Settings:
        """The settings of a process on this node."""
        return Settings.from_environment(self.environment)

    @property
    def client(self) -> AgentClient:
        """The agent."""
        return AgentClient(self.settings.agent_socket, SECONDS)

    @property
    def runtime(self) -> str:
        """The installed cgpu-runtime."""
        return str(self.folder / "bin" / "cgpu-runtime")

    def runtime_over(self, runtime: Path | str) -> str:
        """Another installed cgpu-runtime, over that runtime."""
        folder = self.folder / f"over-{Path(runtime).name}"
        shutil.copytree(Path(self.runtime).parent, folder, dirs_exist_ok=True)
        conf = folder / "cgpu-runtime.conf"
        lines = [line for line in conf.read_text().splitlines() if not line.startswith("runtime ")]
        conf.write_text("\n".join([*lines, f"runtime = {runtime}"]) + "\n")
        return str(folder / "cgpu-runtime")

    def start_agent(self, *options: str) -> None:
        """Start the agent, and wait until it answers."""
        self.agent = self.host.start(
            sys.executable, "-m", "cgpu", "agent", *options, log=self.folder / "agent.log", env=self.environment
        )
        process = self.agent
        eventually(lambda: self.answers() or process.poll() is not None, "the agent answers")
        assert process.poll() is None, (self.folder / "agent.log").read_text()[-2000:]

    def kill_agent(self) -> None:
        """End the agent without a word."""
        assert self.agent
        self.host.signal(self.agent, signal.SIGKILL)
        self.agent.wait()

    def answers(self) -> bool:
        """Whether the agent answers."""
        try:
            self.client.get("/v1/info")
        except CgpuError:
            return False
        return True

    def tenants(self) -> list[dict[str, Any]]:
        """The agent's tenants."""
        found: list[dict[str, Any]] = self.client.get("/v1/tenants")
        return found

    def nothing_left(self) -> bool:
        """Whether neither the agent nor its folder nor the cards know of a tenant."""
        folder = self.settings.tenants_dir
        regions = list(folder.iterdir()) if folder.is_dir() else []
        processes = [row for card in self.machine.status().cards for row in card.processes]
        return not self.tenants() and not regions and not processes

    def is_filled(self) -> bool:
        """Whether a tenant has been refused memory: what fills its slice has done so."""
        return any(share["oom_count"] for row in self.tenants() for share in row["shares"])

    def used_bytes(self) -> int:
        """The memory that processes hold on the cards, by the cards themselves."""
        return sum(row.memory_bytes for card in self.machine.status().cards for row in card.processes)

    def _install(self) -> None:
        binary = self.folder / "bin"
        binary.mkdir()
        shutil.copy(native_library(RUNTIME), binary / "cgpu-runtime")
        python = binary / "python"
        python.write_text(_PYTHON.format(source=SOURCE, python=sys.executable))
        python.chmod(0o755)
        values = {
            "runtime": program("runc"),
            "python": python,
            "socket": self.settings.agent_socket,
            "tenants": self.settings.tenants_dir,
            "sim_state": self.machine.folder,
        }
        (binary / "cgpu-runtime.conf").write_text("".join(f"{key} = {value}\n" for key, value in values.items()))


def told(result: Result) -> dict[str, Any]:
    """What a client printed, in one line of JSON."""
    assert result.returncode == 0, result.stderr
    values: dict[str, Any] = json.loads(result.stdout)
    return values

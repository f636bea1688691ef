"""The card of this suite: the real one, or with --on-simulated a simulated one that stands in for it.

    make test-gpu                              on the real card
    pytest tests/gpu -m gpu --on-simulated     the same bodies on a simulated card

The truth about memory is the driver's own NVML, asked outside all tenants; on the simulated card it is
the machine's status. The truth about time is in ``busy.py``. What a run has shown is left as a report (``report.py``).
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

import cgpu
from cgpu.adapters.agent_client import AgentClient
from cgpu.adapters.nvml import NvmlNode
from cgpu.agent.locks import agent_has_ended
from cgpu.doctor.probes.system import cgroup_version
from cgpu.errors import DriverError
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine
from tests.gpu.report import About, Findings
from tests.gpu.reporter import ABOUT, DEFAULT, FINDINGS, Reporter
from tests.integration.conftest import CGPU, eventually
from tests.native import memory_tenant
from tests.native.memory_tenant import Client

SECONDS = 20.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on-simulated", action="store_true", help="tests/gpu on a simulated card instead of the real one"
    )
    parser.addoption("--report", metavar="FILE.json", help=f"of tests/gpu; {DEFAULT} unless told, and .md beside it")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reporter(config))


@dataclass
class Card:
    """GPU 0 with a private agent of its own, and the tenants that a test has put on it."""

    folder: Path
    machine: SimMachine | None
    """None: the real card."""
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def made(cls, profile: str | None) -> Iterator[Self]:
        """On a simulated card of that profile, or None: on the real one. In a folder that goes with it."""
        # Not pytest's folder: a socket's name has at most 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="cgpu-test-"))
        card = cls(folder, SimMachine.create(folder / "machine", profile) if profile else None)
        try:
            yield card
        finally:
            card.close()
            shutil.rmtree(folder)

    @property
    def environment(self) -> dict[str, str]:
        """What puts ``cgpu`` and its children on this card."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
        source = str(Path(cgpu.__file__).parents[1])
        # On the real card the locks are where everybody's are: another agent of it is an error.
        simulated = {"CGPU_LOCK_DIR": str(self.folder), **self.machine.environment(inherited)} if self.machine else {}
        return {
            **inherited,
            **simulated,
            "CGPU_RUNTIME_DIR": str(self.folder / "run"),
            "PYTHONPATH": source,
        }

    @property
    def agent(self) -> AgentClient:
        """The private agent."""
        return AgentClient(Settings.from_environment(self.environment).agent_socket, SECONDS)

    def share(self, name: str) -> dict[str, Any]:
        """What the agent says of a tenant's share; empty when there is no such tenant."""
        rows = [row["shares"][0] for row in self.agent.get("/v1/tenants") if row["name"] == name]
        return rows[0] if rows else {}

    def start(self, name: str, *command: str, memory: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a tenant with pipes."""
        process = subprocess.Popen(
            [*CGPU, "run", "--name", name, "--memory", memory, *options, "--", *command],
            env=self.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def tenant(self, name: str, memory: str, options: tuple[str, ...] = ()) -> Client:
        """Start a tenant whose process does what it is told, with a context."""
        command = (sys.executable, str(memory_tenant.CLIENT), "dlsym")
        client = Client(self.start(name, *command, memory=memory, options=options))
        client.start_context()
        client.do(memory_tenant.PRELUDE + "free, total = out(), out()")
        if self.machine is None and self.held_bytes(client.pid) == 0:
            pytest.skip("NVML does not list this test's processes: it needs the host's PID namespace")
        return client

    def held_bytes(self, pid: int) -> int:
        """The truth: what the card holds for a process, context included; 0 when it holds nothing."""
        if self.machine:
            return sum(row.memory_bytes for row in self.machine.status().cards[0].processes if row.pid == pid)
        node = NvmlNode()
        try:
            held = [row.memory_bytes for row in node.processes(node.gpus()[0]) if row.host_pid == pid]
        finally:
            node.close()
        if None in held:
            pytest.skip("this driver does not say how much memory a process holds")
        return sum(size or 0 for size in held)

    def close(self) -> None:
        """End the tenants, and wait for the agent to end with the last of them."""
        for process in self.started:
            process.kill()
            process.communicate()
        assert agent_has_ended(Settings.from_environment(self.environment).agent_lock, SECONDS)


def _why_no_real_card() -> str:
    """Empty when there is one that this suite can use."""
    try:
        node = NvmlNode()
    except DriverError as error:
        return f"no NVIDIA driver: {error}"
    gpus = node.gpus()
    node.close()
    return "" if gpus else "NVML finds no GPU"


@pytest.fixture(scope="session")
def profile(request: pytest.FixtureRequest) -> str | None:
    """The simulated card; None: the real one. Skips where there is none, and has the report say what it is."""
    simulated = request.config.getoption("--on-simulated", default=False)
    if not simulated and (cause := _why_no_real_card()):
        pytest.skip(f"needs a real NVIDIA GPU: {cause}")
    name = "a100-40" if simulated else None
    with Card.made(name) as card:
        request.config.stash[ABOUT] = _about(card)
    return name


def _about(card: Card) -> About:
    """By the agent's API, with a tenant there."""
    client = Client(card.start("about", sys.executable, str(memory_tenant.CLIENT), "dlsym", memory="2GiB"))
    client.start_context()
    share, gpu = card.share("about"), card.agent.get("/v1/gpus")[0]
    cgroups = cgroup_version(Path("/proc/self/mountinfo").read_text())
    return About(
        simulated=gpu["simulated"],
        card=gpu["name"] + (", MIG" if gpu["mig"] else ""),
        memory_bytes=gpu["total_bytes"],
        driver=gpu["driver_version"],
        memory_layer=share["memory_layer"],
        memory_layers=tuple(gpu["memory_layers"]),
        compute_layer=share["compute_layer"],
        kernel=f"{platform.system()} {platform.release()}",
        cgroups=f"version {cgroups}" if cgroups else "none",
        machine=f"{platform.machine()}, {os.cpu_count()} processors, {' '.join(platform.libc_ver())}",
        load=os.getloadavg()[0],
        cgpu=cgpu.__version__,
        day=datetime.now(UTC).date().isoformat(),
    )


@pytest.fixture
def findings(request: pytest.FixtureRequest) -> Findings:
    """What the test finds, for the report."""
    found = Findings()
    request.node.stash[FINDINGS] = found
    return found


@pytest.fixture
def card(profile: str | None) -> Iterator[Card]:
    """The card, with nobody on it but what the test starts."""
    with Card.made(profile) as made:
        yield made


@pytest.fixture
def settled(card: Card) -> Callable[[str, Client], int]:
    """Wait until a tenant of one process is charged what the card holds for it, and say how much that is.

    A process returns what was estimated too high at its next allocation, so it makes some.
    """

    def wait(name: str, client: Client) -> int:
        def exact() -> bool:
            assert (client.alloc(memory_tenant.GRANULE, "probe"), client.free("probe")) == (0, 0)
            free, total = client.do("[cu.cuMemGetInfo_v2(R(free), R(total)), free.value, total.value][1:]")
            return bool(total - free == card.share(name)["used_bytes"] == card.held_bytes(client.pid))

        eventually(exact, seconds=SECONDS)
        return card.held_bytes(client.pid)

    return wait

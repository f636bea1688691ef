"""A node in memory, and agents on it that can die and come back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.agent.documents import ProcessRef
from cgpu.agent.ledger import Ledger
from cgpu.agent.locks import GpuLocks
from cgpu.agent.reconcile import Reconciler, Watched
from cgpu.agent.state import NodeState
from cgpu.agent.wishes import Caller
from cgpu.errors import CgpuError
from cgpu.model.account import Counters
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import Share, Tenant
from cgpu.model.units import GIB, MIB
from cgpu.region.layout import Grants, GrantsGpu
from cgpu.testing.fakes import GPU_UUIDS, FakeArbiter, FakeHost, FakeNode, gpu

_AGENTS: Final[list[NodeState]] = []  # of the test that runs: most of them "die", and keep their files open


@dataclass
class World:
    """What outlives an agent: the folder, the host and the cards."""

    folder: Path
    node: FakeNode = field(default_factory=lambda: FakeNode((gpu(0), gpu(1))))
    host: FakeHost = field(default_factory=FakeHost)
    arbiter: FakeArbiter = field(default_factory=FakeArbiter)
    account: str = "account.sqlite3"  # the ledger's file
    context_bytes: int | None = None  # what the agent measures; None: it cannot
    now_ns: int = 0
    started_s: float = 1_700_000_040.0  # wall clock at now_ns 0: the beginning of a minute

    def agent(
        self, step: Callable[[str], None] = lambda _: None, check_node: Callable[[], None] = lambda: None
    ) -> NodeState:
        """A new agent on this world, not yet recovered."""
        self.arbiter = FakeArbiter()
        (self.folder / "locks").mkdir(exist_ok=True)
        state = NodeState(
            tenants_dir=self.folder / "tenants",
            node=self.node,
            store=CheckpointStore(self.folder / "checkpoint.json", step),
            arbiter=self.arbiter,
            cgroups=self.host,
            processes=self.host,
            locks=GpuLocks(self.folder / "locks"),
            ledger=Ledger(self.folder / self.account, self.wall_clock, step),
            measure_context=lambda _: self.context_bytes,
            unmeasured_context_bytes=100 * MIB,
            clock_ns=lambda: self.now_ns,
            check_node=check_node,
            step=step,
        )
        _AGENTS.append(state)
        return state

    def wall_clock(self) -> float:
        """Unix seconds."""
        return self.started_s + self.now_ns / 10**9

    def recovered(self) -> NodeState:
        """A new agent that has recovered."""
        state = self.agent()
        state.recover()
        return state

    def reconciler(self, state: NodeState) -> Reconciler:
        """The comparison loop of an agent."""
        return Reconciler(state, self.node)

    def tick(self, reconciler: Reconciler, seconds: float = 0.5) -> Watched:
        """Time passes, and the agent compares."""
        self.now_ns += round(seconds * 10**9)
        return reconciler.tick(self.now_ns)

    def caller(self, host_pid: int) -> Caller:
        """A running process that asks for a tenant."""
        return Caller(ProcessRef(host_pid, self.host.spawn(host_pid).identity.start_ticks))


def tenant(name: str = "a", memory_bytes: int = 2 * GIB, *, gpus: tuple[int, ...] = (0,), **share: int) -> Tenant:
    """A wish for a tenant; ``share`` is what else it has of each GPU."""
    return Tenant(name, name, tuple(Share(GPU_UUIDS[index], memory_bytes, **share) for index in gpus))


def write_counters(region: Path, counters: Counters, row: int = 0) -> None:
    """What the arbiter has counted so far."""
    names = ("busy_ns", "waited_ns", "turns", "preempted", "preempting")
    with (region / GRANTS).open("r+b") as file:
        for name, value in zip(names, counters.values(), strict=True):
            place = Grants.gpu.offset + row * ctypes.sizeof(GrantsGpu) + getattr(GrantsGpu, name).offset
            file.seek(place)
            file.write(value.to_bytes(8, "little"))


@pytest.fixture(autouse=True)
def no_files_left_open() -> Iterator[None]:
    yield
    for agent in _AGENTS:
        with suppress(CgpuError):  # the test has broken what it stands on
            agent.close()
    _AGENTS.clear()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def state(world: World) -> NodeState:
    return world.recovered()

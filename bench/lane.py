"""One simulated machine with its agent, tenants and bare clients: where one cell is measured at a time."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from bench.load import Load
from bench.machine import CGPU
from bench.own_agent import START_SECONDS, own_environment, start_agent
from bench.window import Look
from cgpu.adapters.agent_client import AgentClient, gpu_path, tenant_path
from cgpu.model.tenant import PRIO_RATIO_DEFAULT, QUANTUM_MS_DEFAULT
from cgpu.region.reader import RegionReader
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine

MEMORY: Final = "256MiB"
_POLICY: Final = {"prio_ratio": PRIO_RATIO_DEFAULT, "quantum_ms": QUANTUM_MS_DEFAULT, "share_slots": False}
_LEAST: Final = {"weight": 1, "compute_percent": 1, "compute_limit_percent": 100, "priority": 0}
AT_ONCE: Final = 4  # clients that start together: the machine has few processors
_BEATS: Final = 8  # readings until one falls between two heartbeats of the arbiter


class Lane:
    """A context manager: ends all that it started. Clients are started at first need and stay."""

    def __init__(self, folder: Path, program: Path, profile: str) -> None:
        """``folder``: a short path (it holds a socket); ``program``: the compiled client."""
        self._folder = folder
        self._program = program
        self._profile = profile
        self._bare: list[Load] = []
        self._tenants: list[Load] = []
        self._readers: list[RegionReader] = []
        self._shares: list[dict[str, int]] = []  # what has been set, by tenant
        self._policy: dict[str, Any] = {}

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, program: Path, profile: str) -> Iterator[Self]:
        """In a folder that goes with it."""
        with tempfile.TemporaryDirectory(prefix="cgpu-bench-") as folder, cls(Path(folder), program, profile) as lane:
            yield lane

    def __enter__(self) -> Self:
        self.machine = SimMachine.create(self._folder / "machine", self._profile)
        self._environment = own_environment(self._folder, self.machine)
        settings = Settings.from_environment(self._environment)
        self.client = AgentClient(settings.agent_socket, START_SECONDS)
        self._start_agent()
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers:
            reader.close()
        for load in (*self._bare, *self._tenants):
            load.kill()
        self._agent.send_signal(signal.SIGCONT)
        self._agent.terminate()
        self._agent.wait()

    @property
    def agent_pid(self) -> int:
        """Of the agent's process."""
        return self._agent.pid

    def kill_agent(self) -> None:
        """End the agent at once; the tenants run on."""
        self._agent.kill()
        self._agent.wait()

    def restart_agent(self) -> None:
        """Another agent in the place of one that has ended."""
        self._start_agent()

    def stop_agent(self) -> None:
        """The agent does nothing from now on."""
        self._agent.send_signal(signal.SIGSTOP)

    def continue_agent(self) -> None:
        """After ``stop_agent``."""
        self._agent.send_signal(signal.SIGCONT)

    def bare(self, count: int) -> list[Load]:
        """So many clients without cgpu."""
        self._start(self._bare, count, lambda _: [])
        return self._bare[:count]

    def end_bare(self) -> None:
        """End the clients without cgpu: each process on the machine makes the driver's calls dearer."""
        for load in self._bare:
            load.close()
        self._bare.clear()

    def tenants(self, count: int) -> list[Load]:
        """The first so many tenants, each with one client."""
        known = len(self._tenants)
        run = [*CGPU, "run", "--memory", MEMORY, "--compute", "1", "--name"]
        self._start(self._tenants, count, lambda index: [*run, tenant_name(index), "--"])
        for index in range(known, count):
            self._shares.append({"compute_percent": 1})
            self._readers.append(RegionReader(Path(self.client.get(tenant_path(tenant_name(index)))["region"])))
        return self._tenants[:count]

    def configure(self, policy: Mapping[str, Any], shares: Sequence[Mapping[str, int]]) -> None:
        """The card's policy and the first tenants' shares, by the API's names; the others' are the least.

        Raises CgpuError where the agent does not take them.
        """
        unneeded = range(len(shares), len(self._tenants))
        for index in (*unneeded, *range(len(shares))):
            self._set_share(index, shares[index] if index < len(shares) else {})
        wanted = {**_POLICY, **policy}
        if wanted != self._policy:
            self.client.patch(gpu_path("0"), wanted)
            self._policy = wanted

    def look(self) -> Look:
        """The card's truth, and what the arbiter has charged, now."""
        status = self.machine.status()
        card = status.cards[0]
        beat_ns, held = self._held()
        return Look(
            time_ns=status.time_ns,
            busy_ns=card.busy_ns,
            busy_by_pid={row.pid: row.busy_ns for row in card.processes},
            beat_ns=beat_ns,
            held_by_pid=dict(zip((load.pid for load in self._tenants), held, strict=True)),
        )

    def _set_share(self, index: int, share: Mapping[str, int]) -> None:
        known = self._shares[index]
        wanted = {**{name: _LEAST[name] for name in known}, **share}
        change = {name: value for name, value in wanted.items() if known.get(name) != value}
        if change:
            self.client.patch(tenant_path(tenant_name(index)), change)
            known.update(change)

    def _held(self) -> tuple[int, list[int]]:
        """What each tenant was charged up to one heartbeat, and when that was."""
        for _ in range(_BEATS):
            grants = [reader.grants() for reader in self._readers]
            beats = {snapshot.heartbeat_ns for snapshot in grants}
            if len(beats) <= 1:
                break
        return max(beats, default=0), [snapshot.gpus[0].busy_ns for snapshot in grants]

    def _start(self, loads: list[Load], count: int, prefix: Callable[[int], list[str]]) -> None:
        while len(loads) < count:
            here = range(len(loads), min(count, len(loads) + AT_ONCE))
            new = [Load([*prefix(index), self._program], self._environment) for index in here]
            loads.extend(new)
            for load in new:
                load.wait_ready()

    def _start_agent(self) -> None:
        self._agent = start_agent(self._environment, self._folder / "agent.log")


def tenant_name(index: int) -> str:
    """Of the tenant with that number."""
    return f"t{index}"

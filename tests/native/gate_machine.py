"""Tenants that share the time of simulated cards, for the tests of the gate and the arbiter.

The regions and the arbiter are the product's own, without an agent. The truth about the cards is the
simulated machine's status, never what the shim or the arbiter say.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from cgpu.adapters.arbiter import NativeArbiter
from cgpu.adapters.native import SHIM, native_library
from cgpu.model.tenant import Gpu, GpuPolicy, Policy, Share, Tenant
from cgpu.region.writer import Owner, Row, create_region
from cgpu.sim import control
from native import build
from tests.native.c_compiler import compile_c

CLIENTS: Final = Path(__file__).with_name("clients")
MEMORY_BYTES: Final = 1 << 30
CONTEXT_BYTES: Final = 300 << 20
PROFILE: Final = build.NATIVE.parent / "src" / "cgpu" / "sim" / "profiles" / "t4.toml"
END_S: Final = 60


def build_client(folder: Path, name: str) -> Path:
    """Compile clients/gate_NAME.c."""
    return compile_c(folder / f"gate_{name}", [CLIENTS / f"gate_{name}.c"], libraries=["-pthread"])


@dataclass
class Client:
    """A program in a tenant, which has its context and waits for the word to begin."""

    process: subprocess.Popen[str]
    region: Path

    def begin(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("begin\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        """Tell it one line; its answer, and nothing when it has ended."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self, timeout_s: float = END_S) -> str:
        """Close its input and wait; what it said."""
        said, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0
        return said.strip()


@dataclass(frozen=True)
class Window:
    """What the cards did in a stretch of time."""

    elapsed_ns: int
    busy_ns: dict[int, int]  # of card 0, by pid

    def shares(self, clients: Sequence[Client]) -> list[float]:
        """Each client's part of the time in which the card was busy."""
        total = sum(self.busy_ns.values())
        return [self.busy_ns[client.process.pid] / total for client in clients]

    @property
    def busy(self) -> float:
        """The part of the time in which the card was busy."""
        return sum(self.busy_ns.values()) / self.elapsed_ns


@dataclass
class SharedMachine:
    """A simulated machine with an arbiter on each card. A context manager: ends all it started."""

    folder: Path
    policy: Policy = Policy.PREEMPTIVE
    cards: int = 1
    profile: Path = PROFILE
    arbiter: NativeArbiter = field(default_factory=NativeArbiter)
    gpus: list[Gpu] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._state.mkdir(parents=True)
        control.create(self._state, self.profile, None, self.cards)
        for index, card in enumerate(self.status()):
            self.gpus.append(Gpu(index, card["uuid"], card["name"], card["total_bytes"], "", simulated=True))
            self.arbiter.set_policy(self.gpus[-1], self.policy, GpuPolicy())
        self.arbiter.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.process.kill()
            client.process.communicate()
        self.arbiter.stop()

    @property
    def _state(self) -> Path:
        return self.folder / "state"

    def status(self) -> list[dict[str, Any]]:
        """The truth about the cards."""
        cards: list[dict[str, Any]] = json.loads(control.status_json(self._state))["cards"]
        return cards

    @staticmethod
    def share(gpu: Gpu, weight: int = 1) -> Share:
        """What every tenant has of a card."""
        return Share(gpu.uuid, MEMORY_BYTES, weight=weight)

    def tenant(self, weight: int = 1) -> Path:
        """A new tenant with a share of every card; its region."""
        name = f"tenant-{len(list(self.folder.iterdir()))}"
        shares = [self.share(gpu, weight) for gpu in self.gpus]
        rows = tuple(Row(gpu, share, self.policy, CONTEXT_BYTES) for gpu, share in zip(self.gpus, shares, strict=True))
        region = self.folder / name
        create_region(region, Tenant(name, name, tuple(shares)), rows, Owner())
        for row, (gpu, share) in enumerate(zip(self.gpus, shares, strict=True)):
            self.arbiter.add_tenant(gpu, region, row, share)
        return region

    def environment(self, region: Path) -> dict[str, str]:
        """What puts a program into the tenant."""
        shim = native_library(SHIM)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
        own = {
            "LD_LIBRARY_PATH": str(shim.parent / "sim"),
            "LD_PRELOAD": str(shim),
            "CGPU_SIM_STATE": str(self._state),
            "CGPU_REGION": str(region),
        }
        return inherited | own

    def start(self, region: Path, program: Path, *arguments: object) -> Client:
        """Start a program in the tenant; returns when it is ready to begin."""
        process = subprocess.Popen(
            [str(program), *map(str, arguments)], env=self.environment(region),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        client = Client(process, region)
        self.clients.append(client)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return client

    def window(self, seconds: float) -> Window:
        """Watch card 0 for a while."""
        before, began_ns = self._busy_ns(), time.monotonic_ns()
        time.sleep(seconds)
        after, ended_ns = self._busy_ns(), time.monotonic_ns()
        return Window(ended_ns - began_ns, {pid: after[pid] - before.get(pid, 0) for pid in after})

    def _busy_ns(self) -> dict[int, int]:
        return {row["pid"]: int(row["busy_ns"]) for row in self.status()[0]["processes"]}


@contextlib.contextmanager
def stalls(found: list[float]) -> Iterator[None]:
    """Watches beside the block how much of the time this machine lets a sleeper oversleep; appends the part.

    Where it is much, the machine is too busy for a measurement of time.
    """
    script = (
        "import sys, threading, time\n"
        "end = threading.Event()\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()\n"
        "late, began = 0.0, time.monotonic()\n"
        "while not end.is_set():\n"
        "    due = time.monotonic() + 0.002\n"
        "    time.sleep(0.002)\n"
        "    over = time.monotonic() - due\n"
        "    late += over if over > 0.001 else 0\n"
        "print(late / (time.monotonic() - began))\n"
    )
    watcher = subprocess.Popen(["python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        said, _ = watcher.communicate()
        found.append(float(said))

"""However a tenant works, beside one with plain kernels it has half of the card: the card's own truth.

One machine with two cards serves all cases. Each case starts the tenant's processes anew, so that
nothing is known of their work; the rival's stay.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.load import Load
from bench.machine import compile_client
from cgpu.model.tenant import GpuPolicy, Policy
from cgpu.region.reader import RegionReader
from tests.integration.attempts import Watch, until_right
from tests.native.gate_machine import PROFILE, SharedMachine

pytestmark = [pytest.mark.timing, pytest.mark.timeout(180)]

SETTLE_S, WINDOW_S = 0.7, 3.0
ERROR = 0.03  # of the card's time
BUSY = 0.94  # a tenant with several queues leaves the card idle at the ends of its own turns
CARDS = 2
NO_SYNC = 0
KERNEL_NS = 1_000_000


@dataclass(frozen=True)
class Process:
    """What a process of the tenant does."""

    kind: str = "plain"
    stream: str = "null"
    threads: int = 1
    contexts: int = 1
    card: int = 0
    kernel_ns: int = KERNEL_NS


Cards = Mapping[int, Mapping[int, int]]
"""Time that a card has worked for a process, in ns: by card and pid."""


@dataclass
class Bed:
    """A machine with two tenants."""

    machine: SharedMachine
    program: Path
    tenant: Path
    rival: Path
    loads: list[Load] = field(default_factory=list)

    def start(self, region: Path, card: int) -> Load:
        load = Load([self.program, str(card)], self.machine.environment(region))
        self.loads.append(load)
        load.wait_ready()
        return load

    def policy(self, policy: Policy) -> None:
        for gpu in self.machine.gpus:
            self.machine.arbiter.set_policy(gpu, policy, GpuPolicy())

    def worked_ns(self) -> Cards:
        return {
            index: {row["pid"]: int(row["busy_ns"]) + int(row["copy_ns"]) for row in card["processes"]}
            for index, card in enumerate(self.machine.status())
        }

    def window(self, loads: Sequence[Load], watch: Watch) -> list[list[float]]:
        """Each card's part of a while in which it worked for each of these processes."""
        with watch():
            before, began_ns = self.worked_ns(), time.monotonic_ns()
            time.sleep(WINDOW_S)
            after, elapsed_ns = self.worked_ns(), time.monotonic_ns() - began_ns
        return [
            [(after[card].get(load.pid, 0) - before[card].get(load.pid, 0)) / elapsed_ns for load in loads]
            for card in range(CARDS)
        ]

    @contextlib.contextmanager
    def working(self, processes: Sequence[Process]) -> Iterator[list[Load]]:
        """New processes of the tenant, at work."""
        loads = [self.start(self.tenant, process.card) for process in processes]
        try:
            for load, process in zip(loads, processes, strict=True):
                load.streams(process.stream, process.threads, process.contexts)
                load.run(process.kind, process.kernel_ns, NO_SYNC)
            time.sleep(SETTLE_S)
            yield loads
        finally:
            for load in loads:
                load.close()
                self.loads.remove(load)
            self.reclaim()

    def reclaim(self) -> None:
        """Do what the agent would: return what the ended processes have charged."""
        with region_reader(self.tenant) as reader:
            for slot in reader.usage(CARDS).slots:
                if not slot.alive:
                    opened = reader.descriptors()
                    self.machine.arbiter.reclaim(self.tenant, [slot.index], (opened.usage, opened.locks))


def region_reader(region: Path) -> AbstractContextManager[RegionReader]:
    return contextlib.closing(RegionReader(region))


def slow_memory(folder: Path) -> Path:
    """A card whose memory does 1 GB/s: the simulated one really copies, and the host must not need longer."""
    changes = {"memory_clock_khz": 15_625, "bus_width_bits": 256, "memory_bytes_per_s": 1_000_000_000}
    lines = PROFILE.read_text().splitlines()
    kept = [line for line in lines if line.partition(" = ")[0] not in changes]
    profile = folder / "slow.toml"
    profile.write_text("\n".join([*kept, *(f"{name} = {value}" for name, value in changes.items())]) + "\n")
    return profile


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("kinds")
    program = compile_client("load", folder)
    with SharedMachine(folder / "machine", cards=CARDS, profile=slow_memory(folder)) as machine:
        bed = Bed(machine, program, machine.tenant(), machine.tenant())
        yield bed
        for load in bed.loads:
            load.kill()


@pytest.fixture(scope="module")
def rivals(bed: Bed) -> list[Load]:
    """The rival's process on each card, with plain kernels."""
    loads = [bed.start(bed.rival, card) for card in range(CARDS)]
    for load in loads:
        load.run("plain", KERNEL_NS, NO_SYNC)
    return loads


FOUR = 4
WAYS: Mapping[str, Sequence[Process]] = {
    "plain": [Process()],
    "launch-ex": [Process("ex")],
    "cooperative": [Process("cooperative")],
    "graph": [Process("graph")],
    "memset": [Process("memset")],
    "copy-on-the-card": [Process("memcpy")],
    # The simulated card's host frees between two pieces, in about 0.1 ms: so the pieces are long.
    "stream-ordered-memory": [Process("stream-ordered", kernel_ns=4 * KERNEL_NS)],
    "legacy-stream": [Process(stream="legacy")],
    "per-thread-stream": [Process(stream="per-thread")],
    "own-stream": [Process(stream="own")],
    "own-streams-of-threads": [Process(stream="own", threads=FOUR)],
    "per-thread-streams-of-threads": [Process(stream="per-thread", threads=FOUR)],
    "three-processes": [Process()] * 3,
    "contexts": [Process(stream="own", threads=2, contexts=2)],
    "cards": [Process(card=card) for card in range(CARDS)],
}


@pytest.mark.parametrize("processes", WAYS.values(), ids=WAYS)
def test_a_tenant_has_half_of_each_card_however_it_works(bed: Bed, rivals: list[Load], processes: list[Process]):
    bed.policy(Policy.PREEMPTIVE)

    def attempt(_: int, watch: Watch) -> str:
        with bed.working(processes) as loads:
            worked = bed.window([*loads, *rivals], watch)
        return "; ".join(wrong for card in cards_of(processes) if (wrong := not_halves(card, worked[card], len(loads))))

    until_right(attempt)


def cards_of(processes: Sequence[Process]) -> list[int]:
    return sorted({process.card for process in processes})


def not_halves(card: int, worked: Sequence[float], own: int) -> str:
    tenant, rival = sum(worked[:own]), sum(worked[own:])
    busy = tenant + rival
    right = abs(tenant / busy - 1 / 2) <= ERROR and abs(rival - 1 / 2) <= ERROR and busy >= BUSY
    return "" if right else f"card {card}: {tenant:.1%} beside {rival:.1%} of the time"


@pytest.mark.parametrize("count", [1, 3])
def test_without_the_gate_the_card_divides_its_time_by_processes(bed: Bed, rivals: list[Load], count: int):
    bed.policy(Policy.NATIVE)

    def attempt(_: int, watch: Watch) -> str:
        with bed.working([Process()] * count) as loads:
            before = at_the_gate(bed.tenant)
            worked = bed.window([*loads, *rivals[:1]], watch)[0]
            assert at_the_gate(bed.tenant) == before
        right = all(abs(part - 1 / (count + 1)) <= ERROR for part in worked)
        return "" if right else f"not {count + 1} equal parts: {', '.join(f'{part:.1%}' for part in worked)}"

    until_right(attempt)


def at_the_gate(region: Path) -> tuple[int, int, int]:
    """What the tenant has had from the arbiter, and how long its processes have waited for it."""
    with region_reader(region) as reader:
        granted, slots = reader.grants().gpus[0], reader.usage(1).slots
    return granted.turns, granted.busy_ns, sum(slot.gpus[0].waited_ns for slot in slots)

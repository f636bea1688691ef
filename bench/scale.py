"""A full host for ten minutes: 8 cards, 20 tenants on each, 5 processes in each, all of them coming and going.

    python -m bench.scale [--seconds 600] [--cards 8] [--tenants 20] [--processes 5] [--json FILE]

On the simulated GPU. Tenants end and others take their places, processes are killed, and meanwhile the agent's API
is asked ten times a second. The load is paced to leave a fifth of the processors. Exit code 1 when something of the
agent's has leaked (descriptors, memory, files, charges), a tenant had an error, or the API was slower than it may be.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final, Self

from bench.machine import CGPU, compile_client, describe_machine
from bench.memory import memory_of, processor_s
from bench.own_agent import own_environment, start_agent
from bench.percentiles import percentile
from cgpu.adapters.agent_client import AgentClient, gpu_path, tenant_path
from cgpu.errors import CgpuError, NoSuchTenantError
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine

QUOTA_MIB: Final = 640  # five contexts of 106 MiB, and little more: some allocations are refused
PACE: Final = 0.75  # of the processors: where more is used, pauses become longer
PAUSE_US: Final = 2_000_000  # between the calls of one process; with 30 of them it lives a minute
PAUSE_MOST_US: Final = 20_000_000
PACE_SECONDS: Final = 2.0
PACE_STEP: Final = 2.0  # a pause becomes at most so many times as long, or as short, at once
LOOK_SECONDS: Final = 5.0
ASK_SECONDS: Final = 0.1
AT_ONCE: Final = 4  # tenants that start together
ALL_TENANTS: Final = "all tenants"
API_P99_MS: Final = 20.0
GROWTH_MIB: Final = 4.0  # of the agent's memory, from a third of the time to the end
END_SECONDS: Final = 30.0
LEDGER: Final = "account.sqlite3"
SHARED_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Wanted:
    """Who is to be there."""

    seconds: float = 600.0
    cards: int = 8
    tenants: int = 20
    """On each card."""
    processes: int = 5
    """In each tenant."""
    process_pauses: int = 30
    """How many calls with pauses before them a process lives for, on average."""
    tenant_seconds: float = 240.0


@dataclass(frozen=True)
class Seen:
    """The agent at one moment of the run."""

    seconds: float
    tenants: int
    processes: int
    descriptors: int
    threads: int
    pss_mib: float
    agent_percent: float
    """Of one core, since the look before."""
    machine_percent: float
    """Of all processors, likewise."""


@dataclass
class Outcome:
    """What came of it."""

    looks: list[Seen] = field(default_factory=list)
    answers_ms: dict[str, list[float]] = field(default_factory=dict)
    ended: list[dict[str, int]] = field(default_factory=list)
    """What each tenant told at its end."""
    faults: list[str] = field(default_factory=list)


class Host:
    """A simulated machine with its agent and its tenants. A context manager."""

    def __init__(self, folder: Path, program: Path, cards: int) -> None:
        """``folder``: short, since it holds a socket."""
        self.machine = SimMachine.create(folder / "machine", "t4", cards=cards)
        self._environment = own_environment(folder, self.machine)
        settings = Settings.from_environment(self._environment)
        self.tenants_dir = settings.tenants_dir
        self.socket = settings.agent_socket
        self.client = AgentClient(self.socket, END_SECONDS)
        self._program = program
        self._log = folder / "agent.log"
        self._pause = folder / "pause"
        self.pause_us = float(PAUSE_US)
        self._pause.write_bytes(PAUSE_US.to_bytes(4, "little"))

    def __enter__(self) -> Self:
        self.agent = start_agent(self._environment, self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.terminate()
        self.agent.wait()

    def pace(self, factor: float) -> None:
        """Make the pauses of all processes so many times as long, from now on."""
        self.pause_us = min(PAUSE_MOST_US, max(PAUSE_US, self.pause_us * factor))
        with self._pause.open("r+b", buffering=0) as file:
            file.write(round(self.pause_us).to_bytes(4, "little"))

    def start(self, name: str, card: int, wanted: Wanted, seed: int) -> subprocess.Popen[str]:
        """A tenant that runs churn.c, in a process group of its own."""
        words = [str(wanted.processes), str(seed), str(self._pause), str(wanted.process_pauses)]
        run = [*CGPU, "run", "--gpu", str(card), "--memory", f"{QUOTA_MIB}MiB", "--compute", "2", "--name", name, "--"]
        return subprocess.Popen(
            [*run, str(self._program), *words],
            env=self._environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def wait_until_empty(self) -> None:
        """Until no tenant is left."""
        deadline = time.monotonic() + END_SECONDS
        while self.client.get("/v1/tenants") and time.monotonic() < deadline:
            time.sleep(0.1)

    def open_files(self) -> list[str]:
        """The agent's, without what is opened once: the ledger when a minute is over, a simulated card at a kill."""
        found = []
        for entry in Path(f"/proc/{self.agent.pid}/fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                found.append(str(entry.readlink()))
        return [name for name in found if LEDGER not in name and not name.startswith(str(self.machine.folder))]


class Churn:
    """Keeps the host full, each tenant for a while."""

    def __init__(self, host: Host, outcome: Outcome, wanted: Wanted) -> None:
        self._host, self._outcome, self._wanted = host, outcome, wanted
        self._chance = random.Random(1)
        self._places = [card for card in range(wanted.cards) for _ in range(wanted.tenants)]
        self._live: dict[int, tuple[subprocess.Popen[str], float, str]] = {}  # by place: when it ends, name
        self._numbers = iter(range(1 << 30))

    def fill(self) -> None:
        """Start what is missing."""
        missing = [place for place in range(len(self._places)) if place not in self._live]
        for first in range(0, len(missing), AT_ONCE):
            started = [(place, *self._start(place)) for place in missing[first : first + AT_ONCE]]
            for place, name, process in started:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    self._outcome.faults.append(f"{name} did not start: {process.communicate()[1].strip()}")
                    continue
                ends = time.monotonic() + self._wanted.tenant_seconds * (0.5 + self._chance.random())
                self._live[place] = process, ends, name

    def turn_over(self) -> None:
        """End those whose time has come, and start others."""
        due = [place for place, (_, ends, _) in self._live.items() if ends < time.monotonic()]
        for place in due[:AT_ONCE]:
            self._end(place)
        self.fill()

    def end(self) -> None:
        """End them all."""
        for place in list(self._live):
            self._end(place)

    def _start(self, place: int) -> tuple[str, subprocess.Popen[str]]:
        number = next(self._numbers)
        name = f"tenant-{number}"
        return name, self._host.start(name, self._places[place], self._wanted, number)

    def _end(self, place: int) -> None:
        process, _, name = self._live.pop(place)
        try:
            told, said = process.communicate("", timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            told, said = process.communicate()
            self._outcome.faults.append(f"{name} did not end")
        if process.returncode != 0 or not told:
            self._outcome.faults.append(f"{name} ended with {process.returncode}: {said.strip()[-500:]}")
            return
        counted = json.loads(told)
        self._outcome.ended.append(counted)
        if counted["errors"]:
            self._outcome.faults.append(f"{name}: {said.strip()[-500:]}")


def ask(socket: Path, stopping: Event, answers: Connection) -> None:
    """Question after question, as `cgpu ps`, `cgpu top`, an exporter and an administrator have them.

    Sends how long each took, by its kind, in ms, and what went wrong.
    """
    client, chance = AgentClient(socket, END_SECONDS), random.Random(2)
    took, faults = defaultdict[str, list[float]](list), list[str]()
    names = ["none"]

    def change(name: str) -> None:
        client.patch(tenant_path(name), {"weight": chance.randrange(1, 5)})

    questions: tuple[tuple[str, Callable[[str], Any]], ...] = (
        (ALL_TENANTS, lambda _: client.get("/v1/tenants")),
        ("all GPUs", lambda _: client.get("/v1/gpus")),
        ("one tenant", lambda name: client.get(tenant_path(name))),
        ("one GPU", lambda _: client.get(gpu_path("0"))),
        ("a change of a share", change),
    )
    while not stopping.wait(ASK_SECONDS):
        what, question = questions[chance.randrange(len(questions))]
        began = time.perf_counter()
        try:
            answer = question(chance.choice(names))
        except NoSuchTenantError:  # it has ended meanwhile
            continue
        except CgpuError as error:
            faults.append(f"{what}: {error}")
            continue
        took[what].append((time.perf_counter() - began) * 1000)
        if what == ALL_TENANTS:
            names = [row["name"] for row in answer] or names
    answers.send((dict(took), faults))


@contextmanager
def asked(host: Host, outcome: Outcome) -> Iterator[None]:
    """The agent is asked, by a process of its own: starting tenants holds up every other thread of this one."""
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=ask, args=(host.socket, stopping, sender))
    process.start()
    sender.close()  # with it, an end without a word is an error here
    try:
        yield
    finally:
        stopping.set()
        took, faults = receiver.recv()
        process.join()
        outcome.answers_ms.update(took)
        outcome.faults += faults


def _busy_and_all() -> tuple[int, int]:
    """Ticks of all processors so far (proc_stat(5)): without idle and iowait, and all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


class Watcher:
    """Looks at the agent, and at how busy the machine is."""

    def __init__(self, host: Host) -> None:
        self._host, self._began = host, time.monotonic()
        self._last = time.monotonic(), processor_s(host.agent.pid), _busy_and_all()

    def look(self) -> Seen:
        """Now."""
        pid, (then, agent_s, (busy, ticks)) = self._host.agent.pid, self._last
        self._last = time.monotonic(), processor_s(pid), _busy_and_all()
        now, agent_now_s, (busy_now, ticks_now) = self._last
        return Seen(
            seconds=round(now - self._began, 1),
            tenants=_entries(self._host.tenants_dir),
            processes=sum(len(card.processes) for card in self._host.machine.status().cards),
            descriptors=len(self._host.open_files()),
            threads=_entries(Path(f"/proc/{pid}/task")),
            pss_mib=round(memory_of(pid).pss / 1024, 1),
            agent_percent=round(100 * (agent_now_s - agent_s) / max(now - then, 0.001), 1),
            machine_percent=round(100 * (busy_now - busy) / max(ticks_now - ticks, 1), 1),
        )


def keep_pace(host: Host, stopping: threading.Event) -> None:
    """Leave a part of the processors free, from the first tenant on: a host that is full is not overfull."""
    busy, ticks = _busy_and_all()
    while not stopping.wait(PACE_SECONDS):
        busy_now, ticks_now = _busy_and_all()
        part = (busy_now - busy) / max(ticks_now - ticks, 1)
        host.pace(min(PACE_STEP, max(1 / PACE_STEP, part / PACE)))
        busy, ticks = busy_now, ticks_now


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """In a thread of its own until the end."""
    stopping = threading.Event()
    thread = threading.Thread(target=work, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def measure(wanted: Wanted) -> Outcome:
    """The whole run."""
    outcome = Outcome()
    with (
        # In memory: on a disk, the first write to a page of a card's memory reads around it.
        tempfile.TemporaryDirectory(
            prefix="cgpu-bench-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        ) as folder,
        Host(Path(folder), compile_client("churn", Path(folder)), wanted.cards) as host,
    ):
        once = Churn(host, outcome, replace(wanted, tenants=1, processes=1))
        once.fill()  # what the agent opens once for each card, it keeps
        once.end()
        host.wait_until_empty()
        churn, watcher = Churn(host, outcome, wanted), Watcher(host)
        outcome.looks.append(watcher.look())
        with beside(partial(keep_pace, host)):
            churn.fill()
            watcher.look()  # the start is not part of it
            deadline = time.monotonic() + wanted.seconds
            with asked(host, outcome):
                while (left := deadline - time.monotonic()) > 0:
                    time.sleep(min(LOOK_SECONDS, left))
                    seen = watcher.look()
                    outcome.looks.append(seen)
                    if sys.stderr.isatty():
                        print(f"{seen.seconds:6.0f} s  {seen}", file=sys.stderr)
                    churn.turn_over()
        churn.end()
        outcome.faults += _left(host, outcome.looks[0], watcher)
    return outcome


def _left(host: Host, before: Seen, watcher: Watcher) -> list[str]:
    """What is still there when everybody has gone."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        seen = watcher.look()
        left = {
            "tenants' folders": seen.tenants,
            "processes on the cards": seen.processes,
            "descriptors": seen.descriptors - before.descriptors,
            "threads": seen.threads - before.threads,
            "tenants in the API": len(host.client.get("/v1/tenants")),
        }
        found = [f"left at the end: {count} {what}" for what, count in left.items() if count > 0]
        if not found:
            return []
        if time.monotonic() > deadline:
            return [*found, "open files: " + ", ".join(sorted(host.open_files()))]
        time.sleep(0.2)


def judged(outcome: Outcome) -> dict[str, Any]:
    """The figures, and whether each is within its bound."""
    full = outcome.looks[1:]
    settled = full[len(full) // 3 :]
    fifth = max(1, len(settled) // 5)
    growth = statistics.median(row.pss_mib for row in settled[-fifth:]) - statistics.median(
        row.pss_mib for row in settled[:fifth]
    )
    answers = [value for values in outcome.answers_ms.values() for value in values] or [0.0]
    totals = {name: sum(row[name] for row in outcome.ended) for name in outcome.ended[0]} if outcome.ended else {}
    return {
        "api_p99_ms": round(percentile(answers, 99), 2),
        "api_p50_ms": round(percentile(answers, 50), 2),
        "api_by_question_ms": {
            name: {"p50": round(percentile(rows, 50), 2), "p99": round(percentile(rows, 99), 2)}
            for name, rows in sorted(outcome.answers_ms.items())
        },
        "growth_mib": round(growth, 2),
        "pss_mib": full[-1].pss_mib,
        "agent_percent": round(statistics.median(row.agent_percent for row in full), 1),
        "machine_percent": round(statistics.median(row.machine_percent for row in settled), 1),
        "descriptors": [full[0].descriptors, full[-1].descriptors],
        "processes": round(statistics.median(row.processes for row in full)),
        "tenants_ended": len(outcome.ended),
        "counted": totals,
        "faults": outcome.faults,
        "met": not outcome.faults and percentile(answers, 99) <= API_P99_MS and growth <= GROWTH_MIB,
    }


def main() -> int:
    """Run it and print; 1 when something is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=Wanted.seconds)
    parser.add_argument("--cards", type=int, default=Wanted.cards)
    parser.add_argument("--tenants", type=int, default=Wanted.tenants, help="on each card")
    parser.add_argument("--processes", type=int, default=Wanted.processes, help="in each tenant")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    outcome = measure(Wanted(options.seconds, options.cards, options.tenants, options.processes))
    result = judged(outcome)
    for name, value in result.items():
        if name != "faults":
            print(f"{name:20} {value}")
    for fault in outcome.faults[:20]:
        print(f"fault: {fault}", file=sys.stderr)
    if options.json:
        machine = describe_machine("simulated") | {"load_before": load_before}
        looks = [asdict(row) for row in outcome.looks]
        options.json.write_text(json.dumps({"machine": machine, **result, "looks": looks}, indent=2) + "\n")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

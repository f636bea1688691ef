"""Storms of ends: processes that are killed anywhere, agents that are, processes that stand still."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.card_truth import CardTruth
from bench.crash_place import PROFILE, STEADY_US, Child, Place, Tenant, eventually, stopped
from bench.crash_table import RATE, STOPPED_RATE, Result
from bench.crash_watch import HANG_NS, Watch
from cgpu.adapters.agent_client import tenant_path

CALM_SECONDS: Final = 2.0
GONE_SECONDS: Final = 5.0
TIGHT_MS: Final = 25.0
"""Within so many milliseconds of its first context a process is killed."""
STOP_SECONDS: Final = 0.06
LONG_STOP: Final = 20
"""Every so many stops one is long: longer than a call may take."""
LOOK_SECONDS: Final = 0.1
STOOD_STILL: Final = "The host stood still"
"""In a result's note."""


@dataclass
class Field:
    """A storm's ground: a tenant in which processes die, its sibling there, and a neighbour."""

    place: Place
    struck: Tenant
    survivors: dict[str, Child]
    dice: random.Random
    calm_seconds: float = CALM_SECONDS
    """How long the neighbour is watched before each storm."""
    least_kept: float = RATE
    """The part of its calls that it has to keep."""

    @property
    def neighbour(self) -> Child:
        """Of another tenant."""
        return self.survivors["neighbour"]


@contextlib.contextmanager
def field(
    program: Path,
    seed: int,
    calm_seconds: float = CALM_SECONDS,
    least_kept: float = RATE,
    profile: str | None = PROFILE,
) -> Iterator[Field]:
    """A card with two tenants whose processes are all at work; ``profile`` None: the real one."""
    with Place(program, profile=profile) as place:
        struck, other = place.tenant("struck"), place.tenant("neighbour")
        survivors = {"sibling": struck.churn(STEADY_US), "neighbour": other.churn(STEADY_US)}
        for child in survivors.values():
            if not child.wait_ready():
                raise SystemExit(f"bench.crashes: no context: {place.log.read_text()}{struck.said.read_text()}")
        yield Field(place, struck, survivors, random.Random(seed), calm_seconds, least_kept)


@contextlib.contextmanager
def storm(ground: Field, name: str, busy: Tenant | None = None) -> Iterator[tuple[Result, Watch]]:
    """Measures the neighbour's calls before and in it; judges who had to survive.

    Before it one process of ``busy`` works as those that are struck do, so that only the crashes differ.
    """
    result = Result(name, least_kept=ground.least_kept)
    calm = busy.churn() if busy else None
    if calm is not None:
        calm.wait_ready()
    before = _rate(ground.neighbour, ground.calm_seconds)
    if busy and calm:
        busy.forget(calm)
    calls, began = ground.neighbour.book.calls, time.monotonic()
    with Watch(ground.place, ground.survivors) as watch:
        yield result, watch
    seconds = time.monotonic() - began
    result.rates = (before, (ground.neighbour.book.calls - calls) / seconds)
    seen = watch.seen
    result.hangs += len(seen.hung)
    result.over, result.samples, result.fullest = seen.over, seen.samples, max(seen.fullest.values(), default=0.0)
    worst = [child.book.worst_ms for child in ground.survivors.values()]
    result.worst_ms = max(ms for ms, _ in worst), max(ms for _, ms in worst)
    result.misses += [f"{who} has ended" for who, child in ground.survivors.items() if not child.alive]
    result.misses += [f"tenant {tenant.name} has ended" for tenant in ground.place.tenants if not tenant.alive]
    if seen.stalls:
        result.note = f"{result.note} {STOOD_STILL} {seen.stalls} times.".strip()


def _rate(child: Child, seconds: float) -> float:
    calls, began = child.book.calls, time.monotonic()
    time.sleep(seconds)
    return (child.book.calls - calls) / (time.monotonic() - began)


def kills(ground: Field, count: int) -> Result:
    """A process that allocates, frees and launches in a tight loop is killed at any instant, again and again."""
    with storm(ground, "kill -9 of a process at work", ground.struck) as (result, _):
        for _ in range(count):
            victim = ground.struck.churn()
            if not victim.wait_ready(10.0):
                result.hangs += 1
            time.sleep(ground.dice.random() * TIGHT_MS / 1e3)
            _bury(ground.place.card, ground.struck, victim, result)
    return result


def starts(ground: Field, count: int) -> Result:
    """A process is killed during cuInit and the making of its context; whoever comes next is not kept."""
    times = [_start_seconds(ground.struck) for _ in range(5)]
    longest = statistics.median(times)
    with storm(ground, "kill -9 in cuInit and context creation", ground.struck) as (result, _):
        worst, late = 0.0, 0
        while result.events < count:
            victim = ground.struck.churn()
            time.sleep(ground.dice.random() * longest)
            if _bury(ground.place.card, ground.struck, victim, result):
                late += 1
                result.events -= 1
            elif result.events % 10 == 0:
                worst = max(worst, _start_seconds(ground.struck))
        result.hangs += worst > HANG_NS / 1e9
        result.note = (
            f"{late} more came too late: a context was there after {longest * 1e3:.0f} ms."
            f" The longest start after such a kill took {worst * 1e3:.0f} ms."
        )
    return result


def _start_seconds(tenant: Tenant) -> float:
    """Of a process that has the room for it: what the one before it held has been given back."""
    began = time.monotonic()
    child = tenant.churn()
    child.wait_ready(10.0)
    took = time.monotonic() - began
    tenant.forget(child)
    eventually(lambda: not tenant.charges_of(child.pid), GONE_SECONDS)
    return took


def _bury(card: CardTruth, tenant: Tenant, victim: Child, result: Result) -> bool:
    """Kill it, and see its charge go; whether it had its context by then."""
    victim.kill()
    ready = victim.book.ready
    released = card.wait_released(victim.pid, GONE_SECONDS)  # a charge stays while the card holds the memory
    gone = eventually(lambda: not tenant.charges_of(victim.pid), GONE_SECONDS)
    result.gone_ms.append((time.monotonic() - released) * 1e3)
    if not gone:
        result.misses.append(f"the charge of process {victim.pid} stays")
    result.events += 1
    tenant.forget(victim)
    return ready


def agents(ground: Field, count: int) -> Result:
    """The agent is killed and started again; every second time a process dies while there is none."""
    with storm(ground, "kill -9 of the agent", ground.struck) as (result, _):
        known = {tenant.id for tenant in ground.place.tenants}
        away: list[float] = []
        for number in range(count):
            victim = ground.struck.churn() if number % 2 else None
            if victim is not None:
                victim.wait_ready(10.0)
            time.sleep(ground.dice.random() * TIGHT_MS / 1e3)
            ground.place.kill_agent()
            died = time.monotonic()
            if victim is not None:
                victim.kill()
            ground.place.start_agent()
            away.append(time.monotonic() - died)
            if victim is not None:
                result.events -= 1
                _bury(ground.place.card, ground.struck, victim, result)
            result.events += 1
            there = {row["id"] for row in ground.place.client.get("/v1/tenants")}
            if there != known:
                result.misses.append(f"the tenants {sorted(known ^ there)} were lost or found")
        result.note = (
            f"The agent was away for {statistics.median(away):.1f} s each time (median), {max(away):.1f} s at most."
            " Charges of processes that died meanwhile are counted from when it was there again."
        )
    return result


def stops(ground: Field, count: int) -> Result:
    """A process is stopped at any instant and goes on later: nobody waits for it but itself.

    Whoever is stopped while it holds the simulated driver's one lock, which is no real driver's, stops the card for
    everybody, bare programs too; that is seen by a look at the card from outside, and such a stop counts as none.
    """
    with storm(ground, "SIGSTOP and SIGCONT of a process at work", ground.struck) as (result, watch):
        result.least_kept = min(result.least_kept, STOPPED_RATE)
        victim = ground.struck.churn()
        victim.wait_ready(10.0)
        inside = 0
        while result.events < count:
            time.sleep(ground.dice.random() * TIGHT_MS / 1e3)
            with stopped(victim):
                looks = watch.samples
                if not eventually(partial(_more_samples, watch, looks + 1), LOOK_SECONDS):
                    inside += 1
                    continue
                result.events += 1
                long = result.events % LONG_STOP == 0
                _go_on(ground, result, 1.5 if long else STOP_SECONDS)
            if not _answers(victim):
                result.misses.append("a stopped process did not go on")
        result.note = f"{inside} more stops were inside the simulated driver's own lock, and do not count."
        _bury(ground.place.card, ground.struck, victim, result)
        result.events -= 1
    return result


def _go_on(ground: Field, result: Result, seconds: float) -> None:
    before = {name: child.book.calls for name, child in ground.survivors.items()}
    time.sleep(seconds)
    for name, child in ground.survivors.items():
        if child.book.calls == before[name] and not _answers(child):
            result.misses.append(f"{name} waited for a stopped process")
    if ground.place.answer(tenant_path(ground.struck.id)) is None:
        result.misses.append("the agent waited for a stopped process")


def _more_samples(watch: Watch, than: int) -> bool:
    return watch.samples > than


def _answers(child: Child) -> bool:
    """Whether a call of the process answers within a second."""
    calls = child.book.calls
    return eventually(lambda: child.book.calls > calls, HANG_NS / 1e9)


def exact(ground: Field) -> Result:
    """When all have been killed, nothing is charged and nothing is held."""
    result = Result("kill -9 of everybody that is left", events=len(ground.survivors))
    for child in ground.survivors.values():
        child.kill()
    released = max(ground.place.card.wait_released(child.pid, GONE_SECONDS) for child in ground.survivors.values())
    tenants = ground.place.tenants
    eventually(lambda: not any(tenant.used_bytes for tenant in tenants), GONE_SECONDS)
    result.gone_ms.append((time.monotonic() - released) * 1e3)
    left = {tenant.name: tenant.used_bytes for tenant in tenants if tenant.used_bytes}
    result.misses += [f"{name} is still charged {size} bytes" for name, size in left.items()]
    if sum(ground.place.held_by_pid().values()):
        result.misses.append("the card still holds something")
    log = ground.place.log.read_text()
    result.misses += [
        f"{tenant.name} is honest, and is doubted" for tenant in tenants if f"tenant {tenant.id}: " in log
    ]
    result.misses += [
        f"{tenant.name} said more than once: {line}"
        for tenant in tenants
        for line in {*tenant.said.read_text().splitlines()}
        if tenant.said.read_text().splitlines().count(line) > 1
    ]
    return result

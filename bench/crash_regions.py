"""Regions that are damaged, and tenants that damage their own without end: nobody else notices, and it is named."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.crash_place import Child, Place, Tenant, eventually
from bench.crash_storms import Field, storm
from bench.crash_table import Result
from bench.crash_watch import HANG_NS
from cgpu.adapters.agent_client import tenant_path
from cgpu.model.region_files import GRANTS, LOCKS, USAGE

LOOK_SECONDS: Final = 0.5
SCRIBBLE_SECONDS: Final = 2.0
HOLDING_US: Final = 20_000
"""A process that rests so long after each call holds what it has: what it charges is seen against what it holds."""
PATTERNS: Final = ("random", "zeros", "ones", "huge", "spread", "less")
_HEAD_BYTES: Final = 8192
_FLIPS: Final = 64
_VERSION: Final = slice(8, 12)

Damage = Callable[[Path, random.Random], None]


def _truncate(path: Path, _: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


def _zero(path: Path, _: random.Random) -> None:
    _write(path, bytes(path.stat().st_size))


def _flip(path: Path, dice: random.Random) -> None:
    head = bytearray(path.read_bytes()[:_HEAD_BYTES])
    for _ in range(_FLIPS):
        head[dice.randrange(len(head))] ^= 1 << dice.randrange(8)
    _write(path, bytes(head))


def _other_version(path: Path, _: random.Random) -> None:
    head = bytearray(path.read_bytes()[:64])
    head[_VERSION] = (2).to_bytes(4, "little")
    _write(path, bytes(head))


def _write(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def _fill(path: Path, dice: random.Random) -> None:
    path.write_bytes(dice.randbytes(4096))


def _remove(path: Path, _: random.Random) -> None:
    path.unlink()


_WORDS: Final[dict[str, Damage]] = {
    "truncated": _truncate, "zeroed": _zero, "bits flipped": _flip, "another version": _other_version,
}  # fmt: skip
DAMAGES: Final[dict[str, dict[str, Damage]]] = {
    GRANTS: _WORDS,
    USAGE: _WORDS,
    LOCKS: {"filled": _fill, "removed": _remove},
}


def damaged(ground: Field, name: str, rounds: int = 1) -> Result:
    """One file of a tenant's region is damaged in every way, while its process works and before it starts."""
    with storm(ground, f"a region's {name} damaged") as (result, _):
        for how, damage in list(DAMAGES[name].items()) * rounds:
            for running in (True, False):
                tenant = ground.place.tenant("hurt")
                try:
                    what = f"{how} {'under a process' if running else 'before a process starts'}"
                    result.misses += [f"{what}: {miss}" for miss in _hurt(ground, tenant, damage, name, running)]
                finally:
                    ground.place.end(tenant)
                eventually(lambda: len(ground.place.answer("/v1/tenants") or ()) == len(ground.place.tenants))
                result.events += 1
    return result


def _hurt(ground: Field, tenant: Tenant, damage: Damage, name: str, running: bool) -> list[str]:
    misses = []
    child = tenant.churn() if running else None
    if child is not None:
        child.wait_ready()
    damage(tenant.region / name, ground.dice)
    child = child or tenant.churn()
    time.sleep(LOOK_SECONDS)
    if _hangs(child):
        misses.append("its process hangs")
    if ground.place.answer("/v1/tenants") is None:
        misses.append("the agent does not answer")
        ground.place.kill_agent()
        ground.place.start_agent()
    if (damage in (_zero, _truncate, _other_version)) and not _fault(ground.place, tenant):
        misses.append("the agent does not name it")
    said = tenant.said.read_text().splitlines()
    if len(said) > 1:
        misses.append(f"its process said {len(said)} lines: {said[:2]}")
    return misses


def _hangs(child: Child) -> bool:
    """Whether a call of it has not answered for a second, and it lives."""
    calls, began = child.book.calls, child.book.began_ns
    eventually(lambda: not child.alive or child.book.calls > calls, 2 * HANG_NS / 1e9)
    return child.alive and child.book.calls == calls and began != 0


def _fault(place: Place, tenant: Tenant) -> str:
    document = place.answer(tenant_path(tenant.id))
    return str(document["fault"]) if document else ""


def scribbled(ground: Field, pattern: str, seconds: float = SCRIBBLE_SECONDS) -> Result:
    """A tenant writes to its own usage file without end."""
    tenant = ground.place.tenant("scribbler")
    churning = tenant.churn(HOLDING_US if pattern == "less" else 0)
    churning.wait_ready()
    try:
        with storm(ground, f"a tenant scribbles over its usage: {pattern}") as (result, _):
            began = time.monotonic()
            tenant.scribble(pattern)
            eventually(lambda: _fault(ground.place, tenant) != "" and _logged(ground.place, tenant) > 0, 10.0)
            result.named_ms = (time.monotonic() - began) * 1e3
            answers = []
            while time.monotonic() < began + seconds:
                asked = time.monotonic()
                ground.place.answer("/v1/tenants")
                answers.append((time.monotonic() - asked) * 1e3)
                time.sleep(0.02)
            result.events = 1
            result.note = (
                f"The agent answered in {max(answers, default=0.0):.0f} ms at most: {_fault(ground.place, tenant)}"
            )
            if max(answers, default=0.0) > HANG_NS / 1e6:
                result.misses.append("the agent took more than a second to answer")
            if _logged(ground.place, tenant) != 1:
                result.misses.append(f"logged {_logged(ground.place, tenant)} times")
    finally:
        ground.place.end(tenant)
        eventually(lambda: len(ground.place.answer("/v1/tenants") or ()) == len(ground.place.tenants))
    return result


def _logged(place: Place, tenant: Tenant) -> int:
    return place.log.read_text().count(f"tenant {tenant.id}: region")

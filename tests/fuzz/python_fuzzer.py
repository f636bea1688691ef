"""A fuzzer for Python code, guided by coverage: lines are traced, and what goes a new way is kept."""

from __future__ import annotations

import contextlib
import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz import corpora
from tests.fuzz.outcome import Outcome

INPUT_MAX: Final = 4096
SLOW_S: Final = 2.0
"""Of CPU time: an input that takes longer is a finding."""
_RECENT: Final = 32
_DEPTH: Final = 2000  # repetitions of a piece: of what is nested, more than any reader goes down
_ONE_WAY: Final = ("<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>")  # tracing them costs much and tells little
_SOURCES: Final = str(Path(__file__).parents[2] / "src" / "cgpu")


@dataclass(frozen=True, slots=True)
class Target:
    """Code to be fuzzed. ``run`` takes an input, and lets out an exception only where it has found something."""

    name: str
    run: Callable[[bytes], None]
    words: Sequence[bytes] = ()
    """What the code knows: put into inputs, since guessing it takes long."""


@dataclass(slots=True)
class _Coverage:
    """Pairs of lines that came one after the other in a function."""

    seen: set[tuple[str, int, int]] = field(default_factory=set)
    fresh: bool = False

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[[FrameType, str, Any], Any] | None:
        """For sys.settrace: follows the functions of cgpu, and no others."""
        name, function = frame.f_code.co_filename, frame.f_code.co_name
        if event != "call" or not name.startswith(_SOURCES) or function in _ONE_WAY:
            return None
        last = 0

        def line(frame: FrameType, event: str, _: Any) -> Callable[[FrameType, str, Any], Any]:
            nonlocal last
            edge = (name, last, frame.f_lineno)
            if edge not in self.seen:
                self.seen.add(edge)
                self.fresh = True
            last = frame.f_lineno
            return line

        return line


def fuzz(
    target: Target, seconds: float, crashes: Path, *, seed: int = 1, inputs: Mapping[str, bytes] | None = None
) -> Outcome:
    """Run a target over its corpus (or the inputs given), then over what becomes of it, for that long."""
    chance, coverage = random.Random(seed), _Coverage()
    pool, runs, begun = [b""], 0, time.monotonic()
    with contextlib.suppress(Exception):
        target.run(b"")  # untraced: what is loaded once is no way of an input
    waiting = list((corpora.kept(target.name) if inputs is None else inputs).values())
    while waiting or time.monotonic() - begun < seconds:
        data = waiting.pop(0) if waiting else mutated(chance, pool, target.words)
        runs += 1
        report = _run(target, data, coverage)
        if report:
            crash = crashes / f"crash-{target.name}-{runs}"
            crashes.mkdir(parents=True, exist_ok=True)
            crash.write_bytes(data)
            return Outcome(target.name, time.monotonic() - begun, runs, len(coverage.seen), len(pool), crash, report)
        if coverage.fresh:
            pool.append(data)
    return Outcome(target.name, time.monotonic() - begun, runs, len(coverage.seen), len(pool))


def _run(target: Target, data: bytes, coverage: _Coverage) -> str:
    """What went wrong; empty: nothing."""
    coverage.fresh = False
    begun = time.process_time()
    previous = sys.gettrace()
    sys.settrace(coverage.trace)
    try:
        target.run(data)
    except Exception:  # noqa: BLE001 - any is a finding
        return traceback.format_exc(limit=-12)
    finally:
        sys.settrace(previous)
    took = time.process_time() - begun
    return f"the input took {took:.1f} s\n" if took > SLOW_S else ""


def mutated(chance: random.Random, pool: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One of the inputs with a few changes."""
    recent = pool[-_RECENT:]
    data = bytearray(chance.choice(recent if chance.random() < 0.5 else pool))
    for _ in range(1 << chance.randrange(4)):
        _change(chance, data, pool, words)
    return bytes(data[:INPUT_MAX])


def _change(chance: random.Random, data: bytearray, pool: Sequence[bytes], words: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + 1 + chance.randrange(chance.choice((4, 64))))
    match chance.randrange(7):
        case 0 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 1 if at < len(data):
            data[at] = chance.choice(b"\0\x01\x7f\x80\xff09\"'\n=_ \\{}[]:,-.eE+%")
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * chance.choice((1, 1, 1, _DEPTH))
        case 4:
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            data[at:at] = other[start : start + chance.choice((8, 64, len(other)))]
        case 5:
            data[at:at] = bytes([chance.randrange(256)])
        case _:
            data[at : end if chance.random() < 0.3 else at] = chance.choice(words) if words else b"0"

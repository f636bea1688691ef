"""Looking again and again: the interval, outages of the agent, and how a stream of output ends."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from cgpu.errors import AmountError, CgpuError

INTERVAL_SECONDS: Final = 1.0  # as often as the agent measures what a tenant got
_SHORTEST_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 3600.0
_MS_PER_S: Final = 1000

T = TypeVar("T")


def parse_interval(text: str) -> float:
    """Seconds between two looks, 0.1 to 3600. Raises AmountError for anything else."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:  # NaN is not either
        raise AmountError(f"not an interval: {text!r}", "write seconds from 0.1 to 3600")
    return seconds


def repeated(look: Callable[[], T], wait: Callable[[], bool], tell: Callable[[str], None]) -> Iterator[T]:
    """What each look answers, until ``wait`` answers False.

    The first look's error is raised: nothing was there to be watched. A later one is told once and
    looking goes on, so that a restart of the agent is no end.
    """
    yield look()
    silent = False
    while wait():
        try:
            document = look()
        except CgpuError as error:
            if not silent:
                tell(f"cgpu: {error.message}; trying again")
            silent = True
        else:
            silent = False
            yield document


def wait_for_reader(seconds: float) -> bool:
    """Wait; False at once when the reader of our output goes, which writing would tell only later."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return not output.poll(seconds * _MS_PER_S)


@contextmanager
def endless_output() -> Iterator[None]:
    """Output that has no end of its own: SIGINT, SIGTERM and a reader that has gone end the block, all as success."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (BrokenPipeError, KeyboardInterrupt):
        discard_output()
    finally:
        signal.signal(signal.SIGTERM, before)


def discard_output() -> None:
    """Drop what is still buffered, or the interpreter's own flush at the end fails or waits for the reader."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

"""A terminal is given back as it was, whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import termios
from collections.abc import Iterator

import pytest

from cgpu.cli.terminal import FullScreen, Line, Signals
from cgpu.readable import readable

TAKE = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE = b"\x1b[?25h\x1b[?1049l"


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """The two sides of a terminal of 30 columns and 4 rows: ours, and the program's."""
    ours, programs = os.openpty()
    termios.tcsetwinsize(programs, (4, 30))
    yield ours, programs
    os.close(ours)
    os.close(programs)


def written(ours: int, last: bytes) -> bytes:
    """What the program wrote, up to this; the kernel hands it over piece by piece."""
    data = b""
    while not data.endswith(last):
        assert readable(ours, 2.0), data
        data += os.read(ours, 1 << 16)
    return data


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_the_terminal_is_given_back_at_the_end_and_after_an_error(pair: tuple[int, int], error: type[Exception] | None):
    ours, programs = pair
    before = termios.tcgetattr(programs)
    try:
        with FullScreen(programs, programs) as full:
            assert termios.tcgetattr(programs) != before
            written(ours, TAKE)
            full.enter()  # again, as after SIGCONT
            if error is not None:
                fail()
    except ZeroDivisionError:
        assert error is not None
    assert termios.tcgetattr(programs) == before
    assert written(ours, LEAVE).startswith(b"\x1b[?1049h")


def test_a_screen_that_cannot_be_taken_is_given_back(pair: tuple[int, int]):
    _, programs = pair
    before = termios.tcgetattr(programs)
    full = FullScreen(programs, programs)
    nowhere = os.open("/dev/full", os.O_WRONLY)
    full._screen = nowhere
    with pytest.raises(OSError, match="No space") as refused, full:
        pass
    os.close(nowhere)
    assert refused.value.errno == errno.ENOSPC
    assert termios.tcgetattr(programs) == before


def test_a_terminal_that_has_gone_needs_nothing_back():
    ours, programs = os.openpty()
    with FullScreen(programs, programs):
        os.close(ours)
    os.close(programs)


def test_without_keys_there_is_still_a_screen(pair: tuple[int, int]):
    _, programs = pair
    before = termios.tcgetattr(programs)
    with FullScreen(None, programs) as full:
        assert full.size() == (30, 4)
        assert termios.tcgetattr(programs) == before


def test_a_terminal_that_does_not_know_its_size_is_80_by_24(pair: tuple[int, int]):
    _, programs = pair
    termios.tcsetwinsize(programs, (0, 0))
    assert FullScreen(None, programs).size() == (80, 24)


def test_each_row_is_placed_and_filled(pair: tuple[int, int]):
    ours, programs = pair
    FullScreen(None, programs).draw([Line("one"), Line("two", "bold")], 5, 3)
    rows = b"\x1b[1;1Hone  \x1b[0m\x1b[2;1H\x1b[1mtwo  \x1b[0m\x1b[3;1H     \x1b[0m"
    assert written(ours, rows) == rows


def test_signals_keys_and_wake_ups_end_the_wait(pair: tuple[int, int]):
    ours, programs = pair
    with Signals() as signals, FullScreen(programs, programs):
        signals.wake()
        assert signals.wait(programs) == (frozenset(), "")
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGWINCH)
        assert signals.wait(programs)[0] == {signal.SIGTERM, signal.SIGWINCH}
        os.write(ours, b"sp")
        assert signals.wait(programs) == (frozenset(), "sp")
        signals.wake()
        assert signals.wait(None) == (frozenset(), "")


def test_keys_that_never_come_again_are_told():
    ours, programs = os.openpty()
    os.close(ours)
    with Signals() as signals:
        assert signals.wait(programs) == (frozenset(), None)
    os.close(programs)


def test_handlers_are_as_before_when_nobody_waits_any_more():
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    signals.wake()

"""A terminal taken over as a whole: its screen, its keys, and the signals that concern it.

Plain control sequences rather than curses: those used here are understood by every terminal in use,
with no terminfo entry, which images of containers often lack.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_NOTED: Final = (*ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
# The alternate screen; no cursor; no wrapping at the right edge, so that a window made narrower
# while we draw does not scroll.
_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_STYLES: Final = {"": "", "bold": "\x1b[1m", "reverse": "\x1b[7m"}
_DEFAULT_SIZE: Final = (80, 24)
_KEYS_AT_ONCE: Final = 64


class Line(NamedTuple):
    """A line of the screen. ``style``: "", "bold" or "reverse"."""

    text: str
    style: str = ""


class FullScreen:
    """The screen of a terminal, from ``enter`` to ``leave``; as a context it is given back in any case."""

    def __init__(self, keys: int | None, screen: int) -> None:
        """``keys``: the terminal to read keys from; None: there is none. Both are file descriptors."""
        self._keys = keys
        self._screen = screen
        self._before: list[Any] | None = None if keys is None else termios.tcgetattr(keys)

    def __enter__(self) -> Self:
        try:
            self.enter()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, termios.error):  # a terminal that has gone needs nothing back
            self.leave()

    def enter(self) -> None:
        """Take the screen; keys come one by one and are not echoed. Doing it twice does no harm."""
        if self._keys is not None:
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def leave(self) -> None:
        """Give it back as it was."""
        if self._keys is not None and self._before is not None:
            termios.tcsetattr(self._keys, termios.TCSAFLUSH, self._before)
        self._write(_LEAVE)

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            columns, rows = os.get_terminal_size(self._screen)
        except OSError:
            return _DEFAULT_SIZE
        return (columns, rows) if columns and rows else _DEFAULT_SIZE  # a terminal may not know its size

    def draw(self, lines: Sequence[Line], width: int, height: int) -> None:
        """Write the whole screen. Every row is placed and filled: nothing scrolls or flickers, nothing old stays."""
        rows = [*lines[:height], *[Line("")] * (height - len(lines))]
        frame = "".join(
            f"\x1b[{number};1H{_STYLES[line.style]}{line.text.ljust(width)}\x1b[0m"
            for number, line in enumerate(rows, start=1)
        )
        self._write(frame.encode())

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._screen, data) :]


class Signals:
    """Signals, keys and wake-ups in one wait. A signal interrupts nothing; it is told by the next wait."""

    def __enter__(self) -> Self:
        self._inbox, self._outbox = socket.socketpair()
        self._inbox.setblocking(False)
        self._outbox.setblocking(False)
        self._handlers = {number: signal.signal(number, _note) for number in _NOTED}
        self._wakeup_fd = signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._inbox.close()
        self._outbox.close()

    def wake(self) -> None:
        """End the wait, from another thread."""
        with suppress(OSError):  # full: it wakes anyway; closed: nobody waits
            self._outbox.send(b"\0")

    def wait(self, keys: int | None) -> tuple[frozenset[int], str | None]:
        """What came: signals, and keys pressed; None for keys that will never come again (hung up)."""
        sources = [self._inbox.fileno()] if keys is None else [self._inbox.fileno(), keys]
        poll = select.poll()
        for source in sources:
            poll.register(source, select.POLLIN)
        ready = dict(poll.poll())
        numbers: frozenset[int] = frozenset()
        if sources[0] in ready:
            numbers = frozenset(self._inbox.recv(select.PIPE_BUF)) - {0}
        if keys is None or keys not in ready:
            return numbers, ""
        try:
            pressed = os.read(keys, _KEYS_AT_ONCE)
        except OSError:
            pressed = b""
        return numbers, pressed.decode(errors="replace") or None

    def stop(self) -> None:
        """What SIGTSTP does to a program that does not handle it; goes on after SIGCONT."""
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _note)


def _note(number: int, frame: object) -> None:
    """Nothing: the number is in the inbox already."""

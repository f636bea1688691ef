"""A program on a terminal of its own, and what a person would see there."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import pyte

from cgpu.readable import readable
from tests.integration.conftest import SECONDS, eventually

# The program leads a session whose terminal this is: that is who gets Ctrl-C and SIGWINCH.
_LEADER = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """Runs the command; at the end of the context it is killed."""

    def __init__(self, command: list[str], environment: Mapping[str, str], columns: int = 120, rows: int = 20) -> None:
        self._master, self._slave = os.openpty()
        termios.tcsetwinsize(self._slave, (rows, columns))
        self.before: list[Any] = termios.tcgetattr(self._slave)
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LEADER, *command],
            env={**environment, "TERM": "xterm"},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._master)
        os.close(self._slave)

    def type(self, keys: str) -> None:
        """Press them."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """As when the window is dragged. What is on the screen then is lost: only a new picture can be seen."""
        self.look()
        self._screen.resize(rows, columns)
        self._screen.reset()
        termios.tcsetwinsize(self._slave, (rows, columns))

    def look(self) -> list[str]:
        """The lines now."""
        while readable(self._master, 0):
            piece = os.read(self._master, 1 << 16)
            self.raw += piece
            self._stream.feed(piece)
        return [line.rstrip() for line in self._screen.display]

    def shows(self, *words: str) -> bool:
        """Whether all of it is on the screen."""
        text = "\n".join(self.look())
        return all(word in text for word in words)

    def wait_for(self, *words: str) -> None:
        """Until the screen shows it."""
        try:
            eventually(lambda: self.shows(*words))
        except AssertionError:
            raise AssertionError("not shown: " + ", ".join(words) + "\n" + "\n".join(self.look())) from None

    def wait_for_end(self) -> int:
        """The exit code."""
        eventually(lambda: bool(self.look()) and self.process.poll() is not None)
        self.look()
        return self.process.wait(SECONDS)

    @property
    def is_restored(self) -> bool:
        """Whether the program has given everything back: line discipline, cursor, wrapping, screen."""
        self.look()
        return (
            termios.tcgetattr(self._slave) == self.before
            and self.raw.count(ALTERNATE) > 0
            and self.raw.rfind(NORMAL) > self.raw.rfind(ALTERNATE)
            and self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
            and self.raw.rfind(b"\x1b[?7h") > self.raw.rfind(b"\x1b[?7l")
        )

"""Refused changes in the agent's log, at a pace that no caller can set."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

_LOG: Final = logging.getLogger(__name__)
WINDOW_SECONDS: Final = 10.0
LINES_MAX: Final = 32  # different lines of one window; whoever may connect may also be refused, as often as he likes


class RefusalLog:
    """A warning for every refused change; the same one, or a flood of them, once a window. Safe in threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._ends = clock()
        self._told: set[str] = set()
        self._untold = 0

    def refused(self, method: str, path: str, message: str) -> None:
        """Tell of one. What the caller sent cannot begin a line of its own."""
        line = _printable(f"refused: {method} {path}: {message}")
        with self._lock:
            now = self._clock()
            untold = 0
            if now >= self._ends:
                untold, self._untold = self._untold, 0
                self._told.clear()
                self._ends = now + WINDOW_SECONDS
            new = line not in self._told and len(self._told) < LINES_MAX
            if new:
                self._told.add(line)
            else:
                self._untold += 1
        if untold:
            _LOG.warning("refused: %d more changes, told of no more than once in %g s", untold, WINDOW_SECONDS)
        if new:
            _LOG.warning("%s", line)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)

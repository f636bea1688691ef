"""A lock for which nobody waits long because somebody else takes it again and again."""

from __future__ import annotations

import threading
from types import TracebackType


class FairLock:
    """A reentrant lock. Who waits for it gets it before the thread that has it can have it again.

    With threading.RLock a thread that gives it back and takes it at once has it long before the one that waits has
    woken up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = threading.Lock()  # held by the one that waits first
        self._owner: int | None = None
        self._depth = 0

    def is_wanted(self) -> bool:
        """Whether another thread waits for it."""
        return self._next.locked()

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner != me:
            with self._next:
                self._lock.acquire()
            self._owner = me
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()

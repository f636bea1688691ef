"""How much this host keeps a sleeper waiting: where it is much, no measurement of time can be trusted."""

from __future__ import annotations

import threading
import time
from typing import Final, Self

# Long, since each awakening takes a processor from a client that waits for a kernel of 20 us.
_NAP_SECONDS: Final = 0.02
_LATE_SECONDS: Final = 0.001  # less is the kernel's own granularity


class Stalls:
    """A context manager around a measurement whose thread has nothing else to do."""

    def __enter__(self) -> Self:
        self.part = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        late, began = 0.0, time.monotonic()
        while not self._end.is_set():
            due = time.monotonic() + _NAP_SECONDS
            time.sleep(_NAP_SECONDS)
            over = time.monotonic() - due
            late += over if over > _LATE_SECONDS else 0.0
        self.part = late / max(time.monotonic() - began, _NAP_SECONDS)

"""Waiting for a descriptor, whatever its number: ``select.select`` refuses those from 1024 on."""

from __future__ import annotations

import math
import select
from typing import Final

_MS_PER_S: Final = 1000


def readable(descriptor: int, seconds: float) -> bool:
    """Whether it can be read, or the other end has closed, within so many seconds; a pidfd can once it has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(math.ceil(max(0.0, seconds) * _MS_PER_S)))

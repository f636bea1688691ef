"""What is seen of the card and of those who must not notice, all the time while others crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from bench.crash_place import Child, Place

HANG_NS: Final = 1_000_000_000
_BEAT_SECONDS: Final = 0.002
_STALL_SECONDS: Final = 0.3
"""The host did not run this process for so long: what others were late by meanwhile is not theirs."""


@dataclass
class Seen:
    """What a watch has seen."""

    samples: int = 0
    """Of the card."""
    fullest: dict[str, float] = field(default_factory=dict)
    """The most that each tenant has held, as a part of its quota."""
    over: int = 0
    """Samples in which a tenant held more."""
    hung: set[tuple[str, int]] = field(default_factory=set)
    """Calls of survivors that had not answered after a second: whose, and when they began."""
    stalls: int = 0


class Watch:
    """A context manager that looks at the card and at the books of survivors, each from a thread of its own."""

    def __init__(self, place: Place, survivors: Mapping[str, Child]) -> None:
        self.seen = Seen()
        self._place = place
        self._survivors = survivors
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._card, daemon=True), threading.Thread(target=self._books)]

    def __enter__(self) -> Self:
        for child in self._survivors.values():
            child.book.forget()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def samples(self) -> int:
        """Of the card, so far."""
        return self.seen.samples

    def _card(self) -> None:
        while not self._ended.is_set():
            tenants = [(tenant.name, tenant.quota_bytes, tenant.pids) for tenant in tuple(self._place.tenants)]
            held = self._place.held_by_pid()
            for name, quota, pids in tenants:
                part = sum(held.get(pid, 0) for pid in pids) / quota
                self.seen.fullest[name] = max(part, self.seen.fullest.get(name, 0.0))
                self.seen.over += part > 1
            self.seen.samples += 1
            self._ended.wait(_BEAT_SECONDS)

    def _books(self) -> None:
        excused_ns = last = time.monotonic_ns()
        while not self._ended.wait(_BEAT_SECONDS * 5):
            now = time.monotonic_ns()
            if now - last > _STALL_SECONDS * 1e9:
                self.seen.stalls += 1
                excused_ns = now
            last = now
            for name, child in self._survivors.items():
                began = child.book.began_ns
                if began and now - max(began, excused_ns) > HANG_NS:
                    self.seen.hung.add((name, began))

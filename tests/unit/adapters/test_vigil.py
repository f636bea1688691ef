"""A vigil ends when something is not as it was when it began, when it is called, or when its time is over."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pynvml
import pytest

from cgpu.adapters.nvml import CardQuestions
from cgpu.adapters.region_words import RegionFiles, RegionList, RegionWords
from cgpu.adapters.vigil import Ending, Vigil
from cgpu.model.region_files import GRANTS
from cgpu.model.units import MIB
from cgpu.region import layout
from tests.unit.adapters.test_region_words import Region

PERIOD_S = 0.01
LONG_S = 60.0
LIST = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(pynvml.c_nvmlProcessInfo_v3_t)
)
MEMORY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(pynvml.c_nvmlMemory_t))


@dataclass
class Card:
    """NVML's functions for one card, in the form in which a driver has them."""

    processes: dict[int, int] = field(default_factory=lambda: {50: 300 * MIB})
    used_bytes: int = 700 * MIB
    code: int = 0

    def __post_init__(self) -> None:
        self._functions = LIST(self._list), LIST(self._nobody), MEMORY(self._memory)

    def questions(self) -> CardQuestions:
        """Where they are."""
        computing, drawing, memory = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in self._functions)
        return CardQuestions(1, (computing, drawing), memory)

    def _list(self, _: int, count: ctypes._Pointer[ctypes.c_uint], rows: ctypes._Pointer[ctypes.Structure]) -> int:
        room = count[0]
        count[0] = len(self.processes)
        if len(self.processes) > room:
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for row, (pid, used_bytes) in enumerate(self.processes.items()):
            rows[row].pid, rows[row].usedGpuMemory = pid, used_bytes
        return self.code

    def _nobody(self, _: int, count: ctypes._Pointer[ctypes.c_uint], __: ctypes._Pointer[ctypes.Structure]) -> int:
        count[0] = 0
        return 0

    def _memory(self, _: int, row: ctypes._Pointer[ctypes.Structure]) -> int:
        row[0].used = self.used_bytes
        return 0


@dataclass
class Place:
    """All that a vigil sees."""

    region: Region
    card: Card
    name: Path
    epoll: select.epoll

    def vigil(self) -> Vigil:
        """Begun now."""
        regions = RegionList([RegionFiles(*self.region.reader.descriptors(), 2)])
        return Vigil(regions, [self.card.questions()], [self.name])

    def wait(self, vigil: Vigil, seconds: float = LONG_S) -> Ending:
        """Until it ends."""
        return vigil.wait(self.epoll.fileno(), PERIOD_S, seconds)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    name = tmp_path / "name"
    name.touch()
    made = Place(Region(tmp_path / "a", RegionWords()), Card(), name, select.epoll())
    yield made
    made.region.close()
    made.epoll.close()


def test_where_nothing_changes_it_lasts_for_its_time(place: Place):
    assert place.wait(place.vigil(), 5 * PERIOD_S) is Ending.OVER
    assert place.wait(place.vigil(), 0) is Ending.OVER


def charge(place: Place) -> None:
    place.region.process.charge(MIB)


def work(place: Place) -> None:
    place.region.scribble(GRANTS, layout.Grants.gpu.offset + layout.GrantsGpu.busy_ns.offset)


def end(place: Place) -> None:
    place.region.process.die()


def shut(place: Place) -> None:
    place.region.reader.close()


def come(place: Place) -> None:
    place.card.processes[60] = 0


def grow(place: Place) -> None:
    place.card.processes[50] += 1


def fill(place: Place) -> None:
    place.card.used_bytes += 1


def fail(place: Place) -> None:
    place.card.code = int(pynvml.NVML_ERROR_GPU_IS_LOST)


def clear(place: Place) -> None:
    place.name.unlink()


def replace(place: Place) -> None:
    place.name.with_name("other").touch()
    place.name.with_name("other").rename(place.name)


@pytest.mark.parametrize("change", [charge, work, end, shut, come, grow, fill, fail, clear, replace])
def test_a_change_ends_it(place: Place, change: Callable[[Place], None]):
    vigil = place.vigil()
    change(place)
    assert place.wait(vigil) is Ending.SEEN


def test_a_card_with_more_processes_than_it_can_tell_apart_is_always_looked_at(place: Place):
    place.card.processes = dict.fromkeys(range(600), MIB)
    assert place.wait(place.vigil()) is Ending.SEEN


def test_a_signal_ends_it_and_is_handled(place: Place):
    come = list[int]()
    before = signal.signal(signal.SIGUSR1, lambda number, _: come.append(number))
    try:
        vigil = place.vigil()
        thread = threading.Timer(3 * PERIOD_S, os.kill, (os.getpid(), signal.SIGUSR1))
        thread.start()
        began = time.monotonic()
        assert vigil.wait(place.epoll.fileno(), LONG_S, LONG_S) is Ending.CALLED
        assert time.monotonic() - began < LONG_S / 2
        assert come == [signal.SIGUSR1]
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_call_ends_it_and_stays_to_be_answered(place: Place):
    bell = os.eventfd(0)
    place.epoll.register(bell, select.EPOLLIN)
    vigil = place.vigil()
    thread = threading.Timer(3 * PERIOD_S, os.eventfd_write, (bell, 1))
    thread.start()
    assert place.wait(vigil) is Ending.CALLED
    assert place.epoll.poll(0) == [(bell, select.EPOLLIN)]
    assert place.wait(vigil) is Ending.CALLED
    thread.join()
    os.close(bell)

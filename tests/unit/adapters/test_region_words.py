"""What is read of regions to be compared: it changes with all that a look would find, and with nothing else."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cgpu.adapters.region_words import RegionFiles, RegionList, RegionWords
from cgpu.model.region_files import GRANTS, USAGE
from cgpu.model.tenant import Policy, Share, Tenant
from cgpu.model.units import GIB, MIB
from cgpu.region import layout
from cgpu.region.reader import RegionReader
from cgpu.region.writer import Owner, Row, create_region
from cgpu.testing.fakes import gpu
from cgpu.testing.tenant_process import TenantProcess

SLOT = 3  # beyond those that are free
CARDS = (gpu(0), gpu(1))
WORK = {
    GRANTS: {"heartbeat_ns", "overhead_bytes", "context_bytes", "reserved"}
    | {name for name, *_ in layout.GrantsGpu._fields_ if getattr(layout.GrantsGpu, name).offset >= 64},
    USAGE: {"reserved", "reserved1", "reserved2", "worked_ns", "long_ns"}
    | {"gate", "launches", "drained_ns", "waited_ns"},
}
"""Fields that tell how work goes, what a look has found, or nothing; of a row also its doorbell."""


class Region:
    """A tenant's, on two cards, with one process."""

    def __init__(self, folder: Path, words: RegionWords) -> None:
        self.folder = folder
        shares = tuple(Share(card.uuid, GIB) for card in CARDS)
        rows = tuple(Row(card, share, Policy.PREEMPTIVE, MIB) for card, share in zip(CARDS, shares, strict=True))
        create_region(folder, Tenant("a", "a", shares), rows, Owner())
        self.process = TenantProcess(folder, slot=SLOT, pid=50, start_ticks=500)
        self.reader = RegionReader(folder)
        self._words = words

    def read(self, rows: int = 2) -> bytes:
        return self._words.read(RegionList([RegionFiles(*self.reader.descriptors(), rows)]))

    def scribble(self, name: str, offset: int) -> None:
        """Change one byte of a file."""
        with (self.folder / name).open("r+b") as file:
            (old,) = os.pread(file.fileno(), 1, offset)
            os.pwrite(file.fileno(), bytes([old ^ 1]), offset)

    def close(self) -> None:
        self.reader.close()
        self.process.close()


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    made = Region(tmp_path / "a", RegionWords())
    yield made
    made.close()


def fields(structure: Any, begin: int) -> Iterator[tuple[str, int]]:
    for name, *_ in structure._fields_:
        yield name, begin + getattr(structure, name).offset


def places() -> Iterator[tuple[str, str, int, bool]]:
    """Every field of the header, of a row, and of a slot: file, name, offset, whether it matters."""
    for name, at in fields(layout.GrantsHeader, 0):
        yield GRANTS, name, at, name not in WORK[GRANTS]
    for name, at in fields(layout.GrantsGpu, layout.Grants.gpu.offset + ctypes.sizeof(layout.GrantsGpu)):
        yield GRANTS, f"gpu.{name}", at, name not in WORK[GRANTS]
    for name, at in fields(layout.UsageHeader, 0):
        if name != "slots_seen":
            yield USAGE, name, at, name not in WORK[USAGE]
    for name, at in fields(layout.UsageGpu, layout.Usage.gpu.offset + ctypes.sizeof(layout.UsageGpu)):
        yield USAGE, f"gpu.{name}", at, name not in WORK[USAGE] | {"doorbell"}
    slot = layout.Usage.slot.offset + SLOT * ctypes.sizeof(layout.UsageSlot)
    for name, at in fields(layout.UsageSlotHeader, slot):
        yield USAGE, f"slot.{name}", at, True
    of_row = slot + layout.UsageSlot.gpu.offset + ctypes.sizeof(layout.UsageSlotGpu)
    for name, at in fields(layout.UsageSlotGpu, of_row):
        yield USAGE, f"slot.gpu.{name}", at, name not in WORK[USAGE]


@pytest.mark.parametrize(("file", "field", "offset", "matters"), list(places()), ids=str)
def test_every_word_that_a_look_rests_on_changes_what_is_read(
    region: Region, file: str, field: str, offset: int, matters: bool
):
    before = region.read()
    assert region.read() == before
    region.scribble(file, offset)
    assert (region.read() != before) == matters, field


def test_rows_that_the_tenant_does_not_have_do_not_matter(region: Region):
    before = region.read(rows=1)
    region.process.charge(MIB, row=1)
    assert region.read(rows=1) == before
    region.process.charge(MIB, row=0)
    assert region.read(rows=1) != before


def test_the_end_of_a_process_changes_what_is_read(region: Region):
    before = region.read()
    region.process.die()
    assert region.read() != before


@pytest.mark.parametrize("name", [GRANTS, USAGE])
@pytest.mark.parametrize("size", [0, 100, 1000, 3000, 100_000])
def test_a_shortened_file_is_seen_and_stays_what_it_is(region: Region, name: str, size: int):
    before = region.read()
    os.truncate(region.folder / name, size)
    after = region.read()
    assert before != after == region.read()


def test_many_slots_and_many_regions_find_room(tmp_path: Path):
    words = RegionWords()
    regions = [Region(tmp_path / str(number), words) for number in range(20)]
    for region in regions:
        region.process.usage.header.slots_seen = layout.CGPU_MAX_SLOTS + 7  # whatever a tenant says
    all_of_them = RegionList(RegionFiles(*region.reader.descriptors(), 2) for region in regions)
    before = words.read(all_of_them)
    assert len(before) > 20 * layout.CGPU_MAX_SLOTS * ctypes.sizeof(layout.UsageSlotHeader)
    regions[-1].scribble(USAGE, layout.Usage.slot.offset + 1000 * ctypes.sizeof(layout.UsageSlot))
    assert words.read(all_of_them) != before
    for region in regions:
        region.close()

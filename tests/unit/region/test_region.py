"""The region as the agent writes it and as it reads it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgpu.errors import RegionError
from cgpu.model.region_files import GRANTS, LOCKS, USAGE
from cgpu.model.tenant import MemoryLayer, Policy, Share, Tenant
from cgpu.model.units import GIB, MIB
from cgpu.region import layout
from cgpu.region.reader import RegionReader
from cgpu.region.writer import GrantsWriter, Owner, Row, create_region, remove_region
from cgpu.testing.fakes import gpu
from cgpu.testing.tenant_process import TenantProcess

SHARE = Share(gpu().uuid, 6 * GIB, compute_percent=30, weight=2, priority=1)
TENANT = Tenant("t1", "training", (SHARE,), refuse_managed=True)
ROW = Row(gpu(), SHARE, Policy.WEIGHTED, 512 * MIB)


@pytest.fixture
def region(tmp_path: Path) -> Path:
    folder = tmp_path / "t1"
    create_region(folder, TENANT, (ROW,), Owner())
    return folder


def test_what_is_written_is_read_back(region: Path):
    grants = RegionReader(region).grants()
    assert (grants.tenant_id, grants.tenant_name, grants.refuse_managed, grants.generation) == (
        "t1",
        "training",
        True,
        1,
    )
    (row,) = grants.gpus
    assert row.gpu_uuid == SHARE.gpu_uuid
    assert (row.quota_bytes, row.context_bytes, row.total_bytes) == (6 * GIB, 512 * MIB, 16 * GIB)
    assert (row.policy, row.compute_percent, row.weight, row.priority) == (2, 30, 2, 1)
    assert row.grant == layout.CGPU_GRANT_CLOSED


def test_the_tenant_may_write_its_usage_but_not_its_grants(region: Path):
    modes = {name: (region / name).stat().st_mode & 0o777 for name in (GRANTS, USAGE, LOCKS)}
    assert modes == {GRANTS: 0o644, USAGE: 0o600, LOCKS: 0o600}


def test_a_new_region_has_no_slots_and_no_use(region: Path):
    usage = RegionReader(region).usage(1)
    assert usage.slots == ()
    assert usage.gpus[0].used_bytes == 0


def test_a_change_of_intent_grows_the_generation_once(region: Path):
    writer, reader = GrantsWriter(region), RegionReader(region)
    bigger = Share(SHARE.gpu_uuid, 8 * GIB, weight=4)
    writer.set_intent(TENANT, (Row(gpu(), bigger, Policy.PREEMPTIVE, 0),))
    grants = reader.grants()
    assert grants.generation == 2
    assert (grants.gpus[0].quota_bytes, grants.gpus[0].weight, grants.gpus[0].compute_percent) == (8 * GIB, 4, 0)
    writer.set_intent(TENANT, (Row(gpu(), bigger, Policy.PREEMPTIVE, 0),))
    assert reader.grants().generation == 2


def test_measurements_and_surplus_reach_the_tenant(region: Path):
    writer = GrantsWriter(region)
    writer.set_measured(0, 5 * MIB, 300 * MIB)
    writer.set_utilisation(0, 42)
    writer.set_surplus(7, 0, 3 * MIB, 11)
    row = RegionReader(region).grants().gpus[0]
    assert (row.overhead_bytes, row.context_bytes, row.utilisation_percent) == (5 * MIB, 300 * MIB, 42)
    raw = layout.Grants.from_buffer_copy((region / GRANTS).read_bytes())
    assert (raw.surplus[7][0].surplus_bytes, raw.surplus[7][0].charge_seq) == (3 * MIB, 11)


def test_memory_layers_have_the_numbers_of_the_header(region: Path):
    layered = Tenant("t1", "training", (SHARE,), memory_layer=MemoryLayer.DRIVER)
    GrantsWriter(region).set_intent(layered, (ROW,))
    assert RegionReader(region).grants().gpus[0].memory_layer == 1


def test_a_slot_is_alive_as_long_as_its_lock(region: Path):
    process = TenantProcess(region, slot=3, pid=41, start_ticks=410)
    process.charge(64 * MIB)
    reader = RegionReader(region)
    (slot,) = reader.usage(1).slots
    assert (slot.index, slot.alive, slot.pid, slot.start_ticks, slot.command) == (3, True, 41, 410, "python")
    assert slot.gpus[0].charge_bytes == 64 * MIB
    process.die()
    assert [slot.alive for slot in reader.usage(1).slots] == [False]
    process.close()


def test_an_operation_that_nobody_completed_is_counted_where_account_named_it(region: Path):
    process = TenantProcess(region, slot=0, pid=41, start_ticks=410)
    process.charge(10 * MIB)
    process.charge(5 * MIB, complete=False)
    usage = RegionReader(region).usage(1)
    assert usage.gpus[0].used_bytes == 15 * MIB
    assert usage.slots[0].gpus[0].charge_bytes == 15 * MIB
    process.close()


def test_an_intent_that_account_never_named_did_not_happen(region: Path):
    process = TenantProcess(region, slot=0, pid=41, start_ticks=410)
    process.charge(10 * MIB)
    process.usage.slot[0].gpu[0].intent = (12345 << layout.CGPU_CHARGE_SEQ_BITS) | 2
    assert RegionReader(region).usage(1).slots[0].gpus[0].charge_bytes == 10 * MIB
    process.close()


def test_the_charge_sequence_shows_that_something_was_charged(region: Path):
    process = TenantProcess(region, slot=0, pid=41, start_ticks=410)
    reader = RegionReader(region)
    before = reader.charge_seqs((0, 1), 0)
    process.charge(MIB)
    assert reader.charge_seqs((0, 1), 0) == {0: before[0] + 1, 1: before[1]}
    assert reader.charge_seqs((), 0) == {}
    process.close()


@pytest.mark.parametrize("name", [GRANTS, USAGE])
@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(0, b"\0" * 8, "not a region"), (8, b"\2\0\0\0", "layout version 2"), (16, b"\xff" * 8, "truncated")],
)
def test_a_foreign_header_is_refused(region: Path, name: str, offset: int, value: bytes, message: str):
    with (region / name).open("r+b") as file:
        file.seek(offset)
        file.write(value)
    with pytest.raises(RegionError, match=message):
        RegionReader(region)


@pytest.mark.parametrize("name", [GRANTS, USAGE])
@pytest.mark.parametrize("size", [0, 7, 511, 4096])
def test_a_truncated_file_is_refused(region: Path, name: str, size: int):
    with (region / name).open("r+b") as file:
        file.truncate(size)
    with pytest.raises(RegionError, match=r"truncated|not a region"):
        RegionReader(region)


def test_a_tenant_that_truncates_its_usage_while_it_is_read_is_an_error_not_a_death(region: Path):
    reader = RegionReader(region)
    with (region / USAGE).open("r+b") as file:
        file.truncate(600)
    with pytest.raises(RegionError, match="truncated"):
        reader.usage(1)


@pytest.mark.parametrize("name", [GRANTS, USAGE, LOCKS])
def test_a_missing_file_or_a_link_in_its_place_is_refused(region: Path, name: str, tmp_path: Path):
    (region / name).rename(tmp_path / "elsewhere")
    with pytest.raises(RegionError, match="No such file"):
        RegionReader(region)
    (region / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegionError, match="symbolic"):
        RegionReader(region)


def test_a_newer_minor_version_is_accepted(region: Path):
    with (region / GRANTS).open("r+b") as file:
        file.seek(layout.GrantsHeader.minor.offset)
        file.write(b"\x63\0\0\0")
    assert RegionReader(region).grants().tenant_id == "t1"


def test_removal_leaves_nothing_and_may_be_repeated(region: Path):
    remove_region(region)
    remove_region(region)
    assert not region.exists()


def test_a_folder_with_something_foreign_in_it_is_not_removed(region: Path):
    (region / "notes").touch()
    with pytest.raises(RegionError, match="not empty"):
        remove_region(region)
    assert (region / "notes").exists()


def test_seventeen_gpus_are_refused(tmp_path: Path):
    with pytest.raises(RegionError, match="at most 16"):
        create_region(tmp_path / "t", TENANT, (ROW,) * 17, Owner())

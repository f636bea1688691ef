"""Whatever the bytes of a region are: a value or RegionError, nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgpu.errors import RegionError
from cgpu.model.region_files import GRANTS, USAGE
from cgpu.model.tenant import Policy, Share, Tenant
from cgpu.model.units import GIB
from cgpu.region.reader import RegionReader
from cgpu.region.words import Account, Charge, effective_units
from cgpu.region.writer import Owner, Row, create_region
from cgpu.testing.fakes import gpu

SHARE = Share(gpu().uuid, GIB)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    region = tmp_path_factory.mktemp("regions") / "t"
    create_region(region, Tenant("t", "t", (SHARE,)), (Row(gpu(), SHARE, Policy.NATIVE, 0),), Owner())
    return region


def read_all(folder: Path) -> None:
    try:
        reader = RegionReader(folder)
        try:
            grants = reader.grants()
            reader.usage(len(grants.gpus))
        finally:
            reader.close()
    except RegionError:
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([GRANTS, USAGE]), content=st.binary(max_size=2000))
def test_random_files(folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folder, copy / "t")
    (copy / "t" / name).write_bytes(content)
    read_all(copy / "t")
    shutil.rmtree(copy)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([GRANTS, USAGE]),
    patches=st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=64)), min_size=1, max_size=8),
)
def test_random_damage_to_a_good_file(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, patches: list[tuple[int, bytes]]
):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folder, copy / "t")
    with (copy / "t" / name).open("r+b") as file:
        for offset, data in patches:
            file.seek(offset)
            file.write(data)
    read_all(copy / "t")
    shutil.rmtree(copy)


@settings(deadline=None)
@given(used=st.integers(0, 2**36 - 1), slot=st.integers(0, 1023), seq=st.integers(0, 2**18 - 1))
def test_account_words_survive_packing(used: int, slot: int, seq: int):
    assert Account.unpack(Account(used, slot, seq).pack()) == (used, slot, seq)


@settings(deadline=None)
@given(delta=st.integers(-(2**36), 2**36 - 1), seq=st.integers(0, 2**27 - 1))
def test_intents_are_signed(delta: int, seq: int):
    assert Charge.unpack_intent(Charge(delta, seq).pack()) == (delta, seq)


@settings(deadline=None)
@given(
    units=st.integers(0, 2**36 - 1), delta=st.integers(-1000, 1000), seq=st.integers(0, 2**27 - 1), named=st.booleans()
)
def test_an_operation_counts_exactly_when_account_names_it(units: int, delta: int, seq: int, named: bool):
    following = (seq + 1) % 2**27
    account = Account(units, 5, following % 2**18 if named else (following + 7) % 2**18)
    expected = units + delta if named else units
    assert effective_units(account, 5, Charge(units, seq), Charge(delta, following)) == expected
    assert effective_units(account, 6, Charge(units, seq), Charge(delta, following)) == units

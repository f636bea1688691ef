"""What a driver call costs a tenant, in instructions: the bounds of the shim's fast paths.

Times on a machine that does other things are noise, instructions are not. README has both.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.native.call_count import Counter
from tests.native.idle_driver import HOUR_NS, IdleDriver

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory, shim: Path) -> Counter:
    return Counter(IdleDriver.create(tmp_path_factory.mktemp("call_count"), shim))


@pytest.mark.parametrize(
    ("call", "most"),
    [("launch", 110), ("launch_stream", 88), ("launch_mixed", 185), ("alloc_free", 1150), ("mem_get_info", 145)],
)
def test_call_stays_cheap(counter: Counter, call: str, most: int):
    assert counter.added(call) <= most


def test_launch_in_a_slot_that_ends_costs_no_more(counter: Counter):
    assert counter.added("launch", deadline_ns=time.monotonic_ns() + HOUR_NS) <= 110


def test_allocation_costs_the_same_beside_many_live_blocks(counter: Counter):
    assert counter.added("alloc_free", live=100_000) <= counter.added("alloc_free", live=1) + 150

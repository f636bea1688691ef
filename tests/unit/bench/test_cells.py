"""The cells of the table of shares: shares.toml expanded, and the order of measuring."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import bench
from bench.cells import (
    Load,
    Reference,
    Table,
    TableError,
    kernel_name,
    kernel_ns,
    read_table,
    reference_rounds,
    rounds,
    settle_seconds,
)

DATA = Path(bench.__file__).with_name("shares.toml").read_text()
SMALL = """
profile = "t4"
window_seconds = 10.0
settle_seconds = 0.7
reference_seconds = 3.0
attempts = 3
lanes = 3
alone_below = "1ms"
budget_minutes = 43
kernels = ["20us", "1ms"]
kinds = ["plain", "graph"]
syncs = [0, 1]

[fast]
window_seconds = 2.0
settle_seconds = 0.5
reference_seconds = 1.0
attempts = 2
points_more = 2.0
busy_less = 0.05
probe_count = 50
probe_times = 2
cells = ["a/*/1ms/plain/async", "wake/*"]

[sets]
"1:3" = { weight = [1, 3] }
"25 %" = { compute = [25] }
"one" = { weight = [1], idle = 19, asked = [100] }

[[groups]]
name = "a"
policy = { policy = 2 }
sets = ["1:3"]
of = "all"
points = 1.0
points_at = { "1ms" = 3.0 }
busy = 0.97

[[groups]]
name = "b"
policy = { policy = 3 }
sets = ["25 %"]
of = "time"
points = 2.0
alone_below = "0us"

[[groups]]
name = "wake"
policy = { policy = 1 }
sets = ["one"]
kernels = ["1ms"]
kinds = ["plain"]
syncs = [0]
probe = { kernel = "20us", count = 400, gap_us = 10_000, quantum_us = 10_000 }
"""


@pytest.fixture(name="table")
def small_table() -> Table:
    return read_table(SMALL)


def cell(table: Table, name: str):
    return next(cell for cell in table.cells if cell.name == name)


def test_a_group_is_the_product_of_its_sets_kernels_kinds_and_waits(table: Table):
    names = [cell.name for cell in table.cells if cell.group == "a"]
    assert len(names) == 8
    assert "a/1:3/20us/graph/sync" in names


def test_what_is_asked_is_the_weights_part_or_the_percentage(table: Table):
    assert cell(table, "a/1:3/20us/plain/async").tenants.asked == (25.0, 75.0)
    assert cell(table, "b/25 %/20us/plain/async").tenants.asked == (25.0,)
    assert cell(table, "b/25 %/20us/plain/async").tenants.changes == ({"compute_percent": 25},)


def test_percentages_of_what_all_get_add_up_to_all():
    table = read_table(SMALL.replace('"1:3" = { weight = [1, 3] }', '"1:3" = { compute = [20, 60] }'))
    assert cell(table, "a/1:3/20us/plain/async").tenants.asked == (25.0, 75.0)


def test_a_kernel_may_have_a_bound_of_its_own(table: Table):
    assert cell(table, "a/1:3/20us/plain/async").bounds.points == 1.0
    assert cell(table, "a/1:3/1ms/plain/async").bounds.points == 3.0


def test_the_reference_is_the_same_work_bare_and_with_waits_one_tenant_alone(table: Table):
    without = cell(table, "a/1:3/1ms/plain/async")
    waiting = cell(table, "a/1:3/1ms/plain/sync")
    assert without.references == (Reference(without.load, 2, tenants=False),)
    assert waiting.reference == Reference(waiting.load, 1, tenants=True)
    assert {(each.count, each.tenants) for each in waiting.references} == {(1, False), (2, False), (1, True)}
    assert cell(table, "b/25 %/1ms/plain/async").references == ()


def test_short_kernels_with_waits_are_measured_alone_unless_the_group_says_otherwise(table: Table):
    assert cell(table, "a/1:3/20us/plain/sync").alone
    assert not cell(table, "a/1:3/20us/plain/async").alone
    assert not cell(table, "a/1:3/1ms/plain/sync").alone
    assert not cell(table, "b/25 %/20us/plain/sync").alone


def test_a_probe_beside_busy_tenants_may_wait_a_quantum_and_the_running_kernel(table: Table):
    probe = cell(table, "wake/one/1ms/plain/async").probe
    assert probe is not None
    assert (probe.quantile, probe.us, probe.kernel_ns) == (0.99, 11_000, 20_000)


def test_every_cell_is_in_one_round_with_kernels_of_its_length(table: Table):
    found = list(rounds(table.cells, table.lanes))
    assert sorted(cell.name for together in found for cell in together) == sorted(cell.name for cell in table.cells)
    for together in found:
        assert len(together) <= table.lanes
        assert len({cell.load.kernel_ns for cell in together}) == 1
        assert len(together) == 1 or not any(cell.alone for cell in together)


def test_every_reference_is_measured_once_and_those_without_cgpu_first(table: Table):
    found = [reference for together in reference_rounds(table.cells, table.lanes) for reference in together]
    wanted = {reference for cell in table.cells for reference in cell.references}
    assert len(found) == len(wanted)
    assert set(found) == wanted
    assert [reference.tenants for reference in found] == sorted(reference.tenants for reference in found)


def test_no_reference_is_measured_beside_tenants_or_beside_one_that_needs_the_host_alone(table: Table):
    alone = {reference for cell in table.cells if cell.alone for reference in cell.references}
    for together in reference_rounds(table.cells, table.lanes):
        assert len({reference.tenants for reference in together}) == 1
        assert len(together) == 1 or not alone & set(together)


def test_kernels_longer_than_a_turn_settle_longer():
    short, long = Load(1_000_000, "plain", 0), Load(100_000_000, "plain", 0)
    assert settle_seconds([(short, 20)], 0.7) == pytest.approx(0.7)
    assert settle_seconds([(short, 20), (long, 20)], 0.7) == pytest.approx(2.7)


def test_the_fast_version_has_few_cells_short_windows_and_wider_bounds():
    fast = read_table(SMALL, fast=True)
    assert [cell.name for cell in fast.cells] == ["a/1:3/1ms/plain/async", "wake/one/1ms/plain/async"]
    assert fast.window_seconds == 2.0
    assert fast.cells[0].bounds.points == 5.0
    assert fast.cells[0].bounds.busy == pytest.approx(0.92)
    assert fast.cells[1].probe is not None
    assert (fast.cells[1].probe.count, fast.cells[1].probe.us) == (50, 22_000)


def test_a_pattern_chooses_cells_by_name(table: Table):
    assert len(table.only("b/*").cells) == 8
    assert {cell.load.kind for cell in table.only("graph").cells} == {"graph"}


@pytest.mark.parametrize(("text", "length_ns"), [("20us", 20_000), ("1ms", 1_000_000), ("100ms", 100_000_000)])
def test_lengths_of_kernels_are_read_and_written(text: str, length_ns: int):
    assert kernel_ns(text) == length_ns
    assert kernel_name(length_ns) == text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('sets = ["1:3"]', 'sets = ["none"]'),
        ('kernels = ["20us", "1ms"]', 'kernels = ["20 us"]'),
        ("{ weight = [1, 3] }", "{ weight = [1, 3], limit = [5] }"),
        ("asked = [100]", "asked = [100, 0]"),
    ],
)
def test_a_contradiction_in_the_file_is_told(old: str, new: str):
    with pytest.raises(TableError):
        read_table(SMALL.replace(old, new, 1))


# ---- the file itself ----


def test_the_published_table_has_every_cell_that_it_promises():
    names = {cell.name for cell in read_table(DATA).cells}
    ways = [
        f"{kernel}/{kind}/{sync}"
        for kernel in ("20us", "100us", "1ms", "10ms", "100ms")
        for kind in ("plain", "cooperative", "graph")
        for sync in ("async", "sync")
    ]
    sets = ["equal/2 equal", "equal/20 equal"]
    sets += [f"weights/{weights}" for weights in ("1:2:4", "10:90", "1x10+2x6+5x3+13")]
    sets += [f"fixed/{percent} %" for percent in (10, 25, 50, 75)]
    assert {f"{each}/{way}" for each in sets for way in ways} <= names


def test_the_published_bounds_are_the_promised_ones():
    for each in read_table(DATA).cells:
        if each.group in ("equal", "weights"):
            assert each.bounds.points == (3.0 if each.load.kernel_ns == 100_000_000 else 1.0)
            assert each.bounds.busy == 0.97
        if each.group.startswith("fixed"):
            assert each.bounds.points == 2.0
            assert each.of_time


def test_every_row_of_the_fast_version_is_there():
    text = textwrap.dedent(DATA)
    fast = read_table(text, fast=True)
    assert len({cell.name for cell in fast.cells}) == len(fast.cells) >= 15
    assert {cell.policy["policy"] for cell in fast.cells} == {0, 1, 2, 3, 4}

"""Asked against got, and whether that is within the bound."""

from __future__ import annotations

import dataclasses

import pytest

from bench import verdict
from bench.cells import Bounds, Cell, Load, Probe, Reference, TenantSet
from bench.verdict import Result, judge, judge_probe
from bench.window import Look, Window

LOAD = Load(1_000_000, "plain", 0)
CELL = Cell(
    group="weights",
    policy={"policy": 2},
    tenants=TenantSet("1:3", ({"weight": 1}, {"weight": 3}), (25.0, 75.0)),
    load=LOAD,
    of_time=False,
    bounds=Bounds(points=1.0, busy=0.97),
    busy_of_bare=False,
    alone=False,
)
BARE = {Reference(LOAD, 2, tenants=False): 0.98}


def held(cell: Cell) -> Cell:
    return dataclasses.replace(cell, load=dataclasses.replace(LOAD, sync=1))


def test_a_window_is_what_happened_between_two_looks():
    before = Look(1_000, 500, {7: 100, 8: 400}, beat_ns=900, held_by_pid={7: 100, 8: 400})
    after = Look(2_000, 1_400, {7: 300, 8: 1_100}, beat_ns=1_700, held_by_pid={7: 300, 8: 1_000})
    window = Window.between(before, after, [7, 8], tenants=True)
    assert window == Window(card=(0.2, 0.7), held=(0.25, 0.75), busy=0.9)


def test_clients_without_cgpu_hold_nothing():
    look = Look(1_000, 0, {7: 0}, 0, {})
    later = Look(2_000, 500, {7: 500}, 0, {})
    assert Window.between(look, later, [7], tenants=False).held == ()


def test_a_share_is_the_part_of_what_all_got():
    attempt = judge(CELL, Window(card=(0.225, 0.675), held=(0.3, 0.7), busy=0.9), BARE, 0.0)
    assert attempt.got == pytest.approx((25.0, 75.0))
    assert attempt.error_points == pytest.approx(0.0)


def test_a_share_of_the_time_counts_what_nobody_got():
    cell = dataclasses.replace(CELL, of_time=True, bounds=Bounds(points=2.0))
    attempt = judge(cell, Window(card=(0.25, 0.70), held=(), busy=0.95), {}, 0.0)
    assert attempt.got == pytest.approx((25.0, 70.0))
    assert attempt.misses == ("off by 5.00 points, bound 2",)


def test_with_a_wait_after_each_kernel_the_time_held_counts():
    references = {Reference(held(CELL).load, 1, tenants=True): 0.6}
    attempt = judge(held(CELL), Window(card=(0.2, 0.4), held=(0.25, 0.75), busy=0.6), references, 0.0)
    assert attempt.got == pytest.approx((25.0, 75.0))
    assert attempt.ok


def test_an_error_beyond_the_bound_is_a_miss():
    attempt = judge(CELL, Window(card=(0.27, 0.73), held=(), busy=1.0), BARE, 0.0)
    assert attempt.error_points == pytest.approx(2.0)
    assert not attempt.ok


def test_a_card_less_busy_than_the_reference_is_a_miss():
    attempt = judge(CELL, Window(card=(0.225, 0.675), held=(), busy=0.9), BARE, 0.0)
    assert attempt.relative_busy == pytest.approx(0.918, abs=0.001)
    assert attempt.misses == ("relative busy 91.8%, bound 97%",)


def test_a_card_on_which_nobody_got_anything_is_a_miss():
    assert not judge(CELL, Window(card=(0.0, 0.0), held=(), busy=0.0), BARE, 0.0).ok


PROBED = dataclasses.replace(CELL, bounds=Bounds(), probe=Probe(20_000, 100, 10_000, quantile=0.99, us=11_000))


def test_a_first_kernel_is_judged_beyond_the_drivers_own_time():
    beyond_ns = [1_000_000] * 99 + [11_050_000]
    assert judge_probe(PROBED, beyond_ns, [40_000, 60_000, 90_000], 0.0).latency_us == pytest.approx(10_990)
    assert judge_probe(PROBED, beyond_ns, [40_000] * 3, 0.0).misses == ("11010 us, bound 11000 us",)


def test_the_last_attempt_counts_and_all_are_kept():
    wrong = judge(CELL, Window(card=(0.27, 0.73), held=(), busy=1.0), BARE, 0.01)
    right = judge(CELL, Window(card=(0.25, 0.75), held=(), busy=1.0), BARE, 0.0)
    row = verdict.document(Result(CELL, (wrong, right), BARE))
    assert row["ok"]
    assert [attempt["misses"] == [] for attempt in row["attempts"]] == [False, True]
    assert row["attempts"][0]["host_stalled"] == 0.01
    assert row["got_percent"] == pytest.approx([25.0, 75.0])


def test_what_an_overlap_would_win_back_is_written_down():
    cell = held(CELL)
    references = {Reference(cell.load, 1, tenants=True): 0.6, Reference(cell.load, 2, tenants=False): 0.83}
    attempt = judge(cell, Window(card=(0.2, 0.4), held=(0.25, 0.75), busy=0.6), references, 0.0)
    assert verdict.document(Result(cell, (attempt,), references))["overlap_gain_points"] == pytest.approx(23.0)


def test_a_row_names_the_tenant_with_the_worst_error_and_says_what_is_wrong():
    wrong = judge(CELL, Window(card=(0.27, 0.73), held=(), busy=1.0), BARE, 0.01)
    text = verdict.row(Result(CELL, (wrong, wrong), BARE))
    assert text.startswith("weights/1:3/1ms/plain/async")
    assert "25.00  27.00   2.00" in text
    assert "MISS off by 2.00 points, bound 1 (attempt 2)" in text


def test_a_refused_cell_is_a_miss_that_gives_the_agents_words():
    result = Result(CELL, (verdict.refused("policy 3 is not enforced"),), {})
    assert "MISS refused: policy 3 is not enforced" in verdict.row(result)
    assert verdict.document(result)["ok"] is False


def test_rows_of_first_kernels_give_their_time_and_bound():
    attempt = judge_probe(PROBED, [1_000_000] * 10, [0], 0.0)
    assert "1000 us at 99%, bound 11000 us" in verdict.row(Result(PROBED, (attempt,), {}))

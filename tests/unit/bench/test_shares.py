"""When a cell is measured again, and how long a run is said to take."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench import verdict
from bench.cells import read_table
from bench.shares import again, planned_seconds
from bench.verdict import Attempt
from bench.window import Window

DATA = Path(bench.__file__).with_name("shares.toml").read_text()


def attempt(*misses: str) -> Attempt:
    return Attempt(Window((1.0,), (), 1.0), (100.0,), 0.0, None, None, 0.0, misses)


def test_a_cell_that_misses_is_measured_again_until_it_has_had_its_attempts():
    assert again([attempt("off")], 3)
    assert again([attempt("off"), attempt("off")], 3)
    assert not again([attempt("off")] * 3, 3)


def test_a_cell_within_its_bound_is_not_measured_again():
    assert not again([attempt("off"), attempt()], 3)


def test_what_was_refused_is_not_tried_again():
    assert not again([verdict.refused("no such policy")], 3)


@pytest.mark.parametrize(("fast", "most_seconds"), [(False, 45 * 60), (True, 60)])
def test_the_plan_keeps_within_its_time(fast: bool, most_seconds: float):
    assert planned_seconds(read_table(DATA, fast=fast)) < most_seconds

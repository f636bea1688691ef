"""A short run of bench.crashes: what ends, stands still or is damaged hurts nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bench import crash_host, crash_regions, crash_storms
from bench.crash_storms import Field
from bench.crash_table import Result
from bench.machine import compile_client
from tests.integration.attempts import ATTEMPTS

pytestmark = [pytest.mark.timing, pytest.mark.timeout(240, func_only=False)]

SEED = 20261128
CALM_S = 0.3
LEAST_KEPT = 0.1
"""Of a neighbour's calls: this is no place to measure, and other tests want the processors too."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client("crash", tmp_path_factory.mktemp("clients"))


@pytest.fixture
def ground(program: Path) -> Iterator[Field]:
    with crash_storms.field(program, SEED, CALM_S, LEAST_KEPT) as made:
        yield made


def is_right(storm: Callable[[], Result]) -> None:
    """It is as it should be; where the machine stood still meanwhile, the second or third time."""
    for _ in range(ATTEMPTS - 1):
        result = storm()
        if not (result.wrong() and crash_storms.STOOD_STILL in result.note):
            break
    else:
        result = storm()
    assert result.wrong() == [], result


def test_killed_and_stopped_processes_and_killed_agents(ground: Field):
    is_right(lambda: crash_storms.kills(ground, 15))
    is_right(lambda: crash_storms.starts(ground, 10))
    is_right(lambda: crash_storms.stops(ground, 5))
    is_right(lambda: crash_storms.agents(ground, 2))
    result = crash_storms.exact(ground)
    assert result.wrong() == [], result


def test_damaged_regions(ground: Field):
    for name in crash_regions.DAMAGES:
        is_right(partial(crash_regions.damaged, ground, name))


def test_a_tenant_that_scribbles_is_named(ground: Field):
    for pattern in ("random", "huge", "spread", "less"):
        is_right(partial(crash_regions.scribbled, ground, pattern, seconds=0.3))


def test_the_host_kills_for_its_memory(ground: Field):
    result = crash_host.out_of_memory(ground, 2)
    if result is None:
        pytest.skip("no cgroup of one's own with a limit of memory")
    assert result.wrong() == [], result

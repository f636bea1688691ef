"""Short storms of bench.crashes on the card: what is killed or lies hurts nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bench import crash_regions, crash_storms
from bench.crash_place import NotListedError
from bench.crash_storms import Field
from bench.crash_table import GONE_MS, Result
from bench.machine import compile_client
from tests.gpu.report import Findings

pytestmark = [pytest.mark.gpu, pytest.mark.timing, pytest.mark.timeout(600, func_only=False)]

SEED = 20261128
CALM_S = 0.5
LEAST_KEPT = 0.1
"""Of a neighbour's calls: a card has its own ways, and `python -m bench.crashes` measures on the simulated one."""

STORMS: dict[str, Callable[[Field], Result]] = {
    "kill -9 of a process at work": partial(crash_storms.kills, count=12),
    "kill -9 in cuInit and context creation": partial(crash_storms.starts, count=10),
    "kill -9 of the agent": partial(crash_storms.agents, count=3),
    "usage says less": partial(crash_regions.scribbled, pattern="less"),
    "usage is random": partial(crash_regions.scribbled, pattern="random"),
    "kill -9 of everybody": crash_storms.exact,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client("crash", tmp_path_factory.mktemp("clients"))


@pytest.fixture
def ground(program: Path, profile: str | None) -> Iterator[Field]:
    try:
        with crash_storms.field(program, SEED, CALM_S, LEAST_KEPT, profile) as made:
            yield made
    except NotListedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("storm", STORMS)
def test_a_storm_hurts_nobody_else(ground: Field, storm: str, findings: Findings):
    result = STORMS[storm](ground)
    findings.add("events", result.events)
    findings.add("hangs", result.hangs, asked="0")
    if result.samples:
        findings.add("looks over quota", result.over, f"of {result.samples}", asked="0")
        findings.add("fullest", 100 * result.fullest, "%", asked="at most 100")
    if result.gone_ms:
        findings.add("charge gone after the card's release, worst", max(result.gone_ms), "ms", f"{GONE_MS:g}")
    if result.named_ms is not None:
        findings.add("named after", result.named_ms, "ms", asked=f"{GONE_MS:g}")
    if result.kept is not None:
        findings.add("a neighbour kept of its calls", 100 * result.kept, "%")
    assert result.wrong() == [], result

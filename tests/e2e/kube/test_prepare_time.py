"""The benchmark of the node's driver, small: agent, sockets and API server are real."""

from __future__ import annotations

from typing import Any

import pytest

from bench import prepare
from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.kube import programs

SLACK = 6
"""A machine that is busy with something else is slower by that; one that was made slow, by more."""


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    with needed():
        tools.root_with_namespaces()
        tools.program("ip")
        programs.kubernetes(programs.DEFAULT)
        programs.etcd()
    return prepare.run(claims=20, beside=10, burst=30)


def test_every_claim_is_made_ready_and_taken_back(figures: dict[str, Any]):
    calls = {name: row["calls"] for name, row in figures.items() if isinstance(row, dict) and "calls" in row}
    assert calls == {
        "call": 20,
        "get": 20,
        "prepare": 20,
        "prepare_processor": 20,
        "unprepare": 20,
        "burst_prepare": 30,
        "burst_unprepare": 30,
    }
    assert figures["agent"]["pss_mib"] < 80


@pytest.mark.timing
def test_a_claim_is_ready_in_milliseconds(figures: dict[str, Any]):
    assert figures["prepare_processor"]["median_ms"] < SLACK * prepare.BOUND_MS
    assert figures["burst_prepare"]["p99_ms"] < 5_000

"""The benchmark of a full host, small: tenants and processes come, go and are killed, and nothing is left of them."""

from __future__ import annotations

import pytest

from bench.scale import Wanted, judged, measure


@pytest.mark.timeout(120)
def test_tenants_and_processes_that_come_and_go_leave_nothing():
    outcome = measure(Wanted(8, cards=2, tenants=3, processes=2, process_pauses=2, tenant_seconds=3))
    assert outcome.faults == []
    result = judged(outcome)
    assert result["tenants_ended"] > 2 + 2 * 3
    assert result["counted"]["started"] > 2 * 2 * 3
    assert result["counted"]["fills"] > 0
    assert result["processes"] > 0
    assert set(outcome.answers_ms) > {"all tenants", "one GPU"}

"""What cgpu costs on this machine: starts and whole calls over its driver, and the shim's own part of a call.

The figures are for the report. What is asked of them holds on a machine that does nothing else (``make bench``); here a
call may be ten times as far off, and a start as long as a slow machine needs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import calls, overhead, starts
from bench.calls import ALLOC_FREE_NS, INFO_NS, LAUNCH_NS, Figure
from tests.gpu.conftest import Card
from tests.gpu.report import Findings

pytestmark = [pytest.mark.gpu, pytest.mark.timing, pytest.mark.timeout(600, func_only=False)]

ROUNDS = 3
NOISE = {True: 1.0, False: 0.1}
"""Of a simulated and of a real driver's own time: what it differs by between two runs."""
ASKED = {
    "whole launch": LAUNCH_NS,
    "whole alloc_free": ALLOC_FREE_NS,
    "whole alloc_free_2000_live": ALLOC_FREE_NS,
    "whole mem_get_info": INFO_NS,
}


def note(findings: Findings, figures: list[Figure]) -> None:
    for each in figures:
        asked = ASKED.get(each.name, each.most_added)
        findings.add(f"{each.name}, bare", each.bare, each.unit)
        findings.add(f"{each.name}, added", each.added, each.unit, f"at most {asked:g}" if asked else "")


def test_starts_and_whole_calls_over_the_driver(card: Card, tmp_path: Path, findings: Findings):
    figures = overhead.over_the_driver(tmp_path, card.environment, ROUNDS)
    note(findings, figures)
    assert {each.name for each in figures} >= ASKED.keys()
    assert all(each.tenant > 0 for each in figures)
    noise = NOISE[card.machine is not None]
    assert [each for each in figures if each.far_off(ASKED.get(each.name, each.most_added or 0), noise)] == []
    if card.machine is None:  # of a real driver: its own start takes most of it
        added = {each.name: each.added for each in figures}
        assert added["load the driver, cuInit, first context"] <= starts.START_MS


def test_the_shims_own_part_of_a_call(profile: str | None, tmp_path: Path, findings: Findings):
    figures = calls.each(tmp_path, rounds=1)
    note(findings, figures)
    assert [each for each in figures if each.far_off(each.most_added or 0, noise=0.0)] == []

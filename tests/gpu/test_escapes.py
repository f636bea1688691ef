"""Ways round a share, tried on the card: all functions and tricks of bench.escapes that a real driver lets be tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import escape_rows, escape_table, escape_tricks
from bench.escape_places import MIB, Bare, Programs, attempt
from bench.escape_table import NO_FUNCTION, NOT_THERE, Attempt
from tests.gpu.report import Findings

# On a real card each context takes a while, and each look at NVML.
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600, func_only=False)]

SURE = "cuMemAlloc_v2"  # a function that every driver has


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, profile: str | None) -> Programs:
    return Programs.make(tmp_path_factory.mktemp("escapes"), simulated=profile is not None)


@pytest.fixture(scope="module")
def place(programs: Programs, profile: str | None) -> Iterator[Bare]:
    with Bare(programs, profile) as made:
        small = attempt(made, "a small block", ("{client}", "plain", str(MIB)), MIB, "")
        assert small.answer == 0, small
        if small.truth_bytes == 0:
            pytest.skip("NVML does not list this test's processes: it needs the host's PID namespace")
        yield made


@pytest.fixture(scope="module")
def routes(place: Bare) -> escape_rows.Routes:
    return escape_rows.Routes(place)


def test_no_function_gets_more_than_the_share(place: Bare, routes: escape_rows.Routes, findings: Findings):
    attempts = list(escape_rows.try_all(place, routes))
    described = escape_table.by_function(attempts)
    findings.ways += [(way, f"{outcome}: {answers}") for way, _, answers, outcome in described]
    findings.add("attempts", len(attempts))
    findings.add("functions", len(described))
    findings.add("not in this driver", sum(outcome == NOT_THERE for *_, outcome in described))
    findings.add("escapes", len(escape_table.escapes(attempts)), asked="0")
    assert escape_table.escapes(attempts) == []
    sure = [row for row in attempts if row.way == SURE and row.answer != NO_FUNCTION]
    assert {row.answer for row in sure if row.route.endswith("room")} == {0}
    assert {row.answer for row in sure if row.route.endswith("full")} == {2}


def test_no_way_round_gets_more_than_the_share(
    place: Bare, programs: Programs, profile: str | None, findings: Findings
):
    attempts = list(escape_tricks.try_all(place, programs, profile is not None))
    findings.ways += [(row.way, f"{row.outcome}: {row.said}{_what_stops(row)}") for row in attempts]
    findings.add("ways", len(attempts))
    findings.add("escapes", len(escape_table.escapes(attempts)), asked="0")
    findings.add("escapes below the library", sum(row.outcome == "escapes" for row in attempts))
    assert escape_table.escapes(attempts) == []


def test_a_tenant_without_the_shim_is_seen(place: Bare):
    found = escape_tricks.planted(place)
    assert (found.outcome, escape_table.escapes([found])) == ("ESCAPED", [found])


def _what_stops(row: Attempt) -> str:
    return f"; stopped by {row.below}" if row.escaped else ""

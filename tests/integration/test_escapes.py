"""No way of the library level gets more of a card than a share: all of bench.escapes under `cgpu run`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import escape_rows, escape_table, escape_tricks
from bench.escape_places import Bare, Programs
from bench.escape_table import NO_FUNCTION, RUN, Attempt
from tests.parity.hook_list import allocating

pytestmark = pytest.mark.timeout(900, func_only=False)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs.make(tmp_path_factory.mktemp("escapes"), simulated=True)


@pytest.fixture(scope="module")
def place(programs: Programs) -> Iterator[Bare]:
    with Bare(programs, "t4") as made:
        yield made


@pytest.fixture(scope="module")
def routes(place: Bare) -> escape_rows.Routes:
    return escape_rows.Routes(place)


def test_every_allocating_function_is_tried_by_every_route(routes: escape_rows.Routes):
    assert {label.split("/")[0] for label in routes.kinds} >= allocating()
    asked = {route.split(" ", 1)[1] for label in routes.kinds for route in routes.to(label) if "proc" in route}
    assert asked >= {f"{version} {flags}" for version in (11030, 12000, 13000) for flags in (0, 1, 2)}


def test_no_function_gets_more_than_the_share(place: Bare, routes: escape_rows.Routes):
    attempts = list(escape_rows.try_all(place, routes))
    assert escape_table.escapes(attempts) == []
    own = [row for row in attempts if row.answer != NO_FUNCTION and row.way in routes.of("own")]
    assert {row.answer for row in own if row.route.endswith("room")} == {0}
    assert {row.answer for row in own if row.route.endswith("full")} == {2}


def test_no_way_round_gets_more_than_the_share(place: Bare, programs: Programs):
    attempts = list(escape_tricks.try_all(place, programs))
    assert escape_table.escapes(attempts) == []
    assert all(row.escaped for row in attempts if row.below), "what is listed as a limit is none any more"


def test_a_tenant_without_the_shim_is_reported(place: Bare):
    found = escape_tricks.planted(place)
    assert (found.outcome, escape_table.escapes([found])) == ("ESCAPED", [found])


def test_functions_of_a_tenant_without_the_shim_are_reported(place: Bare, routes: escape_rows.Routes):
    client = place.tenant(["env", "-u", "LD_PRELOAD", routes.program, "run"])
    escape_rows.ordered(client, "begin")
    try:
        found = escape_rows.allocate(place, client, "cuMemCreate", "dlsym 0 0", full=True)
        assert found.outcome == "ESCAPED"
    finally:
        escape_rows.end(client)


def attempt(truth: int, charged: int, below: str = "") -> Attempt:
    return Attempt(RUN, "way", "", 10, 0, charged, truth, 100, below)


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        (attempt(100, 100), "held"),
        (attempt(101, 101), "ESCAPED"),
        (attempt(50, 40), "ESCAPED"),
        (attempt(101, 0, "stopped by"), "escapes"),
    ],
)
def test_what_counts_as_an_escape(row: Attempt, outcome: str):
    assert row.outcome == outcome
    assert outcome in escape_table.text([row])
    assert outcome in escape_table.markdown([row])


def test_the_document_has_the_table_of_a_run():
    """docs/escapes.md names every way that is tried."""
    text = (Path(__file__).parents[2] / "docs" / "escapes.md").read_text()
    assert [trick.way for trick in escape_tricks.TRICKS if f"| {trick.way} |" not in text] == []

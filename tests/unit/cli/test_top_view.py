"""What keys, answers and outages make of the view of ``cgpu top``."""

from __future__ import annotations

import pytest

from cgpu.cli.top_view import SORTS, Look, View
from tests.unit.cli.sample_documents import SECOND_NS, UUID, look, share, tenant


def waited(seconds: float, name: str = "a", *, at: float) -> Look:
    return look(tenant(name, share(waited_ns=round(seconds * SECOND_NS))), second=at)


def test_the_share_of_the_last_interval_spent_waiting_comes_from_two_looks():
    view = View(1.0).answered(waited(5.0, at=10.0))
    assert view.shown is not None
    assert view.shown.waited_percent == {}
    view = view.answered(waited(5.5, at=12.0))
    assert view.shown is not None
    assert view.shown.waited_percent == {("a", UUID): 25.0}


@pytest.mark.parametrize(
    ("before", "percents"),
    [
        (waited(9.0, at=1.0), {}),  # an agent that counts from the beginning
        (waited(0.0, "other", at=1.0), {}),
        (waited(0.0, at=1.99), {("a", UUID): 100.0}),  # told late by the arbiter
        (waited(0.0, at=2.0), {}),
    ],
)
def test_no_share_of_waiting_is_negative_above_all_or_made_up(before: Look, percents: dict[tuple[str, str], float]):
    assert waited(1.0, at=2.0).after(before).waited_percent == percents


def test_p_holds_the_picture_and_the_newest_is_there_at_once_when_it_goes_on():
    first, second, third = (waited(seconds, at=seconds) for seconds in (1.0, 2.0, 3.0))
    view = View(1.0).answered(first).pressed("p")
    assert view.paused
    view = view.answered(second).answered(third)
    assert view.shown is first
    view = view.pressed("p")
    assert not view.paused
    assert view.shown is not None
    assert view.shown.monotonic_ns == third.monotonic_ns
    assert view.shown.waited_percent == {("a", UUID): 100.0}  # of the last interval, not of the pause


def test_a_pause_before_the_first_answer_still_shows_it():
    assert View(1.0).pressed("p").answered(look()).shown is not None


def test_s_goes_round_the_columns():
    view, seen = View(1.0), []
    for _ in SORTS:
        seen.append(view.sort)
        view = view.pressed("s")
    assert tuple(seen) == SORTS
    assert view.sort == SORTS[0]


def test_the_question_mark_shows_help_and_hides_it():
    assert View(1.0).pressed("?").helping
    assert not View(1.0).pressed("?").pressed("?").helping


def test_other_keys_change_nothing():
    assert View(1.0).pressed("\x1b").pressed("x").pressed("[") == View(1.0)


def test_an_outage_keeps_the_picture_and_an_answer_ends_it():
    view = View(1.0).answered(look(tenant("a"))).failed("no agent answers", "start one")
    assert view.trouble == "no agent answers"
    assert view.shown is not None
    assert view.answered(look(tenant("a"))).trouble == ""

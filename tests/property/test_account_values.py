"""Moments parse back exactly or are refused; counters lose nothing, whatever resets there are."""

from __future__ import annotations

import contextlib
import itertools
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from cgpu.errors import UsageError
from cgpu.model.account import MOMENT_S_MAX, AccountQuery, Counters, Interval, interval, parse_moment, parse_step

MOMENTS = st.integers(0, 4_000_000_000)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(MOMENTS, ZONES)
def test_an_iso_moment_parses_back_exactly(moment: int, zone: timezone) -> None:
    there = datetime.fromtimestamp(moment, zone)
    if there.year >= 1970:
        assert parse_moment(there.isoformat(), 0) == moment
        assert parse_moment(there.replace(tzinfo=None).isoformat(" "), 0, zone) == moment
    assert parse_moment(f"@{moment}", 0) == moment


@given(st.integers(0, 10**9), st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86400)]), MOMENTS)
def test_a_duration_is_ago_or_refused(count: int, unit: tuple[str, int], now: int) -> None:
    text, ago = f"{count % 10**9}{unit[0]}", count % 10**9 * unit[1]
    if ago <= now:
        assert parse_moment(text, now) == now - ago
    else:
        with contextlib.suppress(UsageError):
            raise AssertionError(parse_moment(text, now))


@given(st.text(max_size=30) | st.from_regex(r"[0-9T:+Z @smhd.-]{0,25}", fullmatch=True))
def test_nonsense_is_refused_and_never_crashes(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert 0 <= parse_moment(text, 1_700_000_000) <= MOMENT_S_MAX
    with contextlib.suppress(UsageError):
        assert parse_step(text) % 60 == 0


@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=5), max_size=6))
def test_each_life_of_a_counter_is_counted_once(lives: list[list[int]]) -> None:
    """A life is steps upwards from zero; a look at zero comes before the next life."""
    seen, total = Counters(), Counters()
    for steps in lives:
        value = 0
        for step in [0, *steps]:
            value += step
            now = Counters(got_ns=value)
            total += now.since(seen)
            seen = now
    assert total == Counters(got_ns=sum(sum(steps) for steps in lives))


@given(MOMENTS, MOMENTS, MOMENTS, st.integers(1, 1440).map(lambda minutes: minutes * 60))
def test_steps_cover_the_interval_once(since: int, until: int, began: int, step: int) -> None:
    within = interval(AccountQuery(since, until), began, began + 86400)
    pieces = [Interval(start, start + step).cut(within) for start in within.steps(step)]
    if within.begin < within.end:
        assert (pieces[0].begin, pieces[-1].end) == (within.begin, within.end)
        assert all(a.end == b.begin for a, b in itertools.pairwise(pieces))
        assert all(piece.begin < piece.end for piece in pieces)

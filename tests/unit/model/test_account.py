"""Counters, intervals and moments of the account."""

from __future__ import annotations

import time
from datetime import timedelta, timezone

import pytest

from cgpu.errors import UsageError
from cgpu.model.account import (
    KEPT_S,
    MOMENT_S_MAX,
    AccountQuery,
    Counters,
    Interval,
    interval,
    parse_moment,
    parse_step,
)

NOW = 1_700_000_047.5
MINUTE = 1_700_000_040
PARIS = timezone(timedelta(hours=1))


def test_what_was_added_is_the_difference():
    assert Counters(10, 9, 8, 7, 6).since(Counters(1, 2, 3, 4, 5)) == Counters(9, 7, 5, 3, 1)


def test_a_counter_that_went_backwards_has_started_again_and_the_others_have_not():
    assert Counters(3, 20, 8, 0, 6).since(Counters(10, 20, 3, 4, 6)) == Counters(3, 0, 5, 0, 0)


def test_what_no_arbiter_can_have_counted_is_known_for_that():
    assert Counters(got_ns=10**18).plausible
    assert not Counters(waited_ns=1 << 63).plausible


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (AccountQuery(), Interval(1_699_999_000, 1_700_000_048)),  # all that is known, up to now
        (AccountQuery(since=1_700_000_001), Interval(1_699_999_980, 1_700_000_048)),  # whole minutes
        (AccountQuery(until=1_700_000_001), Interval(1_699_999_000, MINUTE)),
        (AccountQuery(until=MINUTE), Interval(1_699_999_000, MINUTE)),  # a minute's end is already whole
        (AccountQuery(since=0, until=MOMENT_S_MAX), Interval(1_699_999_000, 1_700_000_048)),
    ],
)
def test_the_interval_is_whole_minutes_within_what_is_known(query: AccountQuery, expected: Interval):
    assert interval(query, began_s=1_699_999_000, now_s=NOW) == expected


def test_nothing_is_known_from_before_the_days_that_are_kept():
    assert interval(AccountQuery(since=0), began_s=5, now_s=NOW).begin == MINUTE - KEPT_S


def test_steps_begin_at_whole_multiples():
    assert list(Interval(3700, 10801).steps(3600)) == [3600, 7200, 10800]
    assert list(Interval(3700, 7200).steps(3600)) == [3600]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", 1_699_999_957),
        ("30m", 1_700_000_047 - 1800),
        ("2h", 1_700_000_047 - 7200),
        ("7d", 1_700_000_047 - 7 * 86400),
        ("@1700000000", 1_700_000_000),
        ("2023-11-14", 1_699_916_400),
        ("2023-11-14T23:13", 1_699_999_980),
        ("2023-11-14 23:13:20", 1_700_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14T22:13:20.9+00:00", 1_700_000_000),
        ("2023-11-15T03:43:20+05:30", 1_700_000_000),
    ],
)
def test_moments(text: str, moment: int):
    assert parse_moment(text, NOW, PARIS) == moment


def test_without_a_zone_a_moment_is_local_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "XYZ-2")  # two hours east of Greenwich
    time.tzset()
    try:
        assert parse_moment("2023-11-15T00:13:20", NOW) == 1_700_000_000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "5w", "-5m", "1.5h", "5 m", "h", "@", "@-1", "@1.5", "1700000000", "now", "2023-11", "2023-02-30"),
        *("2023-11-14T", "2023-11-14T25:00", "2023-11-14T10", "20231114", "2023-W46-2", "2023-11-14T10:00+1"),
        *("1969-12-31", "9999999999999d", "0000-01-01", "20000d", "@253402300800", "\u0663m"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_way_out(text: str):
    with pytest.raises(UsageError, match=r"point in time|1970") as refused:
        parse_moment(text, NOW)
    assert "2h" in refused.value.remedy


def test_steps_are_whole_minutes_up_to_a_day():
    assert [parse_step(text) for text in ("1m", "60s", "1h", "24h", "1d")] == [60, 60, 3600, 86400, 86400]
    for text in ("", "0m", "59s", "90s", "25h", "2d", "1", "-1m", "@60"):
        with pytest.raises(UsageError, match="not a step") as refused:
            parse_step(text)
        assert "1h" in refused.value.remedy

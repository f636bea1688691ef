"""The account of time as values: counters, what is asked for, and moments as users write them."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime, tzinfo
from typing import Final

from cgpu.errors import UsageError

MINUTE_S: Final = 60
KEPT_S: Final = 31 * 86400
STEP_S_MAX: Final = 86400
MOMENT_S_MAX: Final = 253_402_300_799  # the last second of the year 9999
_COUNTER_MAX: Final = 1 << 60  # 36 years of nanoseconds: more is no counter, and sums must fit into 63 bits

_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNIX: Final = re.compile(r"@([0-9]{1,12})")
_ISO: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_MOMENTS: Final = "write for example 90s, 30m, 2h, 7d (ago), 2026-01-31, 2026-01-31T12:00 or @1700000000"


@dataclass(frozen=True, slots=True)
class Counters:
    """What the account adds up for a tenant on a GPU."""

    got_ns: int = 0  # the card's time charged to it
    waited_ns: int = 0  # it wanted the card and did not hold it
    turns: int = 0  # slots that it got
    preempted: int = 0  # slots that ended by time while it had work
    preempting: int = 0  # slots of others that ended so and were followed by its own

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(mine + its for mine, its in zip(self.values(), other.values(), strict=True)))

    def since(self, last: Counters) -> Counters:
        """What was added after ``last``. A counter that went backwards has started again at zero.

        Each counter is judged by itself: a reading may fall between two stores of the arbiter.
        """
        pairs = zip(self.values(), last.values(), strict=True)
        return Counters(*(now - then if now >= then else now for now, then in pairs))

    def values(self) -> tuple[int, ...]:
        """In the order of the fields."""
        return (self.got_ns, self.waited_ns, self.turns, self.preempted, self.preempting)

    @property
    def plausible(self) -> bool:
        """Whether an arbiter can have written them."""
        return all(0 <= value < _COUNTER_MAX for value in self.values())


COUNTERS: Final = tuple(field.name for field in fields(Counters))


@dataclass(frozen=True, slots=True)
class AccountQuery:
    """What is asked of the account; None: no bound, all of them, one row for the whole interval."""

    since: int | None = None  # Unix seconds
    until: int | None = None
    tenant: str | None = None  # id or name
    gpu: str | None = None  # index or UUID
    step: int | None = None  # seconds, a multiple of 60


@dataclass(frozen=True, slots=True)
class Interval:
    """From ``begin`` up to, not including, ``end``, in Unix seconds."""

    begin: int
    end: int

    @property
    def first_minute(self) -> int:
        """The minute, by its first second, in which it begins."""
        return minute_of(self.begin)

    def cut(self, other: Interval) -> Interval:
        """What both have in common; its end is not after its begin where that is nothing."""
        return Interval(max(self.begin, other.begin), min(self.end, other.end))

    def steps(self, step: int) -> range:
        """The first seconds of the steps, whole multiples of ``step``, that it touches."""
        return range(self.begin // step * step, self.end, step)


@dataclass(frozen=True, slots=True)
class ShareKey:
    """A tenant on a GPU. The name is part of it, so that an id used again does not rename the past."""

    tenant_id: str
    name: str
    gpu_uuid: str

    def values(self) -> tuple[str, str, str]:
        """In the order of the table's key."""
        return (self.tenant_id, self.name, self.gpu_uuid)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tenant on one GPU at one write."""

    key: ShareKey
    gpu_index: int
    began: int  # Unix seconds
    minute: int  # in which ``added`` falls
    seen: Counters  # the region's counters up to and including ``added``
    added: Counters


@dataclass(frozen=True, slots=True)
class ShareRow:
    """A tenant on a GPU as the file knows it."""

    id: int
    key: ShareKey
    gpu_index: int
    known: Interval  # from its beginning up to the last look at it


def minute_of(moment_s: float) -> int:
    """The first second of the minute."""
    return int(moment_s // MINUTE_S) * MINUTE_S


def interval(query: AccountQuery, began_s: int, now_s: float) -> Interval:
    """The interval that can be told: whole minutes around what was asked, within what is known.

    Its begin is not before the account's own, and its end is not in the future.
    """
    begin = max(began_s, minute_of(now_s - KEPT_S))
    if query.since is not None:
        begin = max(begin, minute_of(query.since))
    end = int(now_s) + 1
    if query.until is not None:
        end = min(end, minute_of(query.until + MINUTE_S - 1))
    return Interval(begin, end)


def parse_moment(text: str, now_s: float, zone: tzinfo | None = None) -> int:
    """Unix seconds of ``90s``, ``30m``, ``2h`` or ``7d`` (ago), of an ISO-8601 date or date-time, or of ``@SECONDS``.

    A date is its first second. Without a zone of its own it is in ``zone``, None being the machine's
    local time; where clocks are set back, the earlier of two. Raises UsageError for anything else.
    """
    body = text.strip()
    if match := _DURATION.fullmatch(body):
        moment = int(now_s) - int(match[1]) * _UNIT_S[match[2]]
    elif match := _UNIX.fullmatch(body):
        moment = int(match[1])
    elif _ISO.fullmatch(body):
        moment = _iso(body, zone)
    else:
        raise UsageError(f"not a point in time: {text!r}", _MOMENTS)
    if not 0 <= moment <= MOMENT_S_MAX:
        raise UsageError(f"not between the years 1970 and 9999: {text!r}", _MOMENTS)
    return moment


def _iso(text: str, zone: tzinfo | None) -> int:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return int(moment.timestamp() // 1)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"not a point in time: {text!r} ({error})", _MOMENTS) from error


def parse_step(text: str) -> int:
    """Seconds of ``1m``, ``1h`` or ``1d``: whole minutes, at most a day. Raises UsageError otherwise."""
    match = _DURATION.fullmatch(text.strip())
    step = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not MINUTE_S <= step <= STEP_S_MAX or step % MINUTE_S:
        raise UsageError(f"not a step: {text!r}", "write whole minutes up to a day, such as 1m, 15m, 1h or 1d")
    return step

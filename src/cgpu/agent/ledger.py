"""The audit of time: what each tenant got of each GPU, how long it waited, and who preempted whom, by the minute.

The regions' counters are the source; the ledger keeps what was added since it last looked. What was
added and the counters seen are written in one transaction, so after a kill -9 at any instant the next
agent goes on from the counters that the sums include: nothing is lost, nothing is counted twice. A
ledger that cannot be written keeps its additions in memory until it can.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cgpu.adapters.checkpoint import unreadable_name
from cgpu.errors import NoSuchGpuError, NoSuchTenantError, RegionError, StateError, UsageError
from cgpu.model.account import (
    KEPT_S,
    MINUTE_S,
    AccountQuery,
    Counters,
    Entry,
    Interval,
    ShareKey,
    ShareRow,
    interval,
    minute_of,
)
from cgpu.model.tenant import Gpu, Tenant
from cgpu.region.reader import GrantedGpu, GrantsSnapshot, RegionReader

if TYPE_CHECKING:
    from cgpu.agent.ledger_file import LedgerFile, LedgerReader

_LOG: Final = logging.getLogger(__name__)
_NOTHING: Final = Counters()
ROWS_MAX: Final = 10_000  # of one answer: some 3 MB of JSON; the agent stays small


@dataclass(slots=True)
class _Watched:
    """A tenant on a GPU, as this process knows it."""

    gpu_index: int
    began: int
    seen: Counters
    added: Counters = _NOTHING  # not yet written
    written: int = -1  # minute of the last write; -1: none
    ended: bool = False


class Ledger:
    """The ledger at ``path``. Changes come from the agent, under its lock; questions from any thread.

    Changes never raise CgpuError: what is wrong with the file is logged once, and the agent runs on.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, step: Callable[[str], None] = lambda _: None
    ) -> None:
        """Nothing is opened until there is something to write. ``clock`` tells Unix seconds."""
        self.path = path
        self._clock = clock
        self._step = step
        self._file: LedgerFile | None = None
        self._watched: dict[ShareKey, _Watched] = {}
        self._observed_s: float = 0.0
        self._set_aside = False
        self._said: set[str] = set()
        self._damage: StateError | None = None  # found by a reader

    # ---- changes ----

    def minute_turned(self) -> bool:
        """Whether a new minute has begun since the last look at all regions."""
        return minute_of(self._clock()) != minute_of(self._observed_s)

    def begin(self, tenant: Tenant, gpus: Mapping[str, Gpu]) -> None:
        """The tenant is about to get a new region, whose counters begin at zero."""
        now = self._clock()
        for share in tenant.shares:
            key = ShareKey(tenant.id, tenant.name, share.gpu_uuid)
            before = self._watched.get(key)
            added = before.added if before else _NOTHING
            self._watched[key] = _Watched(gpus[share.gpu_uuid].index, int(now), _NOTHING, added)
        self._write(now)

    def observe(self, readers: Iterable[RegionReader]) -> None:
        """Add what all tenants' regions tell now. A region that cannot be read is left out."""
        now = self._clock()
        for reader in readers:
            with contextlib.suppress(RegionError):  # the survey says it
                self._observe(reader.grants(), now)
        self._write(now)
        self._observed_s = now

    def take_over(self, reader: RegionReader) -> None:
        """Add what the region of one tenant tells, which may be from before this agent's start."""
        now = self._clock()
        with contextlib.suppress(RegionError):
            self._observe(reader.grants(), now)
        self._write(now)

    def end(self, tenant_id: str, region: Path) -> None:
        """The last look at a tenant's region, which is about to be removed."""
        now = self._clock()
        with contextlib.suppress(RegionError):
            reader = RegionReader(region)
            try:
                grants = reader.grants()
            finally:
                reader.close()
            if grants.tenant_id == tenant_id:
                self._observe(grants, now)
        for key, watched in self._watched.items():
            watched.ended |= key.tenant_id == tenant_id
        self._write(now)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._write(self._clock())
        self._close_file()

    def _observe(self, grants: GrantsSnapshot, now: float) -> None:
        for row in grants.gpus:
            counters = _counters(row)
            if not counters.plausible:
                continue
            watched = self._known(ShareKey(grants.tenant_id, grants.tenant_name, row.gpu_uuid), row, now)
            if watched is not None:
                watched.added += counters.since(watched.seen)
                watched.seen = counters

    def _known(self, key: ShareKey, row: GrantedGpu, now: float) -> _Watched | None:
        """What is known of it; None while the file does not answer, for then the region still tells it later.

        A tenant that is older than the ledger begins now: when it got its time before, nobody knows.
        """
        if key not in self._watched:
            seen = None
            try:
                seen = self._opened().seen(key)
            except StateError as error:
                if not self._replaced(error):
                    return None
            self._watched[key] = _Watched(row.nvml_index, int(now), seen or _counters(row))
        return self._watched[key]

    # ---- the file ----

    def _write(self, now: float) -> None:
        """Write all that is new; what cannot be written stays for the next time."""
        if self._damage is not None:
            self._replaced(self._damage)
            self._damage = None
        minute = minute_of(now)
        due = {
            key: watched
            for key, watched in self._watched.items()
            if watched.added != _NOTHING or watched.written != minute or watched.ended
        }
        if not due:
            return
        entries = [self._entry(key, watched, minute) for key, watched in due.items()]
        try:
            self._opened().write(entries, int(now), minute_of(now - KEPT_S))
        except StateError as error:
            if self._replaced(error):
                self._write(now)
            return
        self._said.clear()
        for key, watched in due.items():
            watched.added, watched.written = _NOTHING, minute
            if watched.ended:
                del self._watched[key]

    def _entry(self, key: ShareKey, watched: _Watched, minute: int) -> Entry:
        # The first look in a minute tells of the one before: the agent looks as soon as one has ended.
        if minute_of(self._observed_s) == minute - MINUTE_S and watched.began < minute:
            minute -= MINUTE_S
        return Entry(key, watched.gpu_index, watched.began, minute, watched.seen, watched.added)

    def _opened(self) -> LedgerFile:
        if not self.path.exists():
            self._close_file()  # somebody has removed it: a new one begins
        if self._file is None:
            from cgpu.agent.ledger_file import LedgerFile

            self._file = LedgerFile(self.path, self._step)
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(StateError):
                self._file.close()
            self._file = None

    def _replaced(self, error: StateError) -> bool:
        """Say what is wrong, once; True when the file was set aside, so that a new one can be tried."""
        from cgpu.agent.ledger_file import DamagedLedgerError

        self._close_file()
        hopeless = isinstance(error, DamagedLedgerError) or _unwritable(self.path)
        text, replaced = f"{error.message}; what is added waits in memory", False
        # Once: a folder that damages every file must not fill up with them.
        if hopeless and not self._set_aside:
            self._set_aside = True
            text, replaced = self._move_aside(error)
        if text not in self._said:
            self._said.add(text)
            _LOG.warning("account of time: %s", text)
        return replaced

    def _move_aside(self, error: StateError) -> tuple[str, bool]:
        aside = unreadable_name(self.path)
        try:
            self.path.rename(aside)
            # A log without its file would be taken for the new one's.
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
        except OSError as problem:
            return f"{error.message}; and it cannot be renamed: {problem.strerror}", False
        for watched in self._watched.values():
            watched.written = -1
        return f"{error.message}; kept as {aside.name}, a new one begins", True

    # ---- questions ----

    def rows(self, query: AccountQuery) -> list[dict[str, Any]]:
        """What was asked, a row per tenant and GPU, or per step, tenant and GPU.

        Raises NoSuchTenantError and NoSuchGpuError for names that it does not know, UsageError for more
        than ``ROWS_MAX`` rows, StateError when the file cannot be read.
        """
        if not self.path.exists():
            return []
        from cgpu.agent.ledger_file import DamagedLedgerError, LedgerReader

        try:
            reader = LedgerReader(self.path)
            try:
                return _rows(reader, query, self._clock())
            finally:
                reader.close()
        except DamagedLedgerError as error:
            self._damage = error  # for the next write: only the agent's own thread may move the file
            raise


def _rows(reader: LedgerReader, query: AccountQuery, now: float) -> list[dict[str, Any]]:
    began = reader.began()
    if began is None:
        return []
    names = {what: name for what, name in (("tenant", query.tenant), ("gpu", query.gpu)) if name is not None}
    if query.tenant is not None and not reader.has("tenant", query.tenant):
        raise NoSuchTenantError(f"the account knows no tenant {query.tenant!r}", "`cgpu account` lists all it knows")
    if query.gpu is not None and not reader.has("gpu", query.gpu):
        raise NoSuchGpuError(f"the account knows no GPU {query.gpu!r}", "`cgpu account` lists all it knows")
    within = interval(query, began, now)
    if within.end <= within.begin:
        return []
    pieces = [
        (share, range(1) if query.step is None else share.known.cut(within).steps(query.step))
        for share in reader.shares(within, names, ROWS_MAX + 1)
    ]
    if sum(len(starts) for _, starts in pieces) > ROWS_MAX:
        raise UsageError(
            f"more than {ROWS_MAX} rows", "ask for a shorter interval, a longer step, or for one tenant or GPU"
        )
    sums = reader.sums(within, names, query.step)
    rows = [
        _row(share, _piece(within, start, query.step), sums.get((share.id, start), _NOTHING))
        for share, starts in pieces
        for start in starts
    ]
    return sorted(rows, key=lambda row: int(row["from"]))  # stable: within a step as the tenants began


def _piece(within: Interval, start: int, step: int | None) -> Interval:
    return within if step is None else Interval(start, start + step).cut(within)


def _row(share: ShareRow, piece: Interval, counters: Counters) -> dict[str, Any]:
    return {
        "tenant_id": share.key.tenant_id,
        "name": share.key.name,
        "gpu_uuid": share.key.gpu_uuid,
        "gpu_index": share.gpu_index,
        "from": piece.begin,
        "to": piece.end,
        **asdict(counters),
    }


def _counters(row: GrantedGpu) -> Counters:
    return Counters(row.busy_ns, row.waited_ns, row.turns, row.preempted, row.preempting)


def _unwritable(path: Path) -> bool:
    """Whether something is there that can never be written."""
    return path.exists() and not (path.is_file() and os.access(path, os.W_OK))

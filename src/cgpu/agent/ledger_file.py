"""The ledger's file: SQLite, a row per minute, tenant and GPU, and the counters last seen beside them.

The journal is a write-ahead log. A commit is then one append without fsync, which costs the agent's
loop nothing and outlives a kill -9 at any instant, since the kernel keeps the pages. A loss of power may
cost the last minutes, but never the file: fsync comes where the log is moved into it. And a long
query, in a connection of its own, does not hold the agent up.

Only ``cgpu.agent.ledger`` uses this, and imports it when it first has something to write: SQLite
takes some 2 MiB.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from cgpu.errors import StateError
from cgpu.model.account import COUNTERS, Counters, Entry, Interval, ShareKey, ShareRow

_VERSION: Final = 1
_WRITER_WAITS_S: Final = 0.05  # for a foreign tool that has locked the file; the next write brings what this one missed
_READER_WAITS_S: Final = 5.0
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_COLUMNS: Final = ", ".join(COUNTERS)
_SCHEMA: Final = f"""\
CREATE TABLE share (
  id INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  name TEXT NOT NULL,
  gpu_uuid TEXT NOT NULL,
  gpu_index INTEGER NOT NULL,
  began INTEGER NOT NULL,  -- Unix seconds
  last INTEGER NOT NULL,  -- when it was last looked at
  {", ".join(f"{name} INTEGER NOT NULL" for name in COUNTERS)},  -- the region's counters then
  UNIQUE (tenant_id, name, gpu_uuid)
);
CREATE INDEX share_last ON share (last);
CREATE TABLE minute (
  minute INTEGER NOT NULL,  -- its first second
  share INTEGER NOT NULL,
  {", ".join(f"{name} INTEGER NOT NULL" for name in COUNTERS)},  -- added in it
  PRIMARY KEY (minute, share)
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_PUT_SHARE: Final = f"""\
INSERT INTO share (tenant_id, name, gpu_uuid, gpu_index, began, last, {_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, {", ".join("?" * len(COUNTERS))})
ON CONFLICT (tenant_id, name, gpu_uuid) DO UPDATE SET gpu_index = excluded.gpu_index,
  began = min(began, excluded.began), last = excluded.last,
  {", ".join(f"{name} = excluded.{name}" for name in COUNTERS)}
"""
_ADD: Final = f"""\
INSERT INTO minute (minute, share, {_COLUMNS})
SELECT ?, id, {", ".join("?" * len(COUNTERS))} FROM share WHERE tenant_id = ? AND name = ? AND gpu_uuid = ?
ON CONFLICT (minute, share) DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTERS)}
"""


class LedgerError(StateError):
    """The ledger's file cannot be used now."""


class DamagedLedgerError(LedgerError):
    """It never will be: it is no ledger, or not a whole one."""


class LedgerFile:
    """The one connection that writes. Every method raises LedgerError."""

    def __init__(self, path: Path, step: Callable[[str], None] = lambda _: None) -> None:
        """Open or make it. ``step`` is called between the steps of a write, for tests of a killed agent."""
        self._step = step
        with _told(path):
            # Used by any thread, but by one at a time: that is the caller's part.
            self._connection = sqlite3.connect(
                path, timeout=_WRITER_WAITS_S, isolation_level=None, check_same_thread=False
            )
        self._path = path
        try:
            with _told(path):
                self._prepare()
        except LedgerError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Move the log into the file and close it."""
        with _told(self._path):
            self._connection.close()

    def seen(self, key: ShareKey) -> Counters | None:
        """The counters at the last look, or None when there was none."""
        where = "WHERE tenant_id = ? AND name = ? AND gpu_uuid = ?"
        with _told(self._path):
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM share {where}", key.values()).fetchone()
        return None if row is None else Counters(*row)

    def write(self, entries: Iterable[Entry], now: int, forget_before: int) -> None:
        """Add all entries and drop what is older than ``forget_before``, or change nothing."""
        with _told(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for entry in entries:
                    values = (entry.gpu_index, entry.began, now, *entry.seen.values())
                    self._connection.execute(_PUT_SHARE, (*entry.key.values(), *values))
                    self._step("ledger:seen")
                    if entry.added != Counters():
                        self._connection.execute(_ADD, (entry.minute, *entry.added.values(), *entry.key.values()))
                        self._step("ledger:added")
                self._connection.execute("DELETE FROM minute WHERE minute < ?", (forget_before,))
                self._connection.execute("DELETE FROM share WHERE last < ?", (forget_before,))
                self._step("ledger:written")
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        self._step("ledger:committed")

    def _prepare(self) -> None:
        run = self._connection.execute
        version = run("PRAGMA user_version").fetchone()[0]
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        empty = run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if version == 0 and empty:
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif version != _VERSION:
            raise DamagedLedgerError(f"{self._path}: not a ledger of version {_VERSION}")


class LedgerReader:
    """A connection for one question. Every method raises LedgerError."""

    def __init__(self, path: Path) -> None:
        """Open what is there; nothing is made."""
        self._path = path
        with _told(path):
            self._connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_READER_WAITS_S)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def began(self) -> int | None:
        """Since when anything is known, in Unix seconds; None: nothing is."""
        with _told(self._path):
            began: int | None = self._connection.execute("SELECT min(began) FROM share").fetchone()[0]
        return began

    def has(self, what: str, name: str) -> bool:
        """Whether any ``tenant`` or ``gpu`` of that name, id, index or UUID is in it."""
        with _told(self._path):
            found = self._connection.execute(f"SELECT 1 FROM share WHERE {_NAMED[what]} LIMIT 1", {what: name})
            return found.fetchone() is not None

    def shares(self, within: Interval, names: dict[str, str], limit: int) -> list[ShareRow]:
        """The tenants that there were in the interval, oldest first, at most ``limit``."""
        where = " AND ".join(["began < :end", "last >= :begin", *(_NAMED[what] for what in names)])
        columns = "id, tenant_id, name, gpu_uuid, gpu_index, began, last"
        order = "ORDER BY began, id LIMIT :limit"
        values: dict[str, Any] = {"begin": within.begin, "end": within.end, "limit": limit, **names}
        with _told(self._path):
            rows = self._connection.execute(f"SELECT {columns} FROM share WHERE {where} {order}", values).fetchall()
        return [ShareRow(row[0], ShareKey(*row[1:4]), row[4], Interval(row[5], row[6] + 1)) for row in rows]

    def sums(self, within: Interval, names: dict[str, str], step: int | None) -> dict[tuple[int, int], Counters]:
        """What was added, by share and by the step's first second; without a step by share and 0."""
        bucket = "0" if step is None else "minute / :step * :step"
        totals = ", ".join(f"sum(minute.{name})" for name in COUNTERS)
        where = " AND ".join(["minute >= :begin", "minute < :end", *(_NAMED[what] for what in names)])
        values: dict[str, Any] = {"begin": within.first_minute, "end": within.end, "step": step, **names}
        tables = "minute JOIN share ON share.id = minute.share"
        text = f"SELECT share.id, {bucket} AS bucket, {totals} FROM {tables} WHERE {where} GROUP BY share.id, bucket"
        with _told(self._path):
            return {(row[0], row[1]): Counters(*row[2:]) for row in self._connection.execute(text, values)}


_NAMED: Final = {
    "tenant": "(tenant_id = :tenant OR name = :tenant)",
    "gpu": "(gpu_uuid = :gpu OR CAST(gpu_index AS TEXT) = :gpu)",
}


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        # Extended codes carry the primary one in their low byte.
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = DamagedLedgerError if primary in _DAMAGED else LedgerError
        raise kind(f"{path}: {error}", "free some space, or check the folder") from error

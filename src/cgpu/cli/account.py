"""``cgpu account``: the time that tenants got of the GPUs, and what they waited for it."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from cgpu.adapters.agent_client import AgentClient, NoAgentError
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.errors import UsageError
from cgpu.model.account import COUNTERS, AccountQuery, parse_moment, parse_step
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu account                              all that is known, of at most 31 days
  cgpu account --since 2h --tenant train
  cgpu account --since 2026-01-31 --until 2026-02-01T08:00 --csv
  cgpu account --since 7d --step 1d --json

A time is ago (90s, 30m, 2h, 7d), an ISO-8601 date or date-time (local where no zone is given), or
Unix seconds (@1700000000). Minutes are counted whole. GOT% is the part of the interval.
"""
_HEADER: Final = ("TENANT", "NAME", "GPU", "GOT", "GOT%", "WAITED", "SLOTS", "PREEMPTED", "PREEMPTING")
_FIELDS: Final = ("tenant_id", "name", "gpu_uuid", "gpu_index", "from", "to", *COUNTERS, "simulated")
_NS_PER_S: Final = 10**9


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "account", run, "list the time that tenants got and waited for", EXAMPLES)
    parser.add_argument("--since", metavar="TIME", help="from then on; the beginning of the ledger when not given")
    parser.add_argument("--until", metavar="TIME", help="up to then; now when not given")
    parser.add_argument("--tenant", metavar="TENANT", help="one tenant, by id or name; also one that has ended")
    parser.add_argument("--gpu", metavar="IDX|UUID", help="one GPU")
    parser.add_argument("--step", metavar="TIME", type=parse_step, help="a row per step: 1m, 15m, 1h, 1d")
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--csv", action="store_true", help="print CSV with a header row, in the fields of --json")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print the account."""
    rows = _rows(query_of(options, time.time()), settings)
    if options.json:
        print(render.as_json(rows))
    elif options.csv:
        _print_csv(rows)
    else:
        print(listing(rows, history=options.step is not None))
    return 0


def query_of(options: argparse.Namespace, now_s: float) -> AccountQuery:
    """What is asked, as it would be at ``now_s``. Raises UsageError."""
    since = None if options.since is None else parse_moment(options.since, now_s)
    until = None if options.until is None else parse_moment(options.until, now_s)
    end, name = (now_s, "now") if until is None else (until, f"--until {options.until}")
    if since is not None and since >= end:
        raise UsageError(f"--since {options.since} is not before {name}", "choose an earlier --since")
    return AccountQuery(since, until, options.tenant, options.gpu, options.step)


def _rows(query: AccountQuery, settings: Settings) -> list[dict[str, Any]]:
    asked = {name: getattr(query, name) for name in AccountQuery.__slots__ if getattr(query, name) is not None}
    client = AgentClient.of(settings)
    try:
        rows: list[dict[str, Any]] = client.get(f"/v1/account?{urlencode(asked)}" if asked else "/v1/account")
    except NoAgentError:
        # A private agent ends with its last tenant, and its ledger stays.
        if client.path != settings.runtime_dir / "agent.sock" or not settings.account.exists():
            raise
        from cgpu.agent.ledger import Ledger

        simulated = settings.sim_state is not None
        rows = [{**row, "simulated": simulated} for row in Ledger(settings.account).rows(query)]
    return rows


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(_FIELDS)
    writer.writerows(
        [render.as_json(row[name]) if name == "simulated" else row[name] for name in _FIELDS] for row in rows
    )


def listing(rows: Sequence[dict[str, Any]], *, history: bool) -> str:
    """The table, and below it the interval."""
    header = ("FROM", *_HEADER) if history else _HEADER
    cells = [(_local(row["from"]), *_cells(row)) if history else _cells(row) for row in rows]
    notes = ["no tenant had a share of a GPU then"]
    if rows:
        begin, end = min(row["from"] for row in rows), max(row["to"] for row in rows)
        notes = [f"from {_local(begin)} to {_local(end)}"]
    if any(row["simulated"] for row in rows):
        notes.append(f"{render.SIMULATED}: this is the time of a simulated GPU")
    return "\n".join([render.table(header, cells), *notes])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    percent = 100 * row["got_ns"] / ((row["to"] - row["from"]) * _NS_PER_S)
    return (
        row["tenant_id"],
        row["name"],
        str(row["gpu_index"]),
        render.seconds(row["got_ns"]),
        f"{percent:.1f}%",
        render.seconds(row["waited_ns"]),
        str(row["turns"]),
        str(row["preempted"]),
        str(row["preempting"]),
    )


def _local(moment_s: int) -> str:
    return datetime.fromtimestamp(moment_s).astimezone().isoformat(timespec="seconds")

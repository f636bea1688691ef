"""``cgpu ps``: the tenants of this node, once or again and again."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from cgpu.adapters.agent_client import AgentClient
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.cli.watch import INTERVAL_SECONDS, endless_output, parse_interval, repeated, wait_for_reader
from cgpu.model.container import CDI_KIND, cdi_name_of
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu ps
  cgpu ps --json | jq '.[].shares[].used_bytes'
  cgpu ps --watch                               again every second; cgpu top is the same as a live picture
  cgpu ps --watch 5 --json >> tenants.jsonl     a JSON document per line

LAYER is what enforces the quota of memory and the share of time, such as shim/slots.
A process marked with ! is on the card without the shim: it went round the quota.
"""
_SHORT_ID = 12  # as container engines print them
_HEADER = ("TENANT", "NAME", "GPU", "MEMORY", "COMPUTE", "WEIGHT", "POLICY", "LAYER", "UTIL", "TIME", "OOM", "PIDS")


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "ps", run, "list the tenants of this node", EXAMPLES)
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const=INTERVAL_SECONDS,
        type=parse_interval,
        help="again and again, until interrupted; every second when no number is given",
    )
    add_json(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print them."""
    if options.watch is not None:
        return _watch(options.watch, settings, json_lines=options.json)
    tenants = AgentClient.of(settings).get("/v1/tenants")
    print(render.as_json(tenants) if options.json else listing(tenants))
    return 0


def _watch(seconds: float, settings: Settings, *, json_lines: bool) -> int:
    """Print them until somebody ends it."""

    def look() -> tuple[datetime, list[dict[str, Any]]]:
        # Which agent is this user's may change while we look.
        return datetime.now(UTC), AgentClient.of(settings).get("/v1/tenants")

    def tell(trouble: str) -> None:
        print(trouble, file=sys.stderr, flush=True)

    show = _json_line if json_lines else _timed_listing
    with endless_output():
        for time, tenants in repeated(look, lambda: wait_for_reader(seconds), tell):
            print(show(time, tenants), flush=True)
    return 0


def _json_line(time: datetime, tenants: list[dict[str, Any]]) -> str:
    document = {"time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "tenants": tenants}
    return json.dumps(document, separators=(",", ":"))


def _timed_listing(time: datetime, tenants: list[dict[str, Any]]) -> str:
    return f"{time.astimezone().isoformat(sep=' ', timespec='seconds')}\n{listing(tenants)}\n"


def listing(tenants: list[dict[str, Any]]) -> str:
    """The table, and below it what is wrong or worth knowing."""
    rows = [_row(tenant, share) for tenant in tenants for share in tenant["shares"]]
    notes = [f"{tenant['id']}: {_containers(tenant)}" for tenant in tenants if tenant["container"]]
    notes += [f"{tenant['id']}: {tenant['fault']}" for tenant in tenants if tenant["fault"]]
    if any(tenant["simulated"] for tenant in tenants):
        notes.append(f"{render.SIMULATED}: these tenants are on a simulated GPU")
    return "\n".join([render.table(_HEADER, rows), *notes])


def _containers(tenant: dict[str, Any]) -> str:
    name = cdi_name_of(tenant["id"], tenant["container"])
    return f"the containers with {CDI_KIND}={name}" if name else f"container {tenant['container'][:_SHORT_ID]}"


def _row(tenant: dict[str, Any], share: dict[str, Any]) -> tuple[str, ...]:
    return (
        tenant["id"],
        tenant["name"],
        render.gpu_index(share),
        f"{render.mebibytes(share['used_bytes'])}/{render.mebibytes(share['memory_bytes'])}",
        render.compute(share),
        str(share["weight"]),
        render.policy_name(share["policy"]),
        render.layers(share),
        f"{share['utilisation_percent']}%",
        render.seconds(share["busy_ns"]),
        str(share["oom_count"]),
        ",".join(_process(process) for process in share["processes"]) or "-",
    )


def _process(process: dict[str, Any]) -> str:
    pid = process["pid"] if process["host_pid"] is None else process["host_pid"]
    return f"{pid}!" if process["bypasses_shim"] else str(pid)

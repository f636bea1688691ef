"""``cgpu ps``: the tenants of this node."""

from __future__ import annotations

import argparse
from typing import Any

from cgpu.cli import render
from cgpu.cli.client import AgentClient
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu ps
  cgpu ps --json | jq '.[].shares[].used_bytes'

LAYER is what enforces the quota of memory and the share of time, such as shim/slots.
A process marked with ! is on the card without the shim: it went round the quota.
"""
_HEADER = ("TENANT", "NAME", "GPU", "MEMORY", "COMPUTE", "WEIGHT", "POLICY", "LAYER", "UTIL", "TIME", "OOM", "PIDS")


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    add_json(add_verb(subparsers, "ps", run, "list the tenants of this node", EXAMPLES))


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print them."""
    tenants = AgentClient.of(settings).get("/v1/tenants")
    print(render.as_json(tenants) if options.json else listing(tenants))
    return 0


def listing(tenants: list[dict[str, Any]]) -> str:
    """The table, and below it what is wrong or worth knowing."""
    rows = [_row(tenant, share) for tenant in tenants for share in tenant["shares"]]
    notes = [f"{tenant['id']}: {tenant['fault']}" for tenant in tenants if tenant["fault"]]
    if any(tenant["simulated"] for tenant in tenants):
        notes.append(f"{render.SIMULATED}: these tenants are on a simulated GPU")
    return "\n".join([render.table(_HEADER, rows), *notes])


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

"""``cgpu smi``: what is on the GPUs. Inside a tenant its own share, on the host everything."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from cgpu.adapters.agent_client import AgentClient
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.model.tenant import ComputeLayer, MemoryLayer, Policy
from cgpu.region.reader import GrantedGpu, RegionReader, SlotGpu, UsageSnapshot
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu smi                                      on the host: all GPUs, tenants and processes
  cgpu run --memory 6GiB -- cgpu smi            inside: this tenant's share and its own processes

Inside a tenant it needs no agent: it reads the tenant's own region.
"""
_LAYERS = (MemoryLayer.SHIM, MemoryLayer.DRIVER, MemoryLayer.BROKER)


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    add_json(add_verb(subparsers, "smi", run, "show GPUs, shares and processes", EXAMPLES))


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print the node, or this tenant's share."""
    if settings.region is not None:
        own = _own(settings.region, simulated=settings.sim_state is not None)
        print(render.as_json(own) if options.json else _own_text(own))
        return 0
    client = AgentClient.of(settings)
    gpus, tenants = client.get("/v1/gpus"), client.get("/v1/tenants")
    if options.json:
        print(render.as_json({"gpus": gpus, "tenants": tenants}))
    else:
        print("\n\n".join(_gpu_text(gpu, tenants) for gpu in gpus))
    return 0


def _gpu_text(gpu: dict[str, Any], tenants: list[dict[str, Any]]) -> str:
    mark = f" [{render.SIMULATED}]" if gpu["simulated"] else ""
    head = (
        f"GPU {gpu['index']}: {gpu['name']} ({gpu['uuid']}){mark}\n"
        f"  memory {render.mebibytes(gpu['used_bytes'])} / {render.mebibytes(gpu['total_bytes'])},"
        f" quotas {render.mebibytes(gpu['quota_bytes'])}, others {render.mebibytes(gpu['foreign_bytes'])};"
        f" utilisation {gpu['utilisation_percent']}%;"
        f" policy {render.policy_name(gpu['policy'])}; driver {gpu['driver_version']}"
        + (f"\n  does not answer: {gpu['fault']}" if gpu["fault"] else "")
    )
    header = ("TENANT", "SHARE", "LAYER", "UTIL", "PID", "COMMAND", "MEMORY")
    rows: list[tuple[str, ...]] = []
    for tenant in tenants:
        for share in tenant["shares"]:
            if share["gpu_uuid"] == gpu["uuid"]:
                rows += _share_rows(tenant["name"], share)
    return head + ("\n" + _indent(render.table(header, rows)) if rows else "\n  no tenants")


def _share_rows(name: str, share: dict[str, Any]) -> list[tuple[str, ...]]:
    quota = f"{render.mebibytes(share['used_bytes'])}/{render.mebibytes(share['memory_bytes'])}"
    rows: list[tuple[str, ...]] = [(name, quota, render.layers(share), f"{share['utilisation_percent']}%", "", "", "")]
    for process in share["processes"]:
        pid = process["pid"] if process["host_pid"] is None else process["host_pid"]
        mark = " (bypasses the shim)" if process["bypasses_shim"] else ""
        rows.append(("", "", "", "", str(pid), process["command"] + mark, render.mebibytes(process["memory_bytes"])))
    return rows


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _own(region: Path, *, simulated: bool) -> dict[str, Any]:
    with closing(RegionReader(region)) as reader:
        grants = reader.grants()
        usage = reader.usage(len(grants.gpus))
    return {
        "id": grants.tenant_id,
        "name": grants.tenant_name,
        "simulated": simulated,
        "shares": [_own_share(row, usage) for row in grants.gpus],
    }


def _own_share(row: GrantedGpu, usage: UsageSnapshot) -> dict[str, Any]:
    policy = Policy(row.policy)
    processes: list[tuple[int, str, SlotGpu]] = [
        (slot.pid, slot.command, slot.gpus[row.row]) for slot in usage.slots if slot.alive
    ]
    return {
        "gpu_uuid": row.gpu_uuid,
        "memory_bytes": row.quota_bytes,
        "used_bytes": usage.gpus[row.row].used_bytes + row.overhead_bytes,
        "memory_layer": str(_LAYERS[row.memory_layer]),
        "compute_layer": str(ComputeLayer.NONE if policy is Policy.NATIVE else ComputeLayer.SLOTS),
        "compute_percent": row.compute_percent or None,
        "compute_enforced": policy.enforces_compute_percent,
        "weight": row.weight,
        "policy": row.policy,
        "utilisation_percent": row.utilisation_percent,
        "busy_ns": row.busy_ns,
        "oom_count": usage.gpus[row.row].oom_count,
        "processes": [
            {"pid": pid, "command": command, "memory_bytes": on_gpu.charge_bytes} for pid, command, on_gpu in processes
        ],
    }


def _own_text(own: dict[str, Any]) -> str:
    mark = f" [{render.SIMULATED}]" if own["simulated"] else ""
    parts = []
    for number, share in enumerate(own["shares"]):
        parts.append(
            f"tenant {own['name']}, GPU {number} ({share['gpu_uuid']}){mark}\n"
            f"  memory {render.mebibytes(share['used_bytes'])} / {render.mebibytes(share['memory_bytes'])};"
            f" utilisation {share['utilisation_percent']}%; policy {render.policy_name(share['policy'])};"
            f" compute {render.compute(share)}; weight {share['weight']}; layer {render.layers(share)}"
        )
        rows = [(str(row["pid"]), row["command"], render.mebibytes(row["memory_bytes"])) for row in share["processes"]]
        if rows:
            parts.append(_indent(render.table(("PID", "COMMAND", "MEMORY"), rows)))
    return "\n".join(parts)

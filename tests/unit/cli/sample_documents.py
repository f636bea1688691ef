"""Documents as the agent's API gives them, of a node that never was."""

from __future__ import annotations

from typing import Any

from cgpu.cli.top_view import Look
from cgpu.model.units import GIB, MIB

UUID = "GPU-11111111-2222-3333-4444-555555555555"
SECOND_NS = 1_000_000_000


def gpu(**values: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "uuid": UUID,
        "name": "Tesla T4",
        "driver_version": "550.163.01",
        "simulated": True,
        "mig": False,
        "pci_bus_id": "0000:00:1E.0",
        "total_bytes": 15079 * MIB,
        "fault": "",
        "used_bytes": 5 * GIB,
        "foreign_bytes": 0,
        "quota_bytes": 6 * GIB,
        "context_bytes": 100 * MIB,
        "utilisation_percent": 97,
        "policy": 2,
        "policy_chosen": None,
        "memory_layers": ["shim"],
        "compute_layer": "slots",
        "max_inst": 20,
        "overcommit": False,
        "prio_ratio": 80,
        "quantum_ms": 10,
        "share_slots": False,
        "tenants": 3,
        "arbiter": {},
        **values,
    }


def share(**values: Any) -> dict[str, Any]:
    return {
        "gpu_index": 0,
        "gpu_uuid": UUID,
        "memory_bytes": 2 * GIB,
        "memory_layer": "shim",
        "compute_percent": None,
        "compute_limit_percent": None,
        "compute_enforced": False,
        "compute_layer": "slots",
        "weight": 1,
        "priority": 0,
        "policy": 2,
        "used_bytes": 512 * MIB,
        "overhead_bytes": 0,
        "peak_bytes": 512 * MIB,
        "asked_percent": 25.0,
        "waiting": False,
        "utilisation_percent": 24,
        "busy_ns": 0,
        "waited_ns": 0,
        "turns": 0,
        "preempted": 0,
        "preempting": 0,
        "launches": 0,
        "oom_count": 0,
        "denied_count": 0,
        "processes": [],
        **values,
    }


def process(**values: Any) -> dict[str, Any]:
    return {"pid": 7, "host_pid": 7, "command": "python", "memory_bytes": MIB, "bypasses_shim": False, **values}


def tenant(name: str, *shares: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "region": f"/run/cgpu/tenants/{name}",
        "cgroup": "",
        "container": "",
        "require_layer": None,
        "refuse_managed": False,
        "lifetime": "explicit",
        "simulated": True,
        "fault": "",
        "shares": list(shares) or [share()],
        **values,
    }


def look(
    *tenants: dict[str, Any], gpus: list[dict[str, Any]] | None = None, second: float = 0.0, clock: str = "12:00:00"
) -> Look:
    return Look([gpu()] if gpus is None else gpus, tenants, round(second * SECOND_NS), clock)

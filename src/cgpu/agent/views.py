"""The state of the node as the API's documents."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import Any, Final

from cgpu import __version__
from cgpu.agent.documents import Record
from cgpu.agent.ports import GpuNode
from cgpu.agent.state import NodeState
from cgpu.agent.survey import Survey
from cgpu.errors import NoSuchGpuError
from cgpu.model.account import AccountQuery
from cgpu.model.tenant import ComputeLayer, Gpu, Policy, ProcessUsage, Share
from cgpu.region.layout import CGPU_DEMAND_HOLD, CGPU_DEMAND_WANT
from cgpu.region.reader import GrantedGpu

_PPM_PER_PERCENT: Final = 10_000
_WANT_AND_HOLD: Final = CGPU_DEMAND_WANT | CGPU_DEMAND_HOLD


class Views:
    """Builds documents; changes nothing."""

    def __init__(self, state: NodeState, node: GpuNode, *, private: bool, runtime_dir: str) -> None:
        self._state = state
        self._node = node
        self._private = private
        self._runtime_dir = runtime_dir

    def info(self) -> dict[str, Any]:
        """The agent and its node."""
        gpus = self._state.gpus()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "private": self._private,
            "driver_version": self._node.driver_version(),
            "simulated": any(gpu.simulated for gpu in gpus),
            "runtime_dir": self._runtime_dir,
            "gpus": len(gpus),
            "tenants": len(self._state.records()),
            "memory_layers": [str(layer) for layer in self._state.limits.layers(gpus)],
        }

    def gpus(self) -> list[dict[str, Any]]:
        """All cards."""
        survey = self._state.recent_survey()
        return [self._gpu(gpu, survey) for gpu in self._state.gpus()]

    def gpu(self, gpu: Gpu) -> dict[str, Any]:
        """One card."""
        return self._gpu(gpu, self._state.recent_survey((gpu.uuid,)))

    def tenants(self) -> list[dict[str, Any]]:
        """All tenants."""
        survey = self._state.recent_survey()
        return [self._tenant(record, survey) for record in self._state.records()]

    def tenant(self, record: Record) -> dict[str, Any]:
        """One tenant."""
        survey = self._state.recent_survey({share.gpu_uuid for share in record.tenant.shares})
        reading, grants = survey.readings.get(record.tenant.id), self._state.grants_now(record.tenant.id)
        if reading is not None and grants is not None:  # its share may have been changed since the look
            survey.readings[record.tenant.id] = replace(reading, grants=grants)
        return self._tenant(record, survey)

    def account(self, query: AccountQuery) -> list[dict[str, Any]]:
        """Time got and waited for, up to now. Raises what ``Ledger.rows`` raises."""
        self._state.account()
        known = query.gpu is None
        # A card that has gone is known to the ledger alone, one that never had a tenant to this node alone.
        with contextlib.suppress(NoSuchGpuError):
            if query.gpu is not None:
                query, known = replace(query, gpu=self._state.gpu(query.gpu).uuid), True
        try:
            rows = self._state.ledger.rows(query)
        except NoSuchGpuError:
            if not known:
                raise
            rows = []
        simulated = any(gpu.simulated for gpu in self._state.gpus())
        return [{**row, "simulated": simulated} for row in rows]

    def _gpu(self, gpu: Gpu, survey: Survey) -> dict[str, Any]:
        policy = self._state.policy(gpu)
        fault = survey.failed.get(gpu.uuid)
        shares = [share for record in self._state.records() if (share := record.tenant.share_on(gpu.uuid))]
        return {
            "index": gpu.index,
            "uuid": gpu.uuid,
            "name": gpu.name,
            "driver_version": gpu.driver_version,
            "simulated": gpu.simulated,
            "mig": gpu.mig,
            "pci_bus_id": gpu.pci_bus_id,
            "total_bytes": gpu.total_bytes,
            "fault": fault.message if fault else "",
            "used_bytes": 0 if fault else survey.used_bytes[gpu.uuid],
            "foreign_bytes": 0 if fault else survey.foreign_bytes(gpu.uuid),
            "quota_bytes": sum(share.memory_bytes for share in shares),
            "context_bytes": self._state.context_bytes(gpu),
            "utilisation_percent": 0 if fault else self._node.utilisation_percent(gpu),
            "policy": int(self._state.policy_in_force(gpu)),
            "policy_chosen": None if policy.policy is None else int(policy.policy),
            "memory_layers": [str(layer) for layer in self._state.limits.layers((gpu,))],
            "compute_layer": str(self._state.compute_layer(gpu)),
            "max_inst": policy.max_inst,
            "overcommit": policy.overcommit,
            "prio_ratio": policy.prio_ratio,
            "quantum_ms": policy.quantum_ms,
            "share_slots": policy.share_slots,
            "tenants": len(shares),
            "arbiter": dict(self._state.arbiter.counters(gpu)),
        }

    def _tenant(self, record: Record, survey: Survey) -> dict[str, Any]:
        tenant = record.tenant
        gpus = {gpu.uuid: gpu for gpu in self._state.gpus()}
        return {
            "id": tenant.id,
            "name": tenant.name,
            "region": str(self._state.region(tenant.id)),
            "cgroup": tenant.cgroup,
            "container": tenant.container,
            "require_layer": None if tenant.require_layer is None else str(tenant.require_layer),
            "refuse_managed": tenant.refuse_managed,
            "lifetime": "explicit" if record.root is None else "caller",
            "simulated": any(gpus[share.gpu_uuid].simulated for share in tenant.shares if share.gpu_uuid in gpus),
            "fault": self._state.fault(tenant.id) or survey.damaged.get(tenant.id, ""),
            "shares": [
                self._share(record, share, row, gpus.get(share.gpu_uuid), survey)
                for row, share in enumerate(tenant.shares)
            ],
        }

    def _share(self, record: Record, share: Share, row: int, gpu: Gpu | None, survey: Survey) -> dict[str, Any]:
        policy = self._state.policy_in_force(gpu) if gpu else Policy.NATIVE
        return {
            "gpu_index": gpu.index if gpu else None,
            "gpu_uuid": share.gpu_uuid,
            "memory_bytes": share.memory_bytes,
            "memory_layer": str(record.tenant.memory_layer),
            "compute_percent": share.compute_percent,
            "compute_limit_percent": share.compute_limit_percent,
            "compute_enforced": policy.enforces_compute_percent,
            "compute_layer": str(self._state.compute_layer(gpu) if gpu else ComputeLayer.NONE),
            "weight": share.weight,
            "priority": share.priority,
            "policy": int(policy),
            **self._usage(record.tenant.id, share.gpu_uuid, row, survey),
        }

    def _usage(self, tenant_id: str, gpu_uuid: str, row: int, survey: Survey) -> dict[str, Any]:
        reading = survey.readings.get(tenant_id)
        attributed = survey.on(tenant_id, gpu_uuid)
        granted: GrantedGpu | None = reading.grants.gpus[row] if reading else None
        used = reading.usage.gpus[row] if reading else None
        slots = [slot.gpus[row] for slot in reading.usage.slots if slot.alive] if reading else []
        # What a process has charged above the card's truth it returns before its next allocation.
        returnable = sum(surplus for surplus, _ in attributed.surplus.values())
        used_bytes = max(0, (used.used_bytes if used else 0) - returnable) + attributed.overhead_bytes
        return {
            "used_bytes": used_bytes,
            "overhead_bytes": attributed.overhead_bytes,
            "peak_bytes": used.peak_bytes if used else 0,
            "asked_percent": granted.share_ppm / _PPM_PER_PERCENT if granted else 0,
            "waiting": granted is not None and granted.demand & _WANT_AND_HOLD == CGPU_DEMAND_WANT,
            "utilisation_percent": granted.utilisation_percent if granted else 0,
            "busy_ns": granted.busy_ns if granted else 0,
            "waited_ns": granted.waited_ns if granted else 0,
            "turns": granted.turns if granted else 0,
            "preempted": granted.preempted if granted else 0,
            "preempting": granted.preempting if granted else 0,
            "launches": sum(slot.launches for slot in slots),
            "oom_count": used.oom_count if used else 0,
            "denied_count": used.denied_count if used else 0,
            "processes": [_process(process) for process in attributed.processes],
        }


def _process(process: ProcessUsage) -> dict[str, Any]:
    """As ``asdict`` has it, which takes 25 times as long; a full host has some hundred."""
    return {
        "pid": process.pid,
        "host_pid": process.host_pid,
        "command": process.command,
        "memory_bytes": process.memory_bytes,
        "bypasses_shim": process.bypasses_shim,
    }

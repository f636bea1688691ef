"""The checkpoint's document: tenants, policies and learned sizes to JSON and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from cgpu.agent.attribution import ContextEstimate
from cgpu.model.tenant import GpuPolicy, MemoryLayer, Policy, Share, Tenant


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process of the host, safe against a reused pid."""

    host_pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Record:
    """A tenant and the process with which it ends. None: it ends when it is removed."""

    tenant: Tenant
    root: ProcessRef | None = None


class Limit(NamedTuple):
    """Where the driver may hold a limit of memory."""

    cgroup: str
    gpu_uuid: str


@dataclass(frozen=True, slots=True)
class NodeDocument:
    """All that the agent must know after its own death."""

    records: dict[str, Record]
    policies: dict[str, GpuPolicy]  # by GPU UUID
    contexts: dict[str, ContextEstimate]  # by GPU UUID, measured ones only
    limits: frozenset[Limit] = frozenset()  # written down before they are set, and until they are cleared
    leaves: frozenset[str] = frozenset()  # cgroups of tenants that have ended, which may still be there

    def shares_on(self, gpu_uuid: str) -> tuple[Share, ...]:
        """The tenants' shares of a card."""
        found = (record.tenant.share_on(gpu_uuid) for record in self.records.values())
        return tuple(share for share in found if share is not None)

    def policy(self, gpu_uuid: str) -> GpuPolicy:
        """How a card is shared."""
        return self.policies.get(gpu_uuid, GpuPolicy())

    def policy_in_force(self, gpu_uuid: str) -> Policy:
        """The policy that holds for a card now."""
        return self.policy(gpu_uuid).in_force(self.shares_on(gpu_uuid))


def encode(document: NodeDocument) -> dict[str, Any]:
    """JSON values of the document."""
    return {
        "tenants": [asdict(record) for record in document.records.values()],
        "policies": {uuid: asdict(policy) for uuid, policy in document.policies.items()},
        "contexts": {uuid: asdict(estimate) for uuid, estimate in document.contexts.items()},
        "limits": sorted(document.limits),
        "leaves": sorted(document.leaves),
    }


def decode(data: dict[str, Any]) -> NodeDocument:
    """The document again. Raises KeyError, TypeError or ValueError for what ``encode`` cannot have written."""
    records = [_record(row) for row in data["tenants"]]
    return NodeDocument(
        records={record.tenant.id: record for record in records},
        policies={uuid: _policy(row) for uuid, row in data["policies"].items()},
        contexts={uuid: ContextEstimate(**row) for uuid, row in data["contexts"].items()},
        limits=frozenset(Limit(str(cgroup), str(gpu_uuid)) for cgroup, gpu_uuid in data.get("limits", [])),
        leaves=frozenset(map(str, data.get("leaves", []))),
    )


def _record(row: dict[str, Any]) -> Record:
    tenant = dict(row["tenant"])
    tenant["shares"] = tuple(Share(**share) for share in tenant["shares"])
    tenant["memory_layer"] = MemoryLayer(tenant["memory_layer"])
    required = tenant.get("require_layer")
    tenant["require_layer"] = None if required is None else MemoryLayer(required)
    return Record(Tenant(**tenant), ProcessRef(**row["root"]) if row["root"] is not None else None)


def _policy(row: dict[str, Any]) -> GpuPolicy:
    values = dict(row)
    values["policy"] = None if values["policy"] is None else Policy(values["policy"])
    return GpuPolicy(**values)

"""The checkpoint's document: tenants, policies and measured sizes to JSON and back."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from cgpu.model.tenant import GpuPolicy, MemoryLayer, Policy, Share, Tenant

UNDECODABLE: Final = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What ``decode`` raises; the last for a size that is Infinity."""

_ENCODED_MAX: Final = 1024  # records; a node of 16 full cards has 320


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process of the host, safe against a reused pid."""

    host_pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Member:
    """One of the containers that use a tenant together, as a hook of its runtime has told."""

    process: ProcessRef  # its first
    cgroup: str  # its own; empty: it has none, or the driver has no limits
    loads_shim: bool = True  # False: only the driver can hold it to the quota


@dataclass(frozen=True, slots=True)
class Record:
    """A tenant and the process with which it ends. None: it ends when it is removed."""

    tenant: Tenant
    root: ProcessRef | None = None
    members: tuple[Member, ...] = ()  # of a tenant that any number of containers use

    @property
    def cgroups(self) -> tuple[str, ...]:
        """All cgroups whose processes are the tenant's."""
        return tuple(path for path in (self.tenant.cgroup, *(member.cgroup for member in self.members)) if path)


class Limit(NamedTuple):
    """Where the driver may hold a limit of memory."""

    cgroup: str
    gpu_uuid: str


@dataclass(frozen=True, slots=True)
class NodeDocument:
    """All that the agent must know after its own death."""

    records: dict[str, Record]
    policies: dict[str, GpuPolicy]  # by GPU UUID
    contexts: dict[str, int]  # what a bare context takes, by GPU UUID; measured ones only
    limits: frozenset[Limit] = frozenset()  # written down before they are set, and until they are cleared
    leaves: frozenset[str] = frozenset()  # cgroups of tenants that have ended, which may still be there
    _in_force: dict[str, Policy] = field(default_factory=dict, init=False, compare=False, repr=False)  # kept answers

    def shares_on(self, gpu_uuid: str) -> tuple[Share, ...]:
        """The tenants' shares of a card."""
        found = (record.tenant.share_on(gpu_uuid) for record in self.records.values())
        return tuple(share for share in found if share is not None)

    def kept_on(self, gpu_uuid: str) -> tuple[Share, ...]:
        """What of a card the tenants keep from others; in the order of ``shares_on``."""
        found = (record.tenant.kept_on(gpu_uuid) for record in self.records.values())
        return tuple(share for share in found if share is not None)

    def policy(self, gpu_uuid: str) -> GpuPolicy:
        """How a card is shared."""
        return self.policies.get(gpu_uuid, GpuPolicy())

    def policy_in_force(self, gpu_uuid: str) -> Policy:
        """The policy that holds for a card now. Kept: each tenant of the card is told it at every change."""
        if gpu_uuid not in self._in_force:
            self._in_force[gpu_uuid] = self.policy(gpu_uuid).in_force(self.shares_on(gpu_uuid))
        return self._in_force[gpu_uuid]


def encode(document: NodeDocument) -> dict[str, Any]:
    """JSON values of the document."""
    return {
        "tenants": [_encoded(record) for record in document.records.values()],
        "policies": {uuid: asdict(policy) for uuid, policy in document.policies.items()},
        "contexts": document.contexts,
        "limits": sorted(document.limits),
        "leaves": sorted(document.leaves),
    }


def decode(data: dict[str, Any]) -> NodeDocument:
    """The document again. Raises one of UNDECODABLE for what ``encode`` cannot have written."""
    records = [_record(row) for row in data["tenants"]]
    return NodeDocument(
        records={record.tenant.id: record for record in records},
        policies={uuid: _policy(row) for uuid, row in data["policies"].items()},
        contexts={str(uuid): int(size) for uuid, size in data["contexts"].items()},
        limits=frozenset(Limit(str(cgroup), str(gpu_uuid)) for cgroup, gpu_uuid in data.get("limits", [])),
        leaves=frozenset(map(str, data.get("leaves", []))),
    )


@functools.lru_cache(_ENCODED_MAX)
def _encoded(record: Record) -> dict[str, Any]:
    """Kept, since every change writes all records down and changes one."""
    row = asdict(record)
    if not record.tenant.promised:
        del row["tenant"]["promised"]  # so that a release that does not know of it can go on
    return row


def _record(row: dict[str, Any]) -> Record:
    tenant = dict(row["tenant"])
    tenant["shares"] = tuple(Share(**share) for share in tenant["shares"])
    tenant["promised"] = tuple(Share(**share) for share in tenant.get("promised", ()))
    tenant["memory_layer"] = MemoryLayer(tenant["memory_layer"])
    required = tenant.get("require_layer")
    tenant["require_layer"] = None if required is None else MemoryLayer(required)
    return Record(
        Tenant(**tenant),
        ProcessRef(**row["root"]) if row["root"] is not None else None,
        tuple(_member(member) for member in row.get("members", ())),
    )


def _member(row: dict[str, Any]) -> Member:
    return Member(ProcessRef(**row["process"]), str(row["cgroup"]), bool(row["loads_shim"]))


def _policy(row: dict[str, Any]) -> GpuPolicy:
    values = dict(row)
    values["policy"] = None if values["policy"] is None else Policy(values["policy"])
    return GpuPolicy(**values)

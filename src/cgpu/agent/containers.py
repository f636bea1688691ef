"""Which process and which cgroup are a container's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from cgpu.adapters.cgroup import is_within
from cgpu.agent.documents import Member, ProcessRef, Record
from cgpu.agent.members import with_layers, with_member
from cgpu.agent.ports import Cgroups, Processes
from cgpu.errors import RefusedError
from cgpu.model.container import is_claims, is_shared
from cgpu.model.tenant import Tenant


def own_cgroup(cgroup: str, outside: Iterable[str]) -> str:
    """The cgroup of a container's first process, or "" where it is not the container's own.

    ``outside``: the cgroups of processes and tenants that are not in the container. Without cgroups of
    its own (``podman run --cgroups=disabled``) a container is in that of whoever started it.
    """
    return "" if cgroup in ("", "/") or any(is_within(other, cgroup) for other in outside) else cgroup


def runs(process: ProcessRef, processes: Processes) -> bool:
    """Whether it is still that process, and has not ended."""
    return processes.start_ticks(process.host_pid) == process.start_ticks


def is_container(tenant: Tenant) -> bool:
    """Whether the tenant is one container's, and ends with it; see also ``is_shared``."""
    return tenant.container != "" and not is_shared(tenant.id, tenant.container)


def process_of_container(
    record: Record, host_pid: int, records: Iterable[Record], processes: Processes, cgroups: Cgroups
) -> ProcessRef:
    """The process as the first of a container of the record's. Raises RefusedError when it cannot be that."""
    if not is_container(record.tenant) and not is_claims(record.tenant.id, record.tenant.container):
        raise RefusedError(f"tenant {record.tenant.id!r} is not a container's", "make it with `container`")
    start_ticks = processes.start_ticks(host_pid)
    if start_ticks is None:
        raise RefusedError(f"there is no process {host_pid} here", "the pid is one of the agent's own PID namespace")
    process, cgroup = ProcessRef(host_pid, start_ticks), cgroups.of(host_pid)
    for other in records:
        is_own = other.tenant.id == record.tenant.id
        if not is_own and (other.root == process or any(is_within(cgroup, path) for path in other.cgroups)):
            raise RefusedError(f"process {host_pid} is of tenant {other.tenant.id!r}", "name the container's own")
    first = record.root
    if record.tenant.cgroup and first is not None and first != process and runs(first, processes):
        raise RefusedError(
            f"tenant {record.tenant.id!r} is attached to process {first.host_pid}", "end that container first"
        )
    return process


def cgroup_of_container(
    record: Record, host_pid: int, outside: Iterable[int], records: Iterable[Record], cgroups: Cgroups
) -> str:
    """The cgroup of a container of the record's, or "" where it has none of its own.

    ``host_pid`` is its first process, ``outside`` are processes that are not in it.
    """
    cgroup = cgroups.of(host_pid)
    others = [path for other in records if other.tenant.id != record.tenant.id for path in other.cgroups]
    others += [member.cgroup for member in record.members if member.cgroup not in ("", cgroup)]
    return own_cgroup(cgroup, [*(cgroups.of(pid) for pid in outside), *others])


def joined(record: Record, member: Member, processes: Processes, cgroups: Cgroups) -> Record:
    """The record with one more container, and without those that have ended."""
    return replace(record, members=with_member(_living(record, processes, cgroups), member))


def _living(record: Record, processes: Processes, cgroups: Cgroups) -> tuple[Member, ...]:
    return tuple(
        member for member in record.members if runs(member.process, processes) or cgroups.populated(member.cgroup)
    )


def without_ended(
    records: Mapping[str, Record], processes: Processes, cgroups: Cgroups, planned: Callable[[Tenant], Tenant]
) -> dict[str, Record]:
    """The records without containers of claims that have ended. ``planned`` gives a tenant that has none its layer."""
    changed = {
        tenant_id: replace(record, tenant=planned(record.tenant), members=living)
        for tenant_id, record in records.items()
        if (living := _living(record, processes, cgroups)) != record.members
    }
    return with_layers({**records, **changed})

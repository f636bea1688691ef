"""Which process and which cgroup are a container's own."""

from __future__ import annotations

from collections.abc import Iterable

from cgpu.adapters.cgroup import is_within
from cgpu.agent.documents import ProcessRef, Record
from cgpu.agent.ports import Cgroups, Processes
from cgpu.errors import RefusedError
from cgpu.model.container import cdi_name_of
from cgpu.model.tenant import Tenant


def own_cgroup(cgroup: str, outside: Iterable[str]) -> str:
    """The cgroup of a container's first process, or "" where it is not the container's own.

    ``outside``: the cgroups of processes and tenants that are not in the container. Without cgroups of
    its own (``podman run --cgroups=disabled``) a container is in that of whoever started it.
    """
    return "" if cgroup in ("", "/") or any(is_within(other, cgroup) for other in outside) else cgroup


def is_container(tenant: Tenant) -> bool:
    """Whether a container attaches to the tenant; the users of a CDI device are many and do not."""
    return tenant.container != "" and not cdi_name_of(tenant.id, tenant.container)


def process_of_container(
    record: Record, host_pid: int, records: Iterable[Record], processes: Processes, cgroups: Cgroups
) -> ProcessRef:
    """The process as the first of the record's container. Raises RefusedError when it cannot be that."""
    if not is_container(record.tenant):
        raise RefusedError(f"tenant {record.tenant.id!r} is not a container's", "make it with `container`")
    start_ticks = processes.start_ticks(host_pid)
    if start_ticks is None:
        raise RefusedError(f"there is no process {host_pid} here", "the pid is one of the agent's own PID namespace")
    process, cgroup = ProcessRef(host_pid, start_ticks), cgroups.of(host_pid)
    for other in records:
        is_own = other.tenant.id == record.tenant.id
        if not is_own and (other.root == process or is_within(cgroup, other.tenant.cgroup)):
            raise RefusedError(f"process {host_pid} is of tenant {other.tenant.id!r}", "name the container's own")
    first = record.root
    if (
        record.tenant.cgroup
        and first is not None
        and first != process
        and processes.start_ticks(first.host_pid) == first.start_ticks
    ):
        raise RefusedError(
            f"tenant {record.tenant.id!r} is attached to process {first.host_pid}", "end that container first"
        )
    return process

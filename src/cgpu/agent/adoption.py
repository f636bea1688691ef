"""What the agent before this one has left: its checkpoint, or the tenants that regions tell of."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from cgpu.adapters.cgroup import is_within
from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.adapters.process import Identity
from cgpu.agent.containers import own_cgroup
from cgpu.agent.documents import UNDECODABLE, Member, NodeDocument, ProcessRef, Record, decode
from cgpu.agent.ports import Cgroups, Processes
from cgpu.agent.wishes import tenant_of
from cgpu.errors import RegionError
from cgpu.model import container
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import MemoryLayer
from cgpu.region.reader import RegionReader
from cgpu.region.writer import CONTAINER_FOLDER_MODE


def adopt(folders: Iterable[Path], processes: Processes, cgroups: Cgroups) -> tuple[dict[str, Record], dict[str, str]]:
    """The tenants that are still there, by id, and what is wrong with the regions that cannot be read.

    A container is there as long as a process has its region mounted, whether it uses a GPU or not; a CDI device
    as long as its region is, since a container may be started with it at any time. Of any other tenant nothing
    but a process on a GPU tells that somebody still wants it.
    """
    records: dict[str, Record] = {}
    faults: dict[str, str] = {}
    for folder in folders:
        try:
            record = _adopted(folder, processes, cgroups)
        except RegionError as error:
            faults[folder.name] = error.message
            continue
        if record is not None:
            records[folder.name] = record
    return records, faults


def _adopted(folder: Path, processes: Processes, cgroups: Cgroups) -> Record | None:
    with closing(RegionReader(folder)) as reader:
        grants = reader.grants()
        living = [slot for slot in reader.usage(0).slots if slot.alive]
    if grants.tenant_id != folder.name:
        return None
    tenant = replace(tenant_of(grants), memory_layer=MemoryLayer.SHIM)  # which limits there were, no one knows
    if stat.S_IMODE(folder.stat().st_mode) != CONTAINER_FOLDER_MODE:
        return Record(tenant) if living else None
    if container.is_shared(tenant.id, container.CDI_CONTAINER):
        tenant = replace(tenant, container=container.CDI_CONTAINER)
        if not container.is_claims(tenant.id, tenant.container):
            return Record(tenant)
        members = _members(processes.with_mounted(folder / GRANTS, container.REGION / GRANTS), processes, cgroups)
        # What its claim has is not known here: no less than this.
        return Record(replace(tenant, promised=tenant.shares), members=members)
    tenant = replace(tenant, container=tenant.id.removeprefix(container.TENANT_PREFIX))
    host_pids = processes.with_mounted(folder / GRANTS, container.REGION / GRANTS) or [
        host_pid
        for slot in living
        if (host_pid := processes.find(Identity(slot.pid, slot.start_ticks, slot.pid_namespace))) is not None
    ]
    first = min(
        (ProcessRef(host_pid, ticks) for host_pid in host_pids if (ticks := processes.start_ticks(host_pid))),
        key=lambda process: (process.start_ticks, process.host_pid),
        default=None,
    )
    if first is None:
        return Record(tenant, ProcessRef(0, 0)) if living else None
    cgroup = own_cgroup(cgroups.of(first.host_pid).rstrip("/"), [cgroups.of(os.getpid())])
    return Record(replace(tenant, cgroup=cgroup), first)


def _members(host_pids: Iterable[int], processes: Processes, cgroups: Cgroups) -> tuple[Member, ...]:
    """The containers of a claim by the cgroups of their processes. Whether they load the shim, no one knows."""
    first: dict[str, ProcessRef] = {}
    outside = [cgroups.of(os.getpid())]
    for host_pid in sorted(host_pids):
        cgroup, ticks = own_cgroup(cgroups.of(host_pid).rstrip("/"), outside), processes.start_ticks(host_pid)
        if cgroup and ticks:
            first.setdefault(cgroup, ProcessRef(host_pid, ticks))
    whole = {path for path in first if not any(path != other and is_within(path, other) for other in first)}
    return tuple(Member(process, path) for path, process in first.items() if path in whole)


def region_folders(tenants_dir: Path) -> list[Path]:
    """All regions there are, whole or not."""
    return sorted(tenants_dir.iterdir()) if tenants_dir.is_dir() else []


def checkpointed(store: CheckpointStore) -> NodeDocument | None:
    """The last checkpoint; None when there is none. Raises StateError for one that cannot be read."""
    data = store.load()
    if data is None:
        return None
    try:
        return decode(data)
    except UNDECODABLE as error:
        raise store.set_aside(f"not a checkpoint: {error!r}") from error

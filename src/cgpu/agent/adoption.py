"""What the agent before this one has left: its checkpoint, or the tenants that regions tell of."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.adapters.process import Identity
from cgpu.agent.documents import NodeDocument, ProcessRef, Record, decode
from cgpu.agent.ports import Cgroups, Processes
from cgpu.agent.wishes import tenant_of
from cgpu.errors import RegionError
from cgpu.model.container import CDI_CONTAINER, CDI_TENANT_PREFIX, TENANT_PREFIX
from cgpu.model.tenant import MemoryLayer
from cgpu.region.reader import RegionReader
from cgpu.region.writer import CONTAINER_FOLDER_MODE


def adopt(folders: Iterable[Path], processes: Processes, cgroups: Cgroups) -> tuple[dict[str, Record], dict[str, str]]:
    """The tenants with a living process, by id, and what is wrong with the regions that cannot be read.

    A container ends with its processes: the first of them found on a GPU stands for the container's own first.
    """
    records: dict[str, Record] = {}
    faults: dict[str, str] = {}
    for folder in folders:
        reader = None
        try:
            reader = RegionReader(folder)
            grants = reader.grants()
            slots = [slot for slot in reader.usage(0).slots if slot.alive]
            if slots and grants.tenant_id == folder.name:
                record = Record(replace(tenant_of(grants), memory_layer=MemoryLayer.SHIM))
                if stat.S_IMODE(folder.stat().st_mode) == CONTAINER_FOLDER_MODE:
                    living = (Identity(slot.pid, slot.start_ticks, slot.pid_namespace) for slot in slots)
                    record = _of_container(record, living, processes, cgroups)
                records[folder.name] = record
        except RegionError as error:
            faults[folder.name] = error.message
        finally:
            if reader is not None:
                reader.close()
    return records, faults


def _of_container(record: Record, living: Iterable[Identity], processes: Processes, cgroups: Cgroups) -> Record:
    tenant = record.tenant
    if tenant.id.startswith(CDI_TENANT_PREFIX):
        return Record(replace(tenant, container=CDI_CONTAINER))
    tenant = replace(tenant, container=tenant.id.removeprefix(TENANT_PREFIX))
    for identity in living:
        host_pid = processes.find(identity)
        if host_pid is not None:
            return Record(
                replace(tenant, cgroup=cgroups.of(host_pid).rstrip("/")), ProcessRef(host_pid, identity.start_ticks)
            )
    return Record(tenant, ProcessRef(0, 0))


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise store.set_aside(f"not a checkpoint: {error!r}") from error

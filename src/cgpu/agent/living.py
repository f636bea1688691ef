"""Which tenants run while no agent does: for those who are about to take something away, or to change it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from cgpu.adapters.cgroup import CgroupTree
from cgpu.adapters.checkpoint import VERSION
from cgpu.adapters.process import ProcessTable
from cgpu.agent.adoption import adopt, region_folders
from cgpu.agent.containers import runs
from cgpu.agent.documents import UNDECODABLE, Record, decode
from cgpu.agent.survey import REGION_VARIABLE
from cgpu.errors import RegionError, StateError
from cgpu.region.layout import CGPU_REGION_MAJOR
from cgpu.region.reader import RegionReader, region_major
from cgpu.settings import Settings


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an agent of this version could not take over what is there: whose it is, and what is wrong with it."""

    what: str
    reason: str


def living_tenants(settings: Settings) -> tuple[str, ...]:
    """The tenants that have a process, by what the last agent has written down and by what the regions tell.

    Nothing is changed, and no agent is asked.
    """
    processes, cgroups = ProcessTable(), CgroupTree()
    folders = region_folders(settings.tenants_dir)
    records = _checkpointed(settings)
    if records is None:
        records = adopt(folders, processes, cgroups)[0]
    used = processes.values_of(REGION_VARIABLE)
    living = []
    for folder in folders:
        record = records.get(folder.name)
        root = record.root if record else None
        if (
            (root is not None and runs(root, processes))
            or (record is not None and any(cgroups.populated(path) for path in record.cgroups))
            or str(folder) in used
            or any(_slots(folder.name, settings))
        ):
            living.append(folder.name)
    return tuple(living)


def obstacles(settings: Settings) -> tuple[Obstacle, ...]:
    """What an agent of this version could not take over. Nothing is changed."""
    found = [
        Obstacle(f"tenant {folder.name}", f"its region has layout version {major}, this cgpu has {CGPU_REGION_MAJOR}")
        for folder in region_folders(settings.tenants_dir)
        if (major := region_major(folder)) not in (None, CGPU_REGION_MAJOR)
    ]
    version = _document(settings).get("version", VERSION)
    if version != VERSION and region_folders(settings.tenants_dir):
        found.append(Obstacle("the agent's checkpoint", f"it is of version {version}, this cgpu has {VERSION}"))
    return tuple(found)


def _checkpointed(settings: Settings) -> dict[str, Record] | None:
    document = _document(settings)
    if document.get("version") != VERSION:
        return None
    try:
        return decode(document).records
    except UNDECODABLE:
        return None


def _document(settings: Settings) -> dict[str, object]:
    """The checkpoint as it is; empty where there is none, or none that can be read."""
    try:
        document = json.loads(settings.checkpoint.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StateError(f"{settings.checkpoint}: {error.strerror}", "run it as root") from error
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _slots(tenant_id: str, settings: Settings) -> Iterator[bool]:
    with contextlib.suppress(RegionError):
        reader = RegionReader(settings.tenants_dir / tenant_id)
        try:
            yield from (slot.alive for slot in reader.usage(0).slots)
        finally:
            reader.close()

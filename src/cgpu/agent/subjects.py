"""Who is looked at: the tenants, and where their regions are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cgpu.adapters.region_words import RegionFiles, RegionList
from cgpu.agent.documents import Record
from cgpu.agent.regions import Regions
from cgpu.region.reader import RegionReader


@dataclass(frozen=True, slots=True)
class Subject:
    """A tenant to be looked at."""

    id: str
    cgroups: tuple[str, ...]
    region: Path
    reader: RegionReader | None  # None: damaged when this agent found it; whose a process is, other things tell
    gpu_uuids: tuple[str, ...]  # by row


def regions_of(subjects: Iterable[Subject]) -> RegionList:
    """Their regions, those that can be read."""
    return RegionList(
        RegionFiles(*row.reader.descriptors(), len(row.gpu_uuids)) for row in subjects if row.reader is not None
    )


class Subjects:
    """All tenants. Any thread may ask."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._known: tuple[dict[str, Record], int, tuple[Subject, ...]] | None = None

    def of(self, records: dict[str, Record]) -> tuple[Subject, ...]:
        """The same tuple as long as they and their open regions are the same."""
        changes, known = self._regions.changes, self._known
        if known is not None and known[0] is records and known[1] == changes:
            return known[2]
        subjects = tuple(
            Subject(
                id=tenant_id,
                cgroups=record.cgroups,
                region=self._regions.folder(tenant_id),
                reader=self._regions.reader(tenant_id),
                gpu_uuids=tuple(share.gpu_uuid for share in record.tenant.shares),
            )
            for tenant_id, record in records.items()
        )
        if known is not None and known[2] == subjects:  # most changes are of a tenant's share, and change no subject
            subjects = known[2]
        self._known = records, changes, subjects
        return subjects

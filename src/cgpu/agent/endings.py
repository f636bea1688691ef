"""Whether a tenant that lives as long as a process's tree has ended: whether anybody of that tree is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cgpu.agent.containers import runs
from cgpu.agent.documents import Record
from cgpu.agent.fair_lock import FairLock
from cgpu.agent.ports import Cgroups, Processes
from cgpu.agent.regions import Regions
from cgpu.agent.survey import REGION_VARIABLE, Surveyor


class Ended(NamedTuple):
    """How many tenants were removed, and of how many the first process has ended, but others have not."""

    removed: int
    lingering: int


class Endings:
    """Asks the system. Any thread may ask; the state's lock is taken for what needs it."""

    def __init__(
        self, lock: FairLock, cgroups: Cgroups, processes: Processes, regions: Regions, surveyor: Surveyor
    ) -> None:
        self._lock = lock
        self._cgroups = cgroups
        self._processes = processes
        self._regions = regions
        self._surveyor = surveyor

    def ending(self, records: Iterable[Record]) -> list[Record]:
        """Those of them that live as long as a process's tree, and whose first process is gone; others may be left."""
        return [row for row in records if row.root is not None and not runs(row.root, self._processes)]

    def ended(self, ending: Sequence[Record]) -> list[Record]:
        """Those of them of whose tree nobody is left."""
        with self._lock:
            quiet = [
                record
                for record in ending
                if not self._cgroups.populated(record.tenant.cgroup) and not self._regions.has_slot(record.tenant.id)
            ]
        if not quiet:
            return []
        # On a full host the processes of others are most that there are.
        others = self._surveyor.processes_of_others({record.tenant.id for record in quiet})
        used = self._processes.values_of(REGION_VARIABLE, others)
        return [record for record in quiet if str(self._regions.folder(record.tenant.id)) not in used]

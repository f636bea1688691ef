"""The tenants' regions as this agent serves them: made, open, known to ledger and arbiter, and removed.

What is to be in them is decided elsewhere. Every method may be repeated: after a kill the next agent does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cgpu.agent.adoption import region_folders
from cgpu.agent.ledger import Ledger
from cgpu.agent.live import Live
from cgpu.agent.ports import ArbiterControl
from cgpu.errors import RegionError, StateError
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import Gpu, Tenant
from cgpu.region.reader import RegionReader
from cgpu.region.writer import CONTAINER_FOLDER_MODE, GrantsWriter, Owner, Row, create_region, remove_region


class Regions:
    """One folder per tenant. The caller holds the state's lock."""

    def __init__(self, folder: Path, arbiter: ArbiterControl, ledger: Ledger, step: Callable[[str], None]) -> None:
        self._folder = folder
        self._arbiter = arbiter
        self._ledger = ledger
        self._step = step
        self._live: dict[str, Live] = {}
        self.changes = 0
        """How often a region has been opened or closed."""

    def folder(self, tenant_id: str) -> Path:
        """The tenant's folder."""
        return self._folder / tenant_id

    def folders(self) -> list[Path]:
        """All that there are, whole or not, whoever's."""
        return region_folders(self._folder)

    def __contains__(self, tenant_id: str) -> bool:
        """Whether the tenant's region is open."""
        return tenant_id in self._live

    def readers(self) -> Iterator[RegionReader]:
        """Of all that are open."""
        return (live.reader for live in self._live.values())

    def reader(self, tenant_id: str) -> RegionReader | None:
        """Of the tenant; None when its region is damaged."""
        live = self._live.get(tenant_id)
        return live.reader if live else None

    def writer(self, tenant_id: str) -> GrantsWriter | None:
        """Of the tenant; None when its region is damaged."""
        live = self._live.get(tenant_id)
        return live.writer if live else None

    def has_slot(self, tenant_id: str) -> bool:
        """Whether a process of the tenant is registered in its region."""
        live = self._live.get(tenant_id)
        return live is not None and live.has_slot()

    def open(self, tenant: Tenant, gpus: Mapping[str, Gpu], rows: tuple[Row, ...], owner: Owner) -> None:
        """Make the region, if it is not there, and open it. Raises RegionError."""
        folder = self.folder(tenant.id)
        is_new = not (folder / GRANTS).exists()
        if is_new:
            self._ledger.begin(tenant, gpus)
            self._step("establish:ledger")
            create_region(folder, tenant, rows, owner, self._step)
        if tenant.id not in self._live:
            self._live[tenant.id] = Live(RegionReader(folder), GrantsWriter(folder))
            self.changes += 1
            if not is_new:
                # What a killed agent has not written is told by the region, as long as no arbiter writes there.
                self._ledger.take_over(self._live[tenant.id].reader)
        self._step("establish:opened")

    def join(self, tenant: Tenant, gpus: Mapping[str, Gpu]) -> None:
        """Let the tenant take part in its cards' time."""
        for row, share in enumerate(tenant.shares):
            self._arbiter.add_tenant(gpus[share.gpu_uuid], self.folder(tenant.id), row, share)
        self._step("establish:arbiter")

    def refresh(self, tenant: Tenant, gpus: Mapping[str, Gpu], rows: tuple[Row, ...]) -> None:
        """Tell the tenant and the arbiter what holds now. Its region has to be open."""
        self._live[tenant.id].writer.set_intent(tenant, rows)
        self._step("refresh:region")
        for share in tenant.shares:
            self._arbiter.update_tenant(gpus[share.gpu_uuid], self.folder(tenant.id), share)

    def reclaim(self, tenant_id: str, slots: Sequence[int]) -> None:
        """Return what dead processes of the tenant had charged. Its region has to be open. Raises RegionError."""
        opened = self._live[tenant_id].reader.descriptors()
        self._arbiter.reclaim(self.folder(tenant_id), slots, (opened.usage, opened.locks))

    def make_folders(self, tenant_ids: Iterable[str]) -> None:
        """Make the folders of containers again, without files. Raises StateError."""
        try:
            for tenant_id in tenant_ids:
                self.folder(tenant_id).mkdir(parents=True, exist_ok=True, mode=CONTAINER_FOLDER_MODE)
        except OSError as error:
            raise StateError(f"{self._folder}: {error.strerror}", "it has to be writable") from error

    def remove(self, tenant: Tenant, gpus: Mapping[str, Gpu]) -> None:
        """Take the tenant from the arbiter, write its account down, and remove its region. Raises RegionError."""
        folder = self.folder(tenant.id)
        for share in tenant.shares:
            if share.gpu_uuid in gpus:
                self._arbiter.remove_tenant(gpus[share.gpu_uuid], folder)
        self._step("dismantle:arbiter")
        self._ledger.end(tenant.id, folder)
        self._step("dismantle:ledger")
        live = self._live.pop(tenant.id, None)
        if live is not None:
            self.changes += 1
            live.close()
        remove_region(folder, self._step)
        self._step("dismantle:region")

    def remove_all_but(self, tenant_ids: Iterable[str]) -> None:
        """Remove what nobody knows any more."""
        known = set(tenant_ids)
        for folder in self.folders():
            if folder.name not in known:
                self._ledger.end(folder.name, folder)
                with contextlib.suppress(RegionError):  # foreign files in it: left alone
                    remove_region(folder)

    def close(self) -> None:
        """Release the files; the regions stay."""
        for live in self._live.values():
            live.close()
        self._live = {}

"""What follows from the book: regions, the arbiter's tenants, cgroups, the driver's limits. Each may be repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from cgpu.agent.book import Book
from cgpu.agent.containers import runs
from cgpu.agent.documents import ProcessRef, Record
from cgpu.agent.leaves import Leaves
from cgpu.agent.limits import DriverLimits, limits_of, wanted_limits
from cgpu.agent.locks import GpuLocks
from cgpu.agent.ports import ArbiterControl, Cgroups, Processes
from cgpu.agent.regions import Regions
from cgpu.errors import DriverError, RegionError
from cgpu.model.tenant import Gpu, MemoryLayer, Policy, Tenant
from cgpu.region.writer import Owner, Row


@dataclass(frozen=True, slots=True)
class World:
    """What is changed."""

    gpus: Mapping[str, Gpu]  # by UUID
    arbiter: ArbiterControl
    cgroups: Cgroups
    processes: Processes
    locks: GpuLocks
    regions: Regions
    leaves: Leaves
    limits: DriverLimits
    measure_context: Callable[[Gpu], int | None]
    unmeasured_context_bytes: int
    step: Callable[[str], None]


class Effects:
    """Brings the world to what the book says. The caller holds the state's lock."""

    def __init__(self, book: Book, world: World) -> None:
        self._book = book
        self._world = world
        self._asked: set[str] = set()  # cards whose context size was asked for
        self._in_force: dict[str, Policy] = {}  # by GPU UUID, as the card's tenants have been told

    def establish(self, record: Record, owner: Owner) -> None:
        """Make a tenant's region and its cgroup, and let it take part in its cards' time.

        Raises RegionError, LayerError where its quota cannot be enforced as required, or AgentError for a card that
        another agent has.
        """
        world, tenant = self._world, record.tenant
        for share in tenant.shares:
            gpu = world.gpus[share.gpu_uuid]
            world.locks.acquire(gpu)
            self._know_context(gpu)
        world.regions.open(tenant, world.gpus, self._rows(tenant), owner)
        leaf = tenant.cgroup if record.root is not None and not tenant.container else ""
        if record.root is not None and leaf and not self._enter_leaf(leaf, record.root):
            without = self.planned(replace(tenant, cgroup=""))
            records = {**self._book.document.records, tenant.id: replace(record, tenant=without)}
            self._book.commit(records=records)
        world.step("establish:leaf")
        world.regions.join(tenant, world.gpus)

    def planned(self, tenant: Tenant, *, attached: bool = False, shim_problem: str = "") -> Tenant:
        """The tenant with the strongest memory layer that it can have. Raises LayerError."""
        gpus = [self._world.gpus[share.gpu_uuid] for share in tenant.shares if share.gpu_uuid in self._world.gpus]
        return self._world.limits.plan(tenant, gpus, attached=attached, shim_problem=shim_problem)

    def context_bytes(self, gpu: Gpu) -> int:
        """What is charged for a context of the card: as measured, or a guess."""
        return self._book.document.contexts.get(gpu.uuid) or self._world.unmeasured_context_bytes

    # ---- what regions and arbiter are told ----

    def refresh(self, gpu_uuids: Iterable[str]) -> None:
        """Write what follows from the document to the regions of all who share these cards, and to the arbiter."""
        document = self._book.document
        touched = {uuid for uuid in gpu_uuids if uuid in self._world.gpus}
        for uuid in touched:
            in_force = document.policy_in_force(uuid)
            self._world.arbiter.set_policy(self._world.gpus[uuid], in_force, document.policy(uuid))
            self._in_force[uuid] = in_force
        for record in document.records.values():
            if any(share.gpu_uuid in touched for share in record.tenant.shares):
                with contextlib.suppress(RegionError):  # who has spoilt its region is not told, all others are
                    self._refresh_tenant(record.tenant)

    def refresh_changed(self, tenant: Tenant) -> None:
        """After a change of one tenant: its neighbours are told only where the card's policy changes by it."""
        document = self._book.document
        cards = [share.gpu_uuid for share in tenant.shares if share.gpu_uuid in self._world.gpus]
        self.refresh([uuid for uuid in cards if document.policy_in_force(uuid) is not self._in_force.get(uuid)])
        if tenant.id in document.records:
            self._refresh_tenant(tenant)

    # ---- the driver's limits, and cgroups ----

    def apply_limits(self, tenant_id: str) -> None:
        """Set what the driver is to hold a tenant to. Raises DriverError."""
        record = self._book.document.records[tenant_id]
        self._world.limits.apply(limits_of(record, self._book.records()), self._world.gpus)
        self._world.step("limits:set")

    def bring_limits(self) -> None:
        """Set and clear what the driver has refused before, or has not been told. Raises DriverError."""
        limits, gpus = self._world.limits, self._world.gpus
        if not self._book.document.limits and MemoryLayer.DRIVER not in limits.layers(gpus.values()):
            return
        for error in self.clear_limits():
            raise error
        limits.apply(wanted_limits(self._book.records()), gpus, again=False)

    def are_done(self) -> bool:
        """Whether nothing is left that has to be tried again."""
        wanted = wanted_limits(self._book.records())
        document = self._book.document
        return not document.leaves and document.limits <= wanted.keys() and self._world.limits.are_set(wanted)

    def clear_limits(self) -> tuple[DriverError, ...]:
        """Take away the limits of tenants that are gone. What the driver refuses now is returned, and tried again."""
        wanted = frozenset(wanted_limits(self._book.records()))
        failed = self._world.limits.clear(self._book.document.limits - wanted, self._world.gpus)
        if wanted | failed.keys() != self._book.document.limits:
            self._book.commit(limits=wanted | failed.keys())
        return tuple(failed.values())

    def remove_leaves(self, patience_seconds: float = 0.0) -> None:
        """Remove the cgroups of tenants that are gone; what stays is tried again, or waited for at an agent's end."""
        if patience_seconds:
            self._world.leaves.remove_at_end(patience_seconds)
        else:
            self._world.leaves.remove()

    def _know_context(self, gpu: Gpu) -> None:
        """Measure a context once, so that a small quota is not refused for a guess."""
        contexts = self._book.document.contexts
        if gpu.uuid in contexts or gpu.uuid in self._asked:
            return
        self._asked.add(gpu.uuid)
        measured = self._world.measure_context(gpu)
        if measured:
            self._book.commit(contexts={**contexts, gpu.uuid: measured})

    def _enter_leaf(self, path: str, root: ProcessRef) -> bool:
        if not runs(root, self._world.processes):
            return True  # it has ended; what it left behind is in the leaf already, or nowhere
        cgroups = self._world.cgroups
        return cgroups.of(root.host_pid) == path or cgroups.enter_leaf(path, root.host_pid)

    def _refresh_tenant(self, tenant: Tenant) -> None:
        if tenant.id in self._world.regions:
            self._world.regions.refresh(tenant, self._world.gpus, self._rows(tenant))

    def _rows(self, tenant: Tenant) -> tuple[Row, ...]:
        return tuple(
            Row(gpu, share, self._book.document.policy_in_force(gpu.uuid), self.context_bytes(gpu))
            for share in tenant.shares
            for gpu in (self._world.gpus[share.gpu_uuid],)
        )

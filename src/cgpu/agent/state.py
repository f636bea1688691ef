"""All state of the node, under one lock.

Every change is made in the same order: decide (pure), commit the checkpoint, then bring the world
to it. The commit is the operation: an agent killed before it has done nothing, an agent killed
after it finishes the rest in ``recover``. So recovery and effect are the same code, and every
effect may be repeated.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.agent.adoption import adopt, checkpointed
from cgpu.agent.containers import cgroup_of_container, is_container, joined, process_of_container, without_ended
from cgpu.agent.documents import Limit, Member, NodeDocument, ProcessRef, Record, encode
from cgpu.agent.leaves import Leaves, leaves_of
from cgpu.agent.ledger import Ledger
from cgpu.agent.limits import DriverLimits, limits_of, wanted_limits
from cgpu.agent.locks import GpuLocks
from cgpu.agent.members import held
from cgpu.agent.ports import ArbiterControl, Cgroups, GpuNode, Processes
from cgpu.agent.regions import Regions
from cgpu.agent.room import check_card, check_cards, check_change, gpu_named, occupancy, record_named
from cgpu.agent.rounds import Group, groups_of
from cgpu.agent.stillness import Glance
from cgpu.agent.survey import REGION_VARIABLE, Subject, Survey, Surveyor
from cgpu.agent.wishes import NOBODY, Caller, ShareChange, changed, same_wish
from cgpu.errors import (
    AgentError,
    CgpuError,
    DriverError,
    LayerError,
    NoSuchTenantError,
    RefusedError,
    RegionError,
    TenantExistsError,
)
from cgpu.model.admission import admit, fits_time
from cgpu.model.tenant import ComputeLayer, Gpu, GpuPolicy, MemoryLayer, Policy, Share, Tenant
from cgpu.model.units import MIB
from cgpu.region.writer import Owner, Row

DEFAULT_CONTEXT_BYTES: Final = 512 * MIB  # until NVML has shown a context: on the safe side of 300 to 500 MiB


class NodeState:
    """Tenants, shares and policies of one node. Every method may be called from any thread."""

    def __init__(
        self,
        *,
        tenants_dir: Path,
        node: GpuNode,
        store: CheckpointStore,
        arbiter: ArbiterControl,
        cgroups: Cgroups,
        processes: Processes,
        locks: GpuLocks,
        ledger: Ledger,
        measure_context: Callable[[Gpu], int | None] = lambda _: None,
        unmeasured_context_bytes: int = DEFAULT_CONTEXT_BYTES,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        check_node: Callable[[], None] = lambda: None,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``step`` is called between the steps of every operation, for tests of a killed agent.

        ``check_node`` is called before a tenant is made, and raises RefusedError where the node takes none.

        ``measure_context`` tells what a bare context takes on a card, or None; it is asked once per
        card, before the first tenant's region is made.
        """
        self.lock = threading.RLock()
        self.arbiter = arbiter
        self.processes = processes
        self.ledger = ledger
        self._store = store
        self._cgroups = cgroups
        self._locks = locks
        self._measure_context = measure_context
        self._unmeasured_context_bytes = unmeasured_context_bytes
        self._asked: set[str] = set()  # cards whose context size was asked for
        self._check_node = check_node
        self._step = step
        self._gpus = {gpu.uuid: gpu for gpu in node.gpus()}
        self.limits = DriverLimits(node, cgroups)
        self._leaves = Leaves(cgroups)
        self._surveyor = Surveyor(node, processes, cgroups, clock_ns)
        self._document = NodeDocument({}, {}, {})
        self._groups: tuple[Group, ...] | None = None  # None: not known of this document yet
        self.regions = Regions(tenants_dir, arbiter, ledger, step)
        self._known_subjects: tuple[dict[str, Record], int, tuple[Subject, ...]] | None = None
        self._in_force: dict[str, Policy] = {}  # by GPU UUID, as the card's tenants have been told
        self._faults: dict[str, str] = {}
        self._closing = False
        self._told: Callable[[], None] = lambda: None

    def subscribe(self, changed: Callable[[], None]) -> None:
        """``changed`` is called after tenants or policies have changed, with the lock held: it must not wait."""
        self._told = changed

    # ---- reading ----

    def gpus(self) -> tuple[Gpu, ...]:
        """All cards, in NVML's order."""
        return tuple(self._gpus.values())

    def gpu(self, name: str) -> Gpu:
        """The card with this index or UUID. Raises NoSuchGpuError."""
        return gpu_named(name, self._gpus.values())

    def card_groups(self) -> tuple[Group, ...]:
        """All cards, those together that have a tenant in common."""
        with self.lock:
            if self._groups is None:
                rows = self._document.records.values()
                self._groups = groups_of(self._gpus, ([share.gpu_uuid for share in row.tenant.shares] for row in rows))
            return self._groups

    def records(self) -> tuple[Record, ...]:
        """All tenants, oldest first."""
        with self.lock:
            return tuple(self._document.records.values())

    def record(self, name: str) -> Record:
        """The tenant with this id or name. Raises NoSuchTenantError."""
        with self.lock:
            return record_named(name, self._document.records)

    def region(self, tenant_id: str) -> Path:
        """The tenant's folder."""
        return self.regions.folder(tenant_id)

    def fault(self, tenant_id: str) -> str:
        """What is wrong with the tenant's region; "" when nothing is."""
        return self._faults.get(tenant_id, "")

    def policy(self, gpu: Gpu) -> GpuPolicy:
        """How the card is shared."""
        return self._document.policy(gpu.uuid)

    def policy_in_force(self, gpu: Gpu) -> Policy:
        """The policy that holds now."""
        with self.lock:
            return self._document.policy_in_force(gpu.uuid)

    def compute_layer(self, gpu: Gpu) -> ComputeLayer:
        """What divides the card's time."""
        return ComputeLayer.NONE if self.policy_in_force(gpu) is Policy.NATIVE else ComputeLayer.SLOTS

    def context_bytes(self, gpu: Gpu) -> int:
        """What is charged for a context of the card before NVML has shown what it takes: as measured, or a guess."""
        return self.measured_context_bytes(gpu) or self._unmeasured_context_bytes

    def measured_context_bytes(self, gpu: Gpu) -> int | None:
        """What a bare context of our own took; None where it could not be measured."""
        return self._document.contexts.get(gpu.uuid)

    def first_has_ended(self, record: Record) -> bool:
        """Whether the first process of a tenant that lives as long as one's tree is gone; others may be left."""
        return record.root is not None and not self._runs(record.root)

    def has_ended(self, record: Record) -> bool:
        """Whether the whole process tree of a tenant that lives as long as one is gone."""
        if not self.first_has_ended(record):
            return False
        if self._cgroups.populated(record.tenant.cgroup) or self.regions.has_slot(record.tenant.id):
            return False
        return not self.processes.with_variable(REGION_VARIABLE, str(self.region(record.tenant.id)))

    def survey(self, cards: Collection[str] | None = None) -> Survey:
        """Look at the node now, or at some of its cards, by UUID. Raises DriverError when NVML does not answer."""
        with self.lock:
            return self._surveyor.look(self._subjects(), cards)

    def glance(self, cards: Group) -> Glance | None:
        """What a look at these cards would begin with; None where something cannot be read."""
        with self.lock:
            return self._surveyor.glance(self._subjects(), cards)

    def _subjects(self) -> tuple[Subject, ...]:
        """All tenants; the same tuple as long as they and their open regions are the same."""
        key = self._document.records, self.regions.changes
        if self._known_subjects is None or self._known_subjects[0] is not key[0] or self._known_subjects[1] != key[1]:
            subjects = (
                Subject(
                    id=tenant_id,
                    cgroups=record.cgroups,
                    region=self.region(tenant_id),
                    reader=self.regions.reader(tenant_id),
                    gpu_uuids=tuple(share.gpu_uuid for share in record.tenant.shares),
                )
                for tenant_id, record in self._document.records.items()
            )
            self._known_subjects = *key, tuple(subjects)
        return self._known_subjects[2]

    # ---- changing ----

    def create(self, tenant: Tenant, caller: Caller = NOBODY) -> Record:
        """Make a tenant. Repeating it is no error; another tenant of that id or name is.

        Raises RefusedError or one of its kinds when the node says no, StateError or RegionError
        when the agent's folder cannot be written; then nothing is left of it.
        """
        with self.lock:
            if self._closing:
                raise AgentError("the agent is ending with its last tenant", "try again")
            known = self._document.records.get(tenant.id)
            if known is not None and known.tenant.container and self.has_ended(known):
                self.remove(tenant.id)  # the same container is started again before its end was seen
                known = None
            if known is not None:
                if same_wish(known.tenant, tenant):
                    return known
                raise TenantExistsError(f"there is a tenant {tenant.id!r} with another share", "use `cgpu set`")
            self._check_new(tenant)
            record = Record(self._planned(self._with_leaf(tenant, caller)), caller.process)
            self._step("create:decided")
            self._commit(records={**self._document.records, tenant.id: record})
            self._step("create:committed")
            try:
                self._establish(record, caller.owner)
                self._apply_limits(tenant.id)
                self._refresh_changed(tenant)
            except CgpuError:
                self.remove(tenant.id)
                raise
            self._step("create:done")
            return self._document.records[tenant.id]

    def remove(self, name: str) -> bool:
        """End a tenant; False when there is none. Its processes, if any are left, keep their mapping."""
        with self.lock:
            try:
                tenant = self.record(name).tenant
            except NoSuchTenantError:
                return False
            remaining = {key: record for key, record in self._document.records.items() if key != tenant.id}
            self._step("remove:decided")
            self._commit(records=remaining)
            self._step("remove:committed")
            self.clear_limits()
            self._faults.pop(tenant.id, None)
            self.regions.remove(tenant, self._gpus)
            self._refresh_changed(tenant)
            self.remove_leaves()
            self._step("remove:done")
            return True

    def set_share(self, name: str, change: ShareChange) -> Record:
        """Change a running tenant. A quota below what is used is accepted: allocations fail until usage is below.

        Raises RefusedError or one of its kinds for more than the card has, or than was promised to the tenant.
        """
        with self.lock:
            record = self.record(name)
            wanted = self.gpu(change.gpu).uuid if change.gpu is not None else None
            if wanted is not None and record.tenant.share_on(wanted) is None:
                raise RefusedError(f"tenant {name!r} has no share of GPU {change.gpu}", "`cgpu ps` shows its GPUs")
            shares = tuple(
                changed(share, change) if wanted in (None, share.gpu_uuid) else share for share in record.tenant.shares
            )
            self._check_growth(record.tenant, shares)
            record_now = replace(record, tenant=replace(record.tenant, shares=shares))
            self._step("set:decided")
            self._commit(records={**self._document.records, record.tenant.id: record_now})
            self._step("set:committed")
            self._refresh_changed(record_now.tenant)
            self._apply_limits(record.tenant.id)
            self._step("set:done")
            return record_now

    def attach(self, tenant_id: str, host_pid: int, caller_pid: int, *, shim_problem: str = "") -> Record:
        """A container's first process is there and waits to begin. Repeating it is no error.

        ``caller_pid`` is a process outside the container; with a ``shim_problem``, why its programs cannot load the
        shim, the driver has to hold it. Raises RefusedError for another's process, LayerError and DriverError where
        its quota cannot be enforced as promised.
        """
        with self.lock:
            record = self.record(tenant_id)
            process = process_of_container(record, host_pid, self.records(), self.processes, self._cgroups)
            cgroup = cgroup_of_container(record, host_pid, (os.getpid(), caller_pid), self.records(), self._cgroups)
            tenant = self._planned(replace(record.tenant, cgroup=cgroup), attached=True, shim_problem=shim_problem)
            if is_container(tenant):
                record_now = Record(tenant, None if record.root is None else process)
            else:
                held_at = cgroup if tenant.memory_layer is MemoryLayer.DRIVER else ""
                member = Member(process, held_at, loads_shim=not shim_problem)
                record_now = joined(record, member, self.processes, self._cgroups)
            records = held({**self._document.records, tenant_id: record_now})
            self._step("attach:decided")
            self._commit(records=records)
            self._step("attach:committed")
            self.clear_limits()
            self._apply_limits(tenant_id)
            self._refresh(share.gpu_uuid for share in record.tenant.shares)
            self._step("attach:done")
            return self._document.records[tenant_id]

    def drop_ended_members(self) -> None:
        """Forget the containers of claims' tenants that have ended, and what of the limits was for them."""
        with self.lock:
            records = without_ended(self._document.records, self.processes, self._cgroups, self._planned)
            if records != self._document.records:
                self._commit(records=records)
                self.clear_limits()
                self._refresh(self._gpus)

    def container_ends(self, name: str) -> None:
        """A container and its cgroup are about to be deleted. Raises NoSuchTenantError.

        The driver stops keeping memory for it; once its first process has ended, the tenant is removed.
        """
        with self.lock:
            record = self.record(name)
            if record.root is not None and not self._runs(record.root):
                self.remove(record.tenant.id)
            else:
                self.limits.give_back(limits_of(record, self.records()), self._gpus)

    def set_policy(self, gpu: Gpu, policy: GpuPolicy) -> None:
        """How the card's time is divided from the next slot on.

        Raises CapacityError when it would promise the present tenants more than the card has.
        """
        with self.lock:
            fits_time(gpu, policy, self._document.kept_on(gpu.uuid))
            self._step("policy:decided")
            self._commit(policies={**self._document.policies, gpu.uuid: policy})
            self._step("policy:committed")
            self._refresh((gpu.uuid,))
            self._step("policy:done")

    def close_if_empty(self) -> bool:
        """Refuse tenants from now on, if there are none: for an agent that ends with its last tenant."""
        with self.lock:
            self._closing = not self._document.records
            return self._closing

    def account(self) -> None:
        """Bring the ledger up to what the regions tell now."""
        with self.lock:
            self.ledger.observe(self.regions.readers())

    def close(self) -> None:
        """Release files and locks; the tenants, the checkpoint and the ledger stay."""
        with self.lock:
            self.account()
            self.ledger.close()
            self.regions.close()
            self._locks.release()

    def reclaim(self, tenant_id: str, slots: Sequence[int]) -> None:
        """Return what dead processes of the tenant had charged. Raises RegionError."""
        self.regions.reclaim(tenant_id, slots)

    # ---- after a death ----

    def write_again(self) -> None:
        """Write what somebody has cleared under this agent, as far as it can be.

        The regions' files live on where they are open and mounted; a container's folder has to be there for
        cgpu-runtime to tell of its end. Raises AgentError when another agent has a card meanwhile, or StateError.
        """
        with self.lock:
            for gpu in self._gpus.values():
                self._locks.take_again(gpu)
            self._commit()
            self.regions.make_folders(record.tenant.id for record in self.records() if is_container(record.tenant))

    def recover(self) -> None:
        """Bring the world to the checkpoint, or, where there is none, take over the regions that are in use.

        Raises StateError for a checkpoint that cannot be read.
        """
        with self.lock:
            document = checkpointed(self._store)
            if document is None:
                records, faults = adopt(self.regions.folders(), self.processes, self._cgroups)
                document = NodeDocument(records, {}, {})
                self._faults |= faults
            self._document, self._groups = document, None
            self._leaves.keep_only(document.leaves)
            for record in self._document.records.values():
                self._recover_tenant(record)
            self.clear_limits()
            self.remove_leaves()
            self.regions.remove_all_but((*self._document.records, *self._faults))
            self._refresh(self._gpus)

    def bring_limits(self) -> None:
        """Set and clear what the driver has refused before, or has not been told. Raises DriverError."""
        with self.lock:
            if not self._document.limits and MemoryLayer.DRIVER not in self.limits.layers(self._gpus.values()):
                return
            for error in self.clear_limits():
                raise error
            self.limits.apply(wanted_limits(self.records()), self._gpus, again=False)

    def clear_limits(self) -> tuple[DriverError, ...]:
        """Take away the limits of tenants that are gone. What the driver refuses now is returned, and tried again."""
        with self.lock:
            wanted = frozenset(wanted_limits(self.records()))
            failed = self.limits.clear(self._document.limits - wanted, self._gpus)
            if wanted | failed.keys() != self._document.limits:
                self._commit(limits=wanted | failed.keys())
            return tuple(failed.values())

    def remove_leaves(self, patience_seconds: float = 0.0) -> None:
        """Remove the cgroups of tenants that are gone; what stays is tried again, or waited for at an agent's end."""
        with self.lock:
            if patience_seconds:
                self._leaves.remove_at_end(patience_seconds)
            else:
                self._leaves.remove()

    def _recover_tenant(self, record: Record) -> None:
        gone = [share.gpu_uuid for share in record.tenant.shares if share.gpu_uuid not in self._gpus]
        if gone:
            self._faults[record.tenant.id] = f"GPU {gone[0]} is no longer on this node"
            return
        owner = self.processes.uid_gid(record.root.host_pid) if record.root else None
        try:
            self._establish(record, Owner(*owner) if owner else Owner())
        except (RegionError, LayerError) as error:
            # Its processes keep what they have mapped; a second region would count them anew.
            self._faults[record.tenant.id] = error.message

    # ---- deciding ----

    def _check_new(self, tenant: Tenant) -> None:
        self._check_node()
        if any(record.tenant.name == tenant.name for record in self._document.records.values()):
            raise TenantExistsError(f"there is a tenant named {tenant.name!r}", "choose another --name")
        check_cards(tenant)
        survey = self.survey({share.gpu_uuid for share in tenant.shares})
        for share in tenant.shares:
            gpu = self.gpu(share.gpu_uuid)
            check_card(gpu)
            self._locks.acquire(gpu)
            admit(gpu, self.policy(gpu), occupancy(gpu, self.records(), survey), share)

    def _check_growth(self, tenant: Tenant, shares: tuple[Share, ...]) -> None:
        for new in shares:
            check_change(self.gpu(new.gpu_uuid), self._document, tenant, new, self.survey)

    def _with_leaf(self, tenant: Tenant, caller: Caller) -> Tenant:
        if tenant.cgroup or tenant.container or caller.process is None:
            return tenant  # the caller of a container is its runtime
        return replace(tenant, cgroup=self._cgroups.plan_leaf(tenant.id, caller.process.host_pid))

    def _planned(self, tenant: Tenant, *, attached: bool = False, shim_problem: str = "") -> Tenant:
        gpus = [self._gpus[share.gpu_uuid] for share in tenant.shares if share.gpu_uuid in self._gpus]
        return self.limits.plan(tenant, gpus, attached=attached, shim_problem=shim_problem)

    def _runs(self, process: ProcessRef) -> bool:
        return self.processes.start_ticks(process.host_pid) == process.start_ticks

    def _rows(self, tenant: Tenant) -> tuple[Row, ...]:
        return tuple(
            Row(gpu, share, self.policy_in_force(gpu), self.context_bytes(gpu))
            for share in tenant.shares
            for gpu in (self._gpus[share.gpu_uuid],)
        )

    # ---- effects, each repeatable ----

    def _commit(
        self,
        records: dict[str, Record] | None = None,
        policies: dict[str, GpuPolicy] | None = None,
        contexts: dict[str, int] | None = None,
        limits: frozenset[Limit] | None = None,
    ) -> None:
        old = self._document
        records = old.records if records is None else records
        document = NodeDocument(
            records,
            old.policies if policies is None else policies,
            old.contexts if contexts is None else contexts,
            old.limits | wanted_limits(records.values()).keys() if limits is None else limits,
            (self._leaves.paths | leaves_of(old.records.values())) - leaves_of(records.values()),
        )
        self._store.save(encode(document))
        self._document, self._groups = document, None
        self._leaves.keep_only(document.leaves)
        if records is not old.records or policies is not None:
            self._told()

    def _know_context(self, gpu: Gpu) -> None:
        """Measure a context once, so that a small quota is not refused for a guess."""
        if gpu.uuid in self._document.contexts or gpu.uuid in self._asked:
            return
        self._asked.add(gpu.uuid)
        measured = self._measure_context(gpu)
        if measured:
            self._commit(contexts={**self._document.contexts, gpu.uuid: measured})

    def _establish(self, record: Record, owner: Owner) -> None:
        tenant = record.tenant
        for share in tenant.shares:
            gpu = self._gpus[share.gpu_uuid]
            self._locks.acquire(gpu)
            self._know_context(gpu)
        self.regions.open(tenant, self._gpus, self._rows(tenant), owner)
        leaf = tenant.cgroup if record.root is not None and not tenant.container else ""
        if record.root is not None and leaf and not self._enter_leaf(leaf, record.root):
            without = self._planned(replace(tenant, cgroup=""))
            self._commit(records={**self._document.records, tenant.id: replace(record, tenant=without)})
        self._step("establish:leaf")
        self.regions.join(tenant, self._gpus)

    def _enter_leaf(self, path: str, root: ProcessRef) -> bool:
        if not self._runs(root):
            return True  # it has ended; what it left behind is in the leaf already, or nowhere
        return self._cgroups.of(root.host_pid) == path or self._cgroups.enter_leaf(path, root.host_pid)

    def _apply_limits(self, tenant_id: str) -> None:
        self.limits.apply(limits_of(self._document.records[tenant_id], self.records()), self._gpus)
        self._step("limits:set")

    def _refresh(self, gpu_uuids: Iterable[str]) -> None:
        """Write what follows from the document to the regions of all who share these cards, and to the arbiter."""
        touched = {uuid for uuid in gpu_uuids if uuid in self._gpus}
        for uuid in touched:
            gpu = self._gpus[uuid]
            self.arbiter.set_policy(gpu, self.policy_in_force(gpu), self.policy(gpu))
            self._in_force[uuid] = self.policy_in_force(gpu)
        for record in self._document.records.values():
            if any(share.gpu_uuid in touched for share in record.tenant.shares):
                with contextlib.suppress(RegionError):  # who has spoilt its region is not told, all others are
                    self._refresh_tenant(record.tenant)

    def _refresh_changed(self, tenant: Tenant) -> None:
        """After a change of one tenant: its neighbours are told only where the card's policy changes by it."""
        cards = [share.gpu_uuid for share in tenant.shares if share.gpu_uuid in self._gpus]
        self._refresh(
            [uuid for uuid in cards if self.policy_in_force(self._gpus[uuid]) is not self._in_force.get(uuid)]
        )
        if tenant.id in self._document.records:
            self._refresh_tenant(tenant)

    def _refresh_tenant(self, tenant: Tenant) -> None:
        if tenant.id in self.regions:
            self.regions.refresh(tenant, self._gpus, self._rows(tenant))

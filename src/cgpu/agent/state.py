"""All state of the node, under one lock.

Every change is made in the same order: decide (pure), commit the checkpoint, then bring the world
to it. The commit is the operation: an agent killed before it has done nothing, an agent killed
after it finishes the rest in ``recover``. So recovery and effect are the same code, and every
effect may be repeated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.adapters.region_words import RegionList
from cgpu.agent.adoption import adopt, checkpointed
from cgpu.agent.book import Book
from cgpu.agent.containers import cgroup_of_container, is_container, joined, process_of_container, runs, without_ended
from cgpu.agent.documents import Member, NodeDocument, Record
from cgpu.agent.effects import Effects, World
from cgpu.agent.endings import Ended, Endings
from cgpu.agent.fair_lock import FairLock
from cgpu.agent.leaves import Leaves
from cgpu.agent.ledger import Ledger
from cgpu.agent.limits import DriverLimits, limits_of
from cgpu.agent.locks import GpuLocks
from cgpu.agent.members import held
from cgpu.agent.ports import ArbiterControl, Cgroups, GpuNode, Processes
from cgpu.agent.recent import Recent
from cgpu.agent.regions import Regions
from cgpu.agent.room import check_card, check_cards, check_change, gpu_named, occupancy, record_named
from cgpu.agent.rounds import Group
from cgpu.agent.stillness import Glance
from cgpu.agent.subjects import Subject, Subjects, regions_of
from cgpu.agent.survey import Survey, Surveyor, read_all
from cgpu.agent.wishes import NOBODY, Caller, ShareChange, changed, same_wish
from cgpu.errors import (
    AgentError,
    CapacityError,
    CgpuError,
    LayerError,
    NoSuchTenantError,
    RefusedError,
    RegionError,
    TenantExistsError,
)
from cgpu.model.admission import admit, fits_time
from cgpu.model.tenant import ComputeLayer, Gpu, GpuPolicy, MemoryLayer, Policy, Share, Tenant
from cgpu.model.units import MIB
from cgpu.region.reader import GrantsSnapshot
from cgpu.region.writer import Owner

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
        self.lock = FairLock()
        self.arbiter = arbiter
        self.processes = processes
        self.ledger = ledger
        self.limits = DriverLimits(node, cgroups)
        self.regions = Regions(tenants_dir, arbiter, ledger, step)
        self._store = store
        self._cgroups = cgroups
        self._locks = locks
        self._check_node = check_node
        self._step = step
        self._gpus = {gpu.uuid: gpu for gpu in node.gpus()}
        leaves = Leaves(cgroups)
        self._book = Book(store, self._gpus, leaves)
        self._effects = Effects(
            self._book,
            World(
                gpus=self._gpus,
                arbiter=arbiter,
                cgroups=cgroups,
                processes=processes,
                locks=locks,
                regions=self.regions,
                leaves=leaves,
                limits=self.limits,
                measure_context=measure_context,
                unmeasured_context_bytes=unmeasured_context_bytes,
                step=step,
            ),
        )
        self._surveyor = Surveyor(node, processes, cgroups, clock_ns)
        self._endings = Endings(self.lock, cgroups, processes, self.regions, self._surveyor)
        self._recent = Recent()
        self._clock_ns = clock_ns
        self._all_subjects = Subjects(self.regions)
        self._faults: dict[str, str] = {}
        self._closing = False

    def subscribe(self, changed: Callable[[], None]) -> None:
        """``changed`` is called after tenants or policies have changed, with the lock held: it must not wait."""
        self._book.subscribe(changed)

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
            return self._book.groups()

    def records(self) -> tuple[Record, ...]:
        """All tenants, oldest first."""
        return self._book.records()

    def record(self, name: str) -> Record:
        """The tenant with this id or name. Raises NoSuchTenantError."""
        return record_named(name, self._book.document.records)

    def region(self, tenant_id: str) -> Path:
        """The tenant's folder."""
        return self.regions.folder(tenant_id)

    def fault(self, tenant_id: str) -> str:
        """What is wrong with the tenant's region; "" when nothing is."""
        return self._faults.get(tenant_id, "")

    def policy(self, gpu: Gpu) -> GpuPolicy:
        """How the card is shared."""
        return self._book.document.policy(gpu.uuid)

    def policy_in_force(self, gpu: Gpu) -> Policy:
        """The policy that holds now."""
        return self._book.document.policy_in_force(gpu.uuid)

    def compute_layer(self, gpu: Gpu) -> ComputeLayer:
        """What divides the card's time."""
        return ComputeLayer.NONE if self.policy_in_force(gpu) is Policy.NATIVE else ComputeLayer.SLOTS

    def context_bytes(self, gpu: Gpu) -> int:
        """What is charged for a context of the card before NVML has shown what it takes: as measured, or a guess."""
        return self._effects.context_bytes(gpu)

    def measured_context_bytes(self, gpu: Gpu) -> int | None:
        """What a bare context of our own took; None where it could not be measured."""
        return self._book.document.contexts.get(gpu.uuid)

    def survey(self, cards: Collection[str] | None = None) -> Survey:
        """Look at the node now, or at some of its cards, by UUID. Raises DriverError when NVML does not answer."""
        with self.lock:
            subjects, at_ns = self._subjects(), self._clock_ns()
            survey = self._surveyor.look(subjects, cards)
            self._recent.remember(survey, subjects, at_ns)
            return survey

    def recent_survey(self, cards: Collection[str] | None = None) -> Survey:
        """As ``survey``, for questions: of cards with many processes it may be up to a second old."""
        cards = [uuid for uuid in self._gpus if cards is None or uuid in cards]  # a tenant's card may have gone
        to_look_at = self._recent.to_look_at(cards, self._subjects(), self._clock_ns())
        if to_look_at:
            self.survey(to_look_at)
        return self._recent.survey(cards)

    def grants_now(self, tenant_id: str) -> GrantsSnapshot | None:
        """What the tenant's region grants; None where it cannot be read."""
        reader = self.regions.reader(tenant_id)
        try:
            return None if reader is None else reader.grants()
        except RegionError:
            return None

    def glance(self, cards: Group) -> Glance | None:
        """What a look at these cards would begin with; None where something cannot be read."""
        with self.lock:
            return self._surveyor.glance(self._subjects(), cards)

    def _subjects(self) -> tuple[Subject, ...]:
        return self._all_subjects.of(self._book.document.records)

    # ---- changing ----

    def create(self, tenant: Tenant, caller: Caller = NOBODY) -> Record:
        """Make a tenant. Repeating it is no error; another tenant of that id or name is.

        Raises RefusedError or one of its kinds when the node says no, StateError or RegionError
        when the agent's folder cannot be written; then nothing is left of it.
        """
        with self.lock:
            if self._closing:
                raise AgentError("the agent is ending with its last tenant", "try again")
            known = self._book.document.records.get(tenant.id)
            if known is not None and known.tenant.container and self._endings.ended(self._endings.ending([known])):
                self.remove(tenant.id)  # the same container is started again before its end was seen
                known = None
            if known is not None:
                if same_wish(known.tenant, tenant):
                    return known
                raise TenantExistsError(f"there is a tenant {tenant.id!r} with another share", "use `cgpu set`")
            try:
                self._check_new(tenant)
            except CapacityError:
                # Who starts a tenant as soon as another one has ended need not wait until that was seen.
                if not self.remove_ended({share.gpu_uuid for share in tenant.shares}).removed:
                    raise
                self._check_new(tenant)
            record = Record(self._effects.planned(self._with_leaf(tenant, caller)), caller.process)
            self._step("create:decided")
            self._book.commit(records={**self._book.document.records, tenant.id: record})
            self._step("create:committed")
            try:
                self._effects.establish(record, caller.owner)
                self._effects.apply_limits(tenant.id)
                self._effects.refresh_changed(tenant)
            except CgpuError:
                self.remove(tenant.id)
                raise
            self._step("create:done")
            begun = [subject for subject in self._subjects() if subject.id == tenant.id]
            for reading in read_all(begun)[0].values():
                self._recent.joined(begun[0], reading)
            return self._book.document.records[tenant.id]

    def remove(self, name: str) -> bool:
        """End a tenant; False when there is none. Its processes, if any are left, keep their mapping."""
        with self.lock:
            try:
                tenant = self.record(name).tenant
            except NoSuchTenantError:
                return False
            remaining = {key: record for key, record in self._book.document.records.items() if key != tenant.id}
            self._step("remove:decided")
            self._book.commit(records=remaining)
            self._step("remove:committed")
            self._effects.clear_limits()
            self._faults.pop(tenant.id, None)
            self.regions.remove(tenant, self._gpus)
            self._effects.refresh_changed(tenant)
            self._effects.remove_leaves()
            self._step("remove:done")
            return True

    def remove_ended(self, cards: Collection[str] | None = None) -> Ended:
        """Remove the tenants, of these cards or of all, that live as long as a process's tree, and whose tree is gone.

        To find them takes long, and what has ended does not come back: only what is changed is done with the lock.
        """
        ending = self._endings.ending(
            record
            for record in self.records()
            if cards is None or any(share.gpu_uuid in cards for share in record.tenant.shares)
        )
        removed = 0
        for record in self._endings.ended(ending):
            with self.lock:
                if self._book.document.records.get(record.tenant.id) is record:  # and not another one of that id
                    removed += self.remove(record.tenant.id)
        return Ended(removed, len(ending) - removed)

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
            self._book.commit(records={**self._book.document.records, record.tenant.id: record_now})
            self._step("set:committed")
            self._effects.refresh_changed(record_now.tenant)
            self._effects.apply_limits(record.tenant.id)
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
            tenant = self._effects.planned(
                replace(record.tenant, cgroup=cgroup), attached=True, shim_problem=shim_problem
            )
            if is_container(tenant):
                record_now = Record(tenant, None if record.root is None else process)
            else:
                held_at = cgroup if tenant.memory_layer is MemoryLayer.DRIVER else ""
                member = Member(process, held_at, loads_shim=not shim_problem)
                record_now = joined(record, member, self.processes, self._cgroups)
            records = held({**self._book.document.records, tenant_id: record_now})
            self._step("attach:decided")
            self._book.commit(records=records)
            self._step("attach:committed")
            self._effects.clear_limits()
            self._effects.apply_limits(tenant_id)
            self._effects.refresh(share.gpu_uuid for share in record.tenant.shares)
            self._step("attach:done")
            return self._book.document.records[tenant_id]

    def drop_ended_members(self) -> None:
        """Forget the containers of claims' tenants that have ended, and what of the limits was for them."""
        with self.lock:
            records = without_ended(self._book.document.records, self.processes, self._cgroups, self._effects.planned)
            if records != self._book.document.records:
                self._book.commit(records=records)
                self._effects.clear_limits()
                self._effects.refresh(self._gpus)

    def container_ends(self, name: str) -> None:
        """A container and its cgroup are about to be deleted. Raises NoSuchTenantError.

        The driver stops keeping memory for it; once its first process has ended, the tenant is removed.
        """
        with self.lock:
            record = self.record(name)
            if record.root is not None and not runs(record.root, self.processes):
                self.remove(record.tenant.id)
            else:
                self.limits.give_back(limits_of(record, self.records()), self._gpus)

    def set_policy(self, gpu: Gpu, policy: GpuPolicy) -> None:
        """How the card's time is divided from the next slot on.

        Raises CapacityError when it would promise the present tenants more than the card has.
        """
        with self.lock:
            fits_time(gpu, policy, self._book.document.kept_on(gpu.uuid))
            self._step("policy:decided")
            self._book.commit(policies={**self._book.document.policies, gpu.uuid: policy})
            self._step("policy:committed")
            self._effects.refresh((gpu.uuid,))
            self._step("policy:done")

    def close_if_empty(self) -> bool:
        """Refuse tenants from now on, if there are none: for an agent that ends with its last tenant."""
        with self.lock:
            self._closing = not self._book.document.records
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
            self._book.commit()
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
            self._book.open(document)
            for record in self._book.document.records.values():
                self._recover_tenant(record)
            self._effects.clear_limits()
            self._effects.remove_leaves()
            self.regions.remove_all_but((*self._book.document.records, *self._faults))
            self._effects.refresh(self._gpus)

    def is_settled(self) -> bool:
        """Whether everything that was decided has been brought about."""
        with self.lock:
            return self._effects.are_done()

    def region_files(self) -> RegionList:
        """All regions that are open, to be watched."""
        with self.lock:
            return regions_of(self._subjects())

    def bring_limits(self) -> None:
        """Set and clear what the driver has refused before, or has not been told. Raises DriverError."""
        with self.lock:
            self._effects.bring_limits()

    def remove_leaves(self, patience_seconds: float = 0.0) -> None:
        """Remove the cgroups of tenants that are gone; what stays is tried again, or waited for at an agent's end."""
        with self.lock:
            self._effects.remove_leaves(patience_seconds)

    def _recover_tenant(self, record: Record) -> None:
        gone = [share.gpu_uuid for share in record.tenant.shares if share.gpu_uuid not in self._gpus]
        if gone:
            self._faults[record.tenant.id] = f"GPU {gone[0]} is no longer on this node"
            return
        owner = self.processes.uid_gid(record.root.host_pid) if record.root else None
        try:
            self._effects.establish(record, Owner(*owner) if owner else Owner())
        except (RegionError, LayerError) as error:
            # Its processes keep what they have mapped; a second region would count them anew.
            self._faults[record.tenant.id] = error.message

    # ---- deciding ----

    def _check_new(self, tenant: Tenant) -> None:
        self._check_node()
        if any(record.tenant.name == tenant.name for record in self._book.document.records.values()):
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
            check_change(self.gpu(new.gpu_uuid), self._book.document, tenant, new, self.survey)

    def _with_leaf(self, tenant: Tenant, caller: Caller) -> Tenant:
        if tenant.cgroup or tenant.container or caller.process is None:
            return tenant  # the caller of a container is its runtime
        return replace(tenant, cgroup=self._cgroups.plan_leaf(tenant.id, caller.process.host_pid))

"""The agent's comparison of what the regions say with what the cards say, at least every 500 ms.

Dead processes give back their charges once the card has released their memory; what the card holds
beyond the charges becomes overhead; a tenant whose process tree
has ended is removed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from cgpu.agent.ports import GpuNode
from cgpu.agent.rounds import Group
from cgpu.agent.state import NodeState
from cgpu.agent.stillness import Glance, Stillness
from cgpu.agent.survey import Survey
from cgpu.errors import CgpuError, RegionError
from cgpu.model.tenant import Gpu, Policy, Tenant

_LOG: Final = logging.getLogger(__name__)
_PERCENT: Final = 100
_US_PER_NS: Final = 1000
_ASK_NS: Final = 60 * 10**9
_ACCOUNT_NS: Final = 5 * 10**9  # between two writes of the ledger: all that a question does not bring up to date


@dataclass(slots=True)
class _Busy:
    """A tenant's charged time on a GPU at the previous look."""

    time_ns: int
    busy_ns: int
    percent: int = 0


@dataclass(frozen=True, slots=True)
class Watched:
    """What the loop waits for: the end of any of these ends the wait."""

    host_pids: set[int]
    firsts: set[int]
    """Those of them with which a tenant, or a container of one, may end."""
    tenants_left: int
    stirred: tuple[Group, ...]
    """Groups of cards that had been still until now."""
    rests: bool
    """Nothing has changed of late."""


class Reconciler:
    """Compares and corrects. ``tick`` is called by one thread; time is passed in."""

    def __init__(self, state: NodeState, node: GpuNode) -> None:
        self._state = state
        self._node = node
        self._busy: dict[tuple[str, str], _Busy] = {}
        self._shown: dict[tuple[str, str], int] = {}  # bytes of a context, by tenant and GPU UUID
        self._on_card: dict[str, dict[str, tuple[int, ...]]] = {}  # host pids of processes, by GPU UUID and tenant
        self._still = Stillness()
        self._complained: set[tuple[str, str]] = set()
        self._doubted: set[str] = set()  # tenants whose regions have been at fault
        self._accounted_ns: int | None = None
        self._worked = False  # somebody has got time of a card since
        self._asked_ns: int | None = None  # when all tenants were last asked whether they have ended
        self._lingering = False  # a tenant's first process has ended, others of it have not

    def tick(
        self, now_ns: int, groups: Collection[Group] | None = None, *, chores: bool = True, ended: bool = True
    ) -> Watched:
        """One comparison, at CLOCK_MONOTONIC ``now_ns``. Never raises CgpuError: what fails is logged once.

        Of these ``groups`` of cards, None: all. ``chores``: look also after what belongs to no card. ``ended``: a
        tenant may have ended. Who has not is not asked otherwise: its end would have woken the agent.

        Between two groups, and between two tenants that have ended, who waits for the state gets it.
        """
        known = self._state.card_groups()
        chosen = known if groups is None else groups
        self._still.keep_only(known)
        glances = {group: self._state.glance(group) for group in chosen}
        for group in self._still.to_look_at(glances, now_ns):
            with self._state.lock:
                if group in self._state.card_groups():  # nobody has joined it to another one meanwhile
                    self._guard("survey", partial(self._compare, now_ns, group, glances[group]))
        with self._state.lock:
            self._guard("utilisation", lambda: self._tell_utilisation(now_ns, frozenset[str]().union(*chosen)))
        if chores:
            self._chores(now_ns, ended=ended)
        with self._state.lock:
            return self._watched()

    def is_idle(self) -> bool:
        """Whether nobody works, nobody is ending, and nothing has to be tried again."""
        if self._lingering or any(busy.percent for busy in self._busy.values()):
            return False
        # Where nobody divides the time, the driver has to be asked who gets it.
        divided = all(
            self._state.policy_in_force(gpu) is not Policy.NATIVE or not self._on_card.get(gpu.uuid)
            for gpu in self._state.gpus()
        )
        return divided and self._state.is_settled()

    def rests_until_ns(self) -> int | None:
        """Until when a tick would find nothing to do, as long as nothing changes; None: the next one may."""
        with self._state.lock:
            if not self.is_idle():
                return None
            return self._still.due_ns({group: self._state.glance(group) for group in self._state.card_groups()})

    def cards_of(self, host_pids: Collection[int]) -> frozenset[str]:
        """The cards on which these processes were seen last."""
        ended = set(host_pids)
        return frozenset(
            uuid
            for uuid, tenants in self._on_card.items()
            if any(not ended.isdisjoint(pids) for pids in tenants.values())
        )

    def _chores(self, now_ns: int, *, ended: bool) -> None:
        if ended or self._lingering or self._asked_ns is None or now_ns - self._asked_ns >= _ASK_NS:
            self._guard("tenants", lambda: self._remove_ended(now_ns))
        self._guard("containers", self._state.drop_ended_members)
        self._guard("limits", self._state.bring_limits)
        self._state.remove_leaves()
        self._account(now_ns)
        tenants = {record.tenant.id for record in self._state.records()}
        self._busy = {key: busy for key, busy in self._busy.items() if key[0] in tenants}  # whoever removed them
        self._shown = {key: size for key, size in self._shown.items() if key[0] in tenants}
        self._doubted &= tenants

    def _watched(self) -> Watched:
        records = self._state.records()
        firsts = {record.root.host_pid for record in records if record.root is not None}
        firsts |= {row.process.host_pid for record in records for row in record.members}
        on_cards = (pids for tenants in self._on_card.values() for pids in tenants.values())
        return Watched(firsts.union(*on_cards), firsts, len(records), self._still.stirred, self._still.rests)

    def utilisation_percent(self, tenant_id: str, gpu_uuid: str) -> int:
        """The tenant's share of the card's time between the last two looks."""
        busy = self._busy.get((tenant_id, gpu_uuid))
        return busy.percent if busy else 0

    def _account(self, now_ns: int) -> None:
        last_ns = self._accounted_ns
        is_due = last_ns is None or now_ns - last_ns >= _ACCOUNT_NS or self._state.ledger.minute_turned()
        if last_ns is None or (self._worked and is_due):
            self._state.account()
            self._accounted_ns, self._worked = now_ns, False

    def _guard(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except CgpuError as error:
            self._complain(what, error)

    def _complain(self, what: str, error: CgpuError) -> None:
        if (what, error.message) not in self._complained:
            self._complained.add((what, error.message))
            _LOG.warning("%s: %s", what, error)

    def _doubt(self, tenant_id: str, what: str) -> None:
        """Once in a tenant's life: the figures change from look to look, and so may the fault."""
        if tenant_id not in self._doubted:
            self._doubted.add(tenant_id)
            _LOG.warning("tenant %s: %s", tenant_id, what)

    def _compare(self, now_ns: int, group: Group, glance: Glance | None) -> None:
        """Look at a group."""
        survey = self._state.survey(group)
        for tenant_id, what in survey.damaged.items():
            self._doubt(tenant_id, what)
        dead: dict[str, list[int]] = {}
        for key in survey.releasable:
            dead.setdefault(key.tenant, []).append(key.slot)
        for tenant_id, slots in dead.items():  # what one tenant does to its file is not the others' trouble
            self._guard(f"tenant {tenant_id}", partial(self._state.reclaim, tenant_id, slots))
        for uuid, error in survey.failed.items():
            self._complain(f"GPU {uuid}", error)
        for gpu in self._state.gpus():
            if gpu.uuid not in survey.cards:
                continue
            tenants = survey.cards[gpu.uuid].tenants
            for tenant_id in tenants:
                self._write_memory(gpu, tenant_id, survey)
            self._on_card[gpu.uuid] = {tenant_id: tuple(row.host_pids) for tenant_id, row in tenants.items()}
        ending = any(card.unknown_ending for card in survey.cards.values())
        self._still.looked(group, glance, now_ns, ending=ending)

    def _context_bytes(self, gpu: Gpu, tenant_id: str, shown_bytes: int | None) -> int:
        """What the tenant's next context is charged: where none could be measured, what its own have shown so far.

        Never what a neighbour's have shown: a tenant can write what it likes into its region.
        """
        measured = self._state.measured_context_bytes(gpu)
        if measured is not None:
            return measured
        if shown_bytes is not None:
            key = (tenant_id, gpu.uuid)
            self._shown[key] = min(shown_bytes, self._shown.get(key, shown_bytes))
        return self._shown.get((tenant_id, gpu.uuid), self._state.context_bytes(gpu))

    def _write_memory(self, gpu: Gpu, tenant_id: str, survey: Survey) -> None:
        writer = self._state.regions.writer(tenant_id)
        if writer is None or tenant_id not in survey.readings:
            return
        attributed = survey.on(tenant_id, gpu.uuid)
        rows = survey.readings[tenant_id].grants.gpus
        row = next(granted.row for granted in rows if granted.gpu_uuid == gpu.uuid)
        context_bytes = self._context_bytes(gpu, tenant_id, attributed.context_bytes)
        writer.set_measured(row, attributed.overhead_bytes, context_bytes)
        for slot, (surplus_bytes, charge_seq) in attributed.surplus.items():
            writer.set_surplus(slot, row, surplus_bytes, charge_seq)

    def _tell_utilisation(self, now_ns: int, cards: Collection[str]) -> None:
        """By the arbiter's accounts; where nobody divides a card's time, by the driver's samples."""
        by_process = {
            gpu.uuid: self._node.process_utilisation(gpu, now_ns // _US_PER_NS - 10**6)
            for gpu in self._state.gpus()
            if gpu.uuid in cards and self._on_card.get(gpu.uuid) and self._state.policy_in_force(gpu) is Policy.NATIVE
        }
        for record in self._state.records():
            with contextlib.suppress(RegionError):  # of grants that somebody has cut short: the look tells
                self._tell_tenant(record.tenant, now_ns, cards, by_process)

    def _tell_tenant(
        self, tenant: Tenant, now_ns: int, cards: Collection[str], by_process: Mapping[str, Mapping[int, int]]
    ) -> None:
        writer = self._state.regions.writer(tenant.id)
        for row, share in enumerate(tenant.shares):
            if writer is None or share.gpu_uuid not in cards:
                continue
            key = (tenant.id, share.gpu_uuid)
            told = self._busy.get(key)
            percent = self._utilisation(key, writer.busy_ns(row), now_ns)
            if by_process.get(share.gpu_uuid):
                pids = self._on_card[share.gpu_uuid].get(tenant.id, ())
                percent = min(_PERCENT, sum(by_process[share.gpu_uuid].get(pid, 0) for pid in pids))
                self._busy[key].percent = percent
            if told is None or told.percent != percent:
                writer.set_utilisation(row, percent)

    def _utilisation(self, key: tuple[str, str], busy_ns: int, now_ns: int) -> int:
        last = self._busy.get(key)
        self._worked |= last is None or last.busy_ns != busy_ns
        percent = 0
        if last is not None and now_ns > last.time_ns:
            percent = max(0, min(_PERCENT, (busy_ns - last.busy_ns) * _PERCENT // (now_ns - last.time_ns)))
        self._busy[key] = _Busy(now_ns, busy_ns, percent)
        return percent

    def _remove_ended(self, now_ns: int) -> None:
        self._asked_ns = now_ns
        self._lingering = self._state.remove_ended().lingering > 0

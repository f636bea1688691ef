"""The agent's comparison of what the regions say with what the cards say, at least every 500 ms.

Dead processes give back their charges once the card has released their memory; what the card holds
beyond the charges becomes overhead; a tenant whose process tree
has ended is removed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from cgpu.agent.ports import GpuNode
from cgpu.agent.state import NodeState
from cgpu.agent.survey import Survey
from cgpu.errors import CgpuError
from cgpu.model.tenant import Gpu, Policy

_LOG: Final = logging.getLogger(__name__)
_PERCENT: Final = 100
_US_PER_NS: Final = 1000
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


class Reconciler:
    """Compares and corrects. ``tick`` is called by one thread; time is passed in."""

    def __init__(self, state: NodeState, node: GpuNode) -> None:
        self._state = state
        self._node = node
        self._busy: dict[tuple[str, str], _Busy] = {}
        self._shown: dict[tuple[str, str], int] = {}  # bytes of a context, by tenant and GPU UUID
        self._on_card: dict[str, frozenset[int]] = {}  # host pids of tenants' processes, by GPU UUID
        self._complained: set[tuple[str, str]] = set()
        self._doubted: set[str] = set()  # tenants whose regions have been at fault
        self._accounted_ns: int | None = None

    def tick(self, now_ns: int, cards: Collection[str] | None = None, *, chores: bool = True) -> Watched:
        """One comparison, at CLOCK_MONOTONIC ``now_ns``. Never raises CgpuError: what fails is logged once.

        Of these ``cards``, by UUID, None: all. ``chores``: look also after the tenants that have ended.
        """
        with self._state.lock:
            self._guard("survey", lambda: self._compare(now_ns, cards))
            if chores:
                self._chores(now_ns)
            return self._watched()

    def cards_of(self, host_pids: Collection[int]) -> frozenset[str]:
        """The cards on which these processes were seen last."""
        return frozenset(uuid for uuid, pids in self._on_card.items() if not pids.isdisjoint(host_pids))

    def _chores(self, now_ns: int) -> None:
        self._guard("tenants", self._remove_ended)
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
        return Watched(firsts.union(*self._on_card.values()), firsts, len(records))

    def utilisation_percent(self, tenant_id: str, gpu_uuid: str) -> int:
        """The tenant's share of the card's time between the last two looks."""
        busy = self._busy.get((tenant_id, gpu_uuid))
        return busy.percent if busy else 0

    def _account(self, now_ns: int) -> None:
        last_ns = self._accounted_ns
        if last_ns is None or now_ns - last_ns >= _ACCOUNT_NS or self._state.ledger.minute_turned():
            self._state.account()
            self._accounted_ns = now_ns

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

    def _compare(self, now_ns: int, cards: Collection[str] | None) -> None:
        survey = self._state.survey(cards)
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
            card = survey.cards[gpu.uuid]
            by_process: dict[int, int] = {}
            if card.tenants and self._state.policy_in_force(gpu) is Policy.NATIVE:
                by_process = self._node.process_utilisation(gpu, now_ns // _US_PER_NS - 10**6)
            for tenant_id in card.tenants:
                self._write(gpu, tenant_id, survey, by_process, now_ns)
            self._on_card[gpu.uuid] = frozenset(pid for row in card.tenants.values() for pid in row.host_pids)

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

    def _write(self, gpu: Gpu, tenant_id: str, survey: Survey, by_process: dict[int, int], now_ns: int) -> None:
        writer = self._state.regions.writer(tenant_id)
        if writer is None:
            return
        attributed = survey.on(tenant_id, gpu.uuid)
        rows = survey.readings[tenant_id].grants.gpus
        row = next(granted for granted in rows if granted.gpu_uuid == gpu.uuid)
        percent = self._utilisation(tenant_id, gpu, row.busy_ns, now_ns)
        if by_process:
            percent = min(_PERCENT, sum(by_process.get(pid, 0) for pid in attributed.host_pids))
            self._busy[tenant_id, gpu.uuid].percent = percent
        context_bytes = self._context_bytes(gpu, tenant_id, attributed.context_bytes)
        writer.set_measured(row.row, attributed.overhead_bytes, context_bytes, percent)
        for slot, (surplus_bytes, charge_seq) in attributed.surplus.items():
            writer.set_surplus(slot, row.row, surplus_bytes, charge_seq)

    def _utilisation(self, tenant_id: str, gpu: Gpu, busy_ns: int, now_ns: int) -> int:
        key = (tenant_id, gpu.uuid)
        last = self._busy.get(key)
        percent = 0
        if last is not None and now_ns > last.time_ns:
            percent = max(0, min(_PERCENT, (busy_ns - last.busy_ns) * _PERCENT // (now_ns - last.time_ns)))
        self._busy[key] = _Busy(now_ns, busy_ns, percent)
        return percent

    def _remove_ended(self) -> None:
        for record in self._state.records():
            if self._state.has_ended(record):
                self._state.remove(record.tenant.id)

"""The agent's comparison of what the regions say with what the cards say, at least every 500 ms.

Dead processes give back their charges once the card has released their memory; what the card holds
beyond the charges becomes overhead; contexts' real sizes are learned; a tenant whose process tree
has ended is removed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cgpu.agent.ports import GpuNode, Processes
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


@dataclass(slots=True)
class Watched:
    """What the loop waits for: the end of any of these ends the wait."""

    host_pids: set[int] = field(default_factory=set)
    tenants_left: int = 0


class Reconciler:
    """Compares and corrects. ``tick`` is called by one thread; time is passed in."""

    def __init__(self, state: NodeState, node: GpuNode, processes: Processes) -> None:
        self._state = state
        self._node = node
        self._processes = processes
        self._busy: dict[tuple[str, str], _Busy] = {}
        self._complained: set[tuple[str, str]] = set()
        self._accounted_ns: int | None = None

    def tick(self, now_ns: int) -> Watched:
        """One comparison, at CLOCK_MONOTONIC ``now_ns``. Never raises CgpuError: what fails is logged once."""
        watched = Watched()
        with self._state.lock:
            self._guard("survey", lambda: self._compare(now_ns, watched))
            self._guard("tenants", self._remove_ended)
            self._guard("containers", self._state.drop_ended_members)
            self._guard("limits", self._state.bring_limits)
            self._state.remove_leaves()
            self._account(now_ns)
            tenants = {record.tenant.id for record in self._state.records()}
            self._busy = {key: busy for key, busy in self._busy.items() if key[0] in tenants}  # whoever removed them
            watched.tenants_left = len(tenants)
        return watched

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

    def _compare(self, now_ns: int, watched: Watched) -> None:
        survey = self._state.survey()
        for key in survey.releasable:
            self._state.reclaim(key.tenant, key.slot)
        for uuid, error in survey.failed.items():
            self._complain(f"GPU {uuid}", error)
        for gpu in self._state.gpus():
            if gpu.uuid not in survey.cards:
                continue
            card = survey.cards[gpu.uuid]
            self._learn(gpu, survey)
            by_process: dict[int, int] = {}
            if card.tenants and self._state.policy_in_force(gpu) is Policy.NATIVE:
                by_process = self._node.process_utilisation(gpu, now_ns // _US_PER_NS - 10**6)
            for tenant_id in card.tenants:
                self._write(gpu, tenant_id, survey, by_process, now_ns)
            watched.host_pids |= {pid for row in card.tenants.values() for pid in row.host_pids}
        watched.host_pids |= {record.root.host_pid for record in self._state.records() if record.root is not None}
        watched.host_pids |= {row.process.host_pid for record in self._state.records() for row in record.members}
        # The pidfd of a zombie is ready at once and for ever.
        watched.host_pids = {pid for pid in watched.host_pids if self._processes.start_ticks(pid) is not None}

    def _learn(self, gpu: Gpu, survey: Survey) -> None:
        estimate = self._state.context_estimate(gpu)
        learned = estimate
        for row in survey.cards[gpu.uuid].tenants.values():
            if row.sample is not None:
                learned = learned.learn(row.sample)
        if learned != estimate:
            self._state.learn_context(gpu, learned)

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
        writer.set_measured(row.row, attributed.overhead_bytes, self._state.context_bytes(gpu), percent)
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

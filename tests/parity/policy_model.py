"""The policy core as a specification: what native/arbiter/policy.h says, in plain integers.

Virtual times are signed and do not wrap around; C's are these modulo 2**64. Where a division is not
exact it is rounded as said here, and the traces of test_policy_model.py hold both to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum

PPM = 1_000_000
PLACES = 32
NOBODY = -1
FOREVER = 2**64 - 1
LONGEST_NS = 10**12  # of one charge, one stretch of time and one debt
CREDIT_NS = 500_000_000  # a budget with work that waits keeps its part of this beyond a quantum
WEIGHT_MAX = 1024


class Kind(IntEnum):
    FAIR, PREEMPTIVE, WEIGHTED, FIXED, SOFT, NATIVE = range(6)


@dataclass(frozen=True)
class Settings:
    kind: Kind
    max_inst: int = 20
    prio_ratio: int = 80
    share_slots: bool = False
    quantum_ns: int = 10_000_000

    @property
    def conserves_work(self) -> bool:
        return self.kind in (Kind.PREEMPTIVE, Kind.WEIGHTED, Kind.SOFT)

    @property
    def full(self) -> int:
        """A full budget, in nanoseconds of the card times PPM."""
        return self.quantum_ns * PPM


@dataclass(frozen=True)
class Share:
    weight: int = 1
    compute_percent: int = 0
    compute_limit_percent: int = 0
    priority: int = 0

    def bounded(self) -> Share:
        percents = min(self.compute_percent, 100), min(self.compute_limit_percent, 100)
        return Share(max(1, min(self.weight, WEIGHT_MAX)), *percents, int(self.priority != 0))

    def weight_under(self, settings: Settings) -> int:
        """Percentages weigh 20 a point, and are given or a slice."""
        if settings.kind is Kind.WEIGHTED:
            return self.weight
        if settings.kind in (Kind.FIXED, Kind.SOFT):
            return self.compute_percent * 20 or 2000 // settings.max_inst
        return 1

    def cap_ppm(self, settings: Settings) -> int:
        """The most of the card that the tenant may have."""
        slice_ppm = PPM // settings.max_inst
        caps = [PPM]
        if settings.kind is not Kind.NATIVE and self.compute_limit_percent:
            caps.append(self.compute_limit_percent * PPM // 100)
        if settings.kind is Kind.FAIR and not self.priority:
            caps.append(slice_ppm)
        if settings.kind is Kind.FIXED and not self.priority:
            caps.append(self.compute_percent * PPM // 100 or slice_ppm)
        return min(caps)


@dataclass
class Tenant:
    share: Share
    virtual_time: int
    budget: int
    charged_ns: int = 0
    turn: int = 0
    backlogged: bool = False
    throttled: bool = False

    @property
    def competes(self) -> bool:
        return self.backlogged and not self.throttled


@dataclass
class Policy:
    settings: Settings
    tenants: dict[int, Tenant] = field(default_factory=dict)  # by place
    clock: list[int] = field(default_factory=lambda: [0, 0])  # by priority
    turns: int = 0
    priority_budget: int = 0
    priority_throttled: bool = False

    def __post_init__(self) -> None:
        self.settings = _bounded(self.settings)
        self.priority_budget = self.settings.full

    # ---- what holds of a tenant now ----

    def weight(self, tenant: Tenant) -> int:
        return tenant.share.weight_under(self.settings)

    def cap(self, tenant: Tenant) -> int:
        return tenant.share.cap_ppm(self.settings)

    def virtual(self, tenant: Tenant, time_ns: int) -> int:
        return time_ns * 1024 // self.weight(tenant)

    def wanted_by(self, priority: int) -> bool:
        return any(tenant.competes and tenant.share.priority == priority for tenant in self.tenants.values())

    def contended(self) -> bool:
        """Tenants of normal priority have something to lose."""
        return self.wanted_by(0)

    def takes_from_others(self, tenant: Tenant) -> bool:
        return bool(tenant.share.priority) and (self.contended() or not self.settings.conserves_work)

    def _settle(self) -> None:
        """The clock is the least virtual time of those that compete; nobody is a quantum of its own behind it."""
        for priority in (0, 1):
            competing = [t.virtual_time for t in self.tenants.values() if t.competes and t.share.priority == priority]
            self.clock[priority] = max(self.clock[priority], min(competing, default=self.clock[priority]))
        for tenant in self.tenants.values():
            oldest = self.clock[tenant.share.priority] - self.virtual(tenant, self.settings.quantum_ns)
            tenant.virtual_time = max(tenant.virtual_time, oldest)

    # ---- changes ----

    def set(self, settings: Settings) -> None:
        old, self.settings = self.settings, _bounded(settings)
        self.priority_budget = min(self.priority_budget, self.settings.full)
        self.priority_throttled = self.priority_throttled and self.priority_budget < self.settings.full
        for tenant in self.tenants.values():
            self._adopt(tenant, tenant.share, old)
        self._settle()

    def share(self, place: int, share: Share) -> None:
        tenant = self.tenants[place]
        old, tenant.share = tenant.share, share.bounded()
        self._adopt(tenant, old, self.settings)
        self._settle()

    def _adopt(self, tenant: Tenant, old: Share, settings: Settings) -> None:
        """A lead is kept in time of the card, rounded towards nothing."""
        lead = tenant.virtual_time - self.clock[old.priority]
        scaled = abs(lead) * old.weight_under(settings) // self.weight(tenant)
        tenant.virtual_time = self.clock[tenant.share.priority] + (scaled if lead > 0 else -scaled)
        capped = self.cap(tenant) < PPM
        tenant.budget = min(tenant.budget, self.settings.full) if capped else self.settings.full
        tenant.throttled = tenant.throttled and tenant.budget < self.settings.full

    def join(self, share: Share) -> int:
        place = next((i for i in range(PLACES) if i not in self.tenants), NOBODY)
        if place != NOBODY:
            bounded = share.bounded()
            self.tenants[place] = Tenant(bounded, self.clock[bounded.priority], self.settings.full)
        return place

    def leave(self, place: int) -> None:
        del self.tenants[place]
        self._settle()

    def wake(self, place: int) -> None:
        self.tenants[place].backlogged = True
        self._settle()

    def sleep(self, place: int) -> None:
        self.tenants[place].backlogged = False
        self._settle()

    def begin(self, place: int) -> None:
        self.turns += 1
        self.tenants[place].turn = self.turns

    # ---- time ----

    def charge(self, place: int, time_ns: int) -> None:
        tenant, time_ns = self.tenants[place], min(time_ns, LONGEST_NS)
        least = -LONGEST_NS * PPM
        tenant.charged_ns += time_ns
        tenant.virtual_time += self.virtual(tenant, time_ns)
        if self.takes_from_others(tenant):
            self.priority_budget = max(self.priority_budget - time_ns * PPM, least)
        if self.cap(tenant) < PPM:
            tenant.budget = max(tenant.budget - time_ns * PPM, least)
        self._settle()

    def pass_time(self, time_ns: int) -> None:
        time_ns, full = min(time_ns, LONGEST_NS), self.settings.full
        # In that time: before anybody's pause ends.
        high_waits = self.wanted_by(1) and (self.contended() or not self.settings.conserves_work)
        for tenant in self.tenants.values():
            cap = self.cap(tenant)
            if cap == PPM:
                continue
            credit = cap * CREDIT_NS if tenant.backlogged else 0
            tenant.budget = min(tenant.budget + time_ns * cap, full + credit)
            tenant.throttled = tenant.budget <= 0 or (tenant.throttled and tenant.budget < full)
        ratio = self.settings.prio_ratio * (PPM // 100)
        credit = ratio * CREDIT_NS if high_waits else 0
        self.priority_budget = min(self.priority_budget + time_ns * ratio, full + credit)
        self.priority_throttled = self.priority_budget <= 0 or (self.priority_throttled and self.priority_budget < full)
        self._settle()

    # ---- decisions ----

    def eligible(self, place: int) -> bool:
        tenant = self.tenants[place]
        out = tenant.share.priority and self.priority_throttled
        return tenant.competes and (not out or (self.settings.conserves_work and not self.contended()))

    def preempts(self, rival: int, holder: int) -> bool:
        return self.tenants[rival].share.priority > self.tenants[holder].share.priority and self.eligible(rival)

    def next(self) -> int:
        return self.next_after(NOBODY, 0)

    def next_after(self, holder: int, time_ns: int) -> int:
        """The holder then has used so much more, and is out if its budgets do not last that long."""
        best: dict[int, tuple[int, int, int]] = {}  # by priority: virtual time, turn, place
        for place, tenant in self.tenants.items():
            if not tenant.competes or (place == holder and self.allowance(place) <= time_ns):
                continue
            more = self.virtual(tenant, time_ns) if place == holder else 0
            key = (tenant.virtual_time + more, tenant.turn, place)
            best[tenant.share.priority] = min(best.get(tenant.share.priority, key), key)
        high_may = not self.priority_throttled or (0 not in best and self.settings.conserves_work)
        if 1 in best and high_may:
            return best[1][2]
        return best[0][2] if 0 in best else NOBODY

    def allowance(self, place: int) -> int:
        """Nanoseconds until a budget is used up, which grows meanwhile; rounded up."""
        tenant, bounds = self.tenants[place], [FOREVER]
        if self.cap(tenant) < PPM:
            bounds.append(0 if tenant.throttled else _ceil(max(tenant.budget, 0), PPM - self.cap(tenant)))
        if self.takes_from_others(tenant):
            loss = PPM - self.settings.prio_ratio * (PPM // 100)
            bounds.append(0 if self.priority_throttled else _ceil(max(self.priority_budget, 0), loss))
        return min(bounds)

    def pause(self) -> int:
        """Nanoseconds until a budget that keeps somebody with work from the card is full; rounded up."""
        full, pauses = self.settings.full, [FOREVER]
        waiting = [tenant for tenant in self.tenants.values() if tenant.backlogged and tenant.throttled]
        pauses += [_ceil(full - tenant.budget, self.cap(tenant)) for tenant in waiting]
        if self.priority_throttled and any(t.competes and t.share.priority for t in self.tenants.values()):
            pauses.append(_ceil(full - self.priority_budget, self.settings.prio_ratio * (PPM // 100)))
        return min(pauses)

    # ---- entitlements ----

    def share_ppm(self, place: int) -> int:
        """Of the card, if all had work: by weight within a priority, what is above a cap to the others."""
        native = self.settings.kind is Kind.NATIVE
        groups: list[dict[int, Tenant]] = [{}, {}]
        for number, tenant in self.tenants.items():
            groups[0 if native else tenant.share.priority][number] = tenant
        caps = [sum(map(self.cap, group.values())) for group in groups]
        high = self.settings.prio_ratio * (PPM // 100)
        if self.settings.conserves_work:
            high = max(high, PPM - caps[0])
        high = min(high, caps[1])
        return self._part(groups[1], place, high) if place in groups[1] else self._part(groups[0], place, PPM - high)

    def _part(self, group: dict[int, Tenant], place: int, total: int) -> int:
        while True:
            weights = sum(map(self.weight, group.values()))
            full = {i for i, t in group.items() if total * self.weight(t) // weights >= self.cap(t)}
            if place in full:
                return self.cap(group[place])
            if not full:
                return total * self.weight(group[place]) // weights
            total -= sum(self.cap(group[i]) for i in full)
            group = {i: t for i, t in group.items() if i not in full}


def _ceil(amount: int, divisor: int) -> int:
    return -(-amount // divisor)


def _bounded(settings: Settings) -> Settings:
    max_inst, ratio = max(1, min(settings.max_inst, PLACES)), max(20, min(settings.prio_ratio, 99))
    return replace(settings, max_inst=max_inst, prio_ratio=ratio)

"""A namespace's quota holds, whatever webhooks count with copies of the claims that are late, each as it pleases."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cgpu.errors import QuotaError
from cgpu.k8s.claim_check import Asked
from cgpu.k8s.quota import (
    RESERVED_S,
    Held,
    Limits,
    Reservation,
    may_count_with_copy,
    reservation,
    reserve,
    seen_of,
    waiting_of,
)

LIMIT = 2
ONE = Asked(memory_bytes=1)
REPLICAS = 2


@dataclass
class Ledger:
    """What is stored beside the claims. ``seen`` None: nothing is."""

    rows: list[Reservation] = field(default_factory=list)
    seen: int | None = None


class Quotas(RuleBasedStateMachine):
    @initialize(before=st.integers(0, LIMIT))
    def begin(self, before: int) -> None:
        """Some claims are from the time before there was a quota."""
        self.version = before
        self.stored = {f"old-{number}": Held(f"old-{number}", ONE, number + 1) for number in range(before)}
        self.history = [{}, *[dict(list(self.stored.items())[: number + 1]) for number in range(before)]]
        self.copies = [0] * REPLICAS
        self.ledger = Ledger()
        self.coming: list[str] = []
        self.now = 0.0
        self.count = 0

    def change(self) -> None:
        self.version += 1
        self.history.append(dict(self.stored))

    @rule(replica=st.integers(0, REPLICAS - 1), steps=st.integers(1, 4))
    def a_copy_gets_some_changes(self, replica: int, steps: int) -> None:
        self.copies[replica] = min(self.version, self.copies[replica] + steps)

    @rule(replica=st.integers(0, REPLICAS - 1))
    def a_claim_is_asked_for(self, replica: int) -> None:
        uid = f"new-{self.count}"
        self.count += 1
        held = self.by_copy(replica)
        rows = None if held is None else self.admitted(uid, held)
        if held is None or rows is None:
            held = list(self.stored.values())
            rows = self.admitted(uid, held)
        if rows is None:
            return
        if self.ledger.seen is None:
            seen = max((claim.version for claim in held), default=0)
        else:
            seen = seen_of(self.ledger.rows, held, self.ledger.seen)
        self.ledger = Ledger(rows, seen)
        self.coming.append(uid)

    def by_copy(self, replica: int) -> list[Held] | None:
        at = self.copies[replica]
        if self.ledger.seen is None or at < self.ledger.seen:
            return None
        held = list(self.history[at].values())
        return held if may_count_with_copy(self.ledger.rows, held, self.now) else None

    def admitted(self, uid: str, held: list[Held]) -> list[Reservation] | None:
        waiting = waiting_of(self.ledger.rows, held, self.now)
        try:
            return reserve(Limits(memory_bytes=LIMIT), held, waiting, ONE, reservation(uid, ONE, "", self.now))
        except QuotaError:
            return None

    @rule(data=st.data())
    def a_claim_is_stored(self, data: st.DataObject) -> None:
        if self.coming:
            self.store(data.draw(st.integers(0, len(self.coming) - 1)))

    def store(self, number: int) -> None:
        uid = self.coming.pop(number)
        self.stored[uid] = Held(uid, ONE, self.version + 1)
        self.change()

    @rule(data=st.data())
    def a_claim_changes(self, data: st.DataObject) -> None:
        if self.stored:
            uid = data.draw(st.sampled_from(sorted(self.stored)))
            self.stored[uid] = Held(uid, ONE, self.version + 1)
            self.change()

    @rule(data=st.data())
    def a_claim_is_deleted(self, data: st.DataObject) -> None:
        if self.stored:
            del self.stored[data.draw(st.sampled_from(sorted(self.stored)))]
            self.change()

    @rule()
    def time_passes_and_what_was_coming_never_comes(self) -> None:
        self.now += RESERVED_S + 1
        self.coming = []

    @invariant()
    def the_quota_holds(self) -> None:
        if hasattr(self, "stored"):
            assert len(self.stored) + len(self.coming) <= LIMIT


Quotas.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestQuotas = Quotas.TestCase


def test_a_copy_without_a_claim_whose_reservation_is_gone_is_not_counted_with():
    """The shortest way to a quota that does not hold, which a search finds seldom."""
    quotas = Quotas()
    quotas.begin(0)
    quotas.a_claim_is_asked_for(1)
    quotas.store(0)
    quotas.a_copy_gets_some_changes(1, 1)
    quotas.a_claim_is_asked_for(1)  # by its copy, which has the first claim: that one's reservation goes
    assert [row.uid for row in quotas.ledger.rows] == ["new-1"]
    assert quotas.by_copy(0) is None
    quotas.a_claim_is_asked_for(0)
    quotas.the_quota_holds()
    quotas.a_copy_gets_some_changes(0, 1)
    assert quotas.by_copy(0) is not None

"""What the node has promised, as the checkpoint has it.

A commit is the operation: what follows from it is brought about afterwards, by ``effects``, and again by the next
agent where this one is killed in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.agent.documents import Limit, NodeDocument, Record, encode
from cgpu.agent.leaves import Leaves, leaves_of
from cgpu.agent.limits import wanted_limits
from cgpu.agent.rounds import Group, groups_of
from cgpu.model.tenant import GpuPolicy


class Book:
    """One document at a time. The caller holds the state's lock, but to read what is one word."""

    def __init__(self, store: CheckpointStore, cards: Iterable[str], leaves: Leaves) -> None:
        self.document = NodeDocument({}, {}, {})
        self._store = store
        self._cards = tuple(cards)
        self._leaves = leaves
        self._groups: tuple[Group, ...] | None = None  # None: not known of this document yet
        self._changed: Callable[[], None] = lambda: None

    def subscribe(self, changed: Callable[[], None]) -> None:
        """``changed`` is called after tenants or policies have changed; it must not wait."""
        self._changed = changed

    def records(self) -> tuple[Record, ...]:
        """All tenants, oldest first."""
        return tuple(self.document.records.values())

    def groups(self) -> tuple[Group, ...]:
        """All cards, those together that have a tenant in common."""
        if self._groups is None:
            shares = ([share.gpu_uuid for share in record.tenant.shares] for record in self.records())
            self._groups = groups_of(self._cards, shares)
        return self._groups

    def open(self, document: NodeDocument) -> None:
        """Go on from what an agent before has left."""
        self.document, self._groups = document, None
        self._leaves.keep_only(document.leaves)

    def commit(
        self,
        records: dict[str, Record] | None = None,
        policies: dict[str, GpuPolicy] | None = None,
        contexts: dict[str, int] | None = None,
        limits: frozenset[Limit] | None = None,
    ) -> None:
        """Write down what is given; the rest stays. Raises StateError, and then nothing has changed."""
        old = self.document
        records = old.records if records is None else records
        gone = [record for key, record in old.records.items() if records.get(key) is not record]
        new = [record for key, record in records.items() if old.records.get(key) is not record]
        document = NodeDocument(
            records,
            old.policies if policies is None else policies,
            old.contexts if contexts is None else contexts,
            old.limits | wanted_limits(records.values()).keys() if limits is None else limits,
            (self._leaves.paths | leaves_of(gone)) - leaves_of(new),
        )
        self._store.save(encode(document))
        self.open(document)
        if records is not old.records or policies is not None:
            self._changed()

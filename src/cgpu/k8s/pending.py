"""Why a pod that waits for shares of GPUs cannot be placed. Pure.

The scheduler says only "cannot allocate all claims". What is found here is never more than what must
hold: conditions that are not looked at (CEL selectors, constraints between requests, other drivers'
devices, processors and memory) can only keep a pod from more nodes. So where room is found, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cgpu.doctor.node_selection import NodeSelection, selection_of
from cgpu.k8s import names
from cgpu.k8s.allocations import CardUse, NodeUse, Picture
from cgpu.k8s.asks import Ask, ClaimAsk, Request
from cgpu.k8s.isolation import sharing_of
from cgpu.k8s.offers import Taint, Toleration, kept_away, parse_taints, parse_tolerations

Object = Mapping[str, Any]

# What keeps a request from a card, besides a capacity, which goes by its name.
TAINT: Final = "taint"
UNDIVIDED: Final = "undivided"  # compute is asked for, and the node does not divide it
EXCLUSIVE: Final = "exclusive"  # the card is not shared and is taken
_STEPS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What of a Node decides which pods it takes."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]

    @property
    def labelled(self) -> bool:
        """Whether its labels ask for its GPUs to be shared."""
        return sharing_of(self.labels) is not None


@dataclass(frozen=True, slots=True)
class PodPlace:
    """What a pod says of the nodes that it may use."""

    selection: NodeSelection
    tolerations: tuple[Toleration, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """The nodes that were looked at, of those that share GPUs."""

    used: int
    sharing: int
    not_chosen: int = 0  # by the pod's nodeSelector and node affinity
    tainted: tuple[Taint, ...] = ()  # one for each node that the pod does not tolerate
    elsewhere: tuple[str, ...] = ()  # another claim of the pod has its cards here already


@dataclass(frozen=True, slots=True)
class NoNode:
    """No node comes into question."""

    labelled: int  # nodes whose labels ask for sharing
    scope: Scope


@dataclass(frozen=True, slots=True)
class NoCard:
    """No card can serve a request, nor any alternative of it."""

    ask: Ask
    blocked: tuple[tuple[str, CardUse, tuple[str, ...]], ...]  # every card: its node, it, and what keeps it
    scope: Scope
    alternatives: int = 1


@dataclass(frozen=True, slots=True)
class NotTogether:
    """Cards that would serve each request are there, but not all that are needed on one node."""

    requests: tuple[Request, ...]
    most: int  # cards that serve the first request on one node
    node: str  # which has them
    scope: Scope


Shortage = NoNode | NoCard | NotTogether


def parse_node(node: Object) -> NodeFacts:
    """Of a Node."""
    metadata = node["metadata"]
    return NodeFacts(
        metadata["name"], metadata.get("labels") or {}, parse_taints((node.get("spec") or {}).get("taints"))
    )


def parse_place(pod: Object) -> PodPlace:
    """Of a Pod."""
    return PodPlace(selection_of(pod["spec"]), parse_tolerations(pod["spec"].get("tolerations")))


def is_unschedulable(pod: Object) -> bool:
    """Whether the scheduler has tried to place the pod, and could not."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(
        row["type"] == "PodScheduled" and row["status"] == "False" and row.get("reason") == "Unschedulable"
        for row in conditions
    )


def shortage(
    claims: Sequence[ClaimAsk], place: PodPlace, picture: Picture, nodes: Mapping[str, NodeFacts]
) -> Shortage | None:
    """What keeps a pod with these claims from every node; None: nothing that can be seen here."""
    requests = tuple(request for claim in claims if not claim.allocated for request in claim.requests)
    if not requests:
        return None
    bound = [set(claim.pools) for claim in claims if claim.allocated]
    found, scope = _candidates(place, picture, nodes, bound)
    if not found:
        return NoNode(sum(node.labelled for node in nodes.values()), scope)
    for request in requests:
        lacking = _no_card(request, found, scope)
        if lacking is not None:
            return lacking
    if _has_room(found, requests):
        return None
    counts = {node.name: sum(_serves(card, requests[0]) for card in node.cards) for node in found}
    best = max(counts, key=lambda name: counts[name])
    return NotTogether(requests, counts[best], best, scope)


def blocks(card: CardUse, ask: Ask) -> tuple[str, ...]:
    """All that keeps a request from a card; empty: it fits."""
    if kept_away(card.card.taints, ask.tolerations) is not None:
        return (TAINT,)
    if not card.card.shared and card.uses:
        return (EXCLUSIVE,)
    asked = dict(ask.amounts)
    found = []
    for name in {**card.card.capacities, **asked}:
        capacity = card.card.capacities.get(name)
        if capacity is None:
            found.append(UNDIVIDED if name == names.COMPUTE else name)
            continue
        taken = capacity.taken(asked.get(name))
        if taken is None or taken > card.free(name):
            found.append(name)
    if names.SHARES in found and names.COMPUTE in found and names.COMPUTE not in asked:
        # Nobody asked for compute: as many tenants as there may be have all of it, by their least.
        found.remove(names.COMPUTE)
    return tuple(found)


def _candidates(
    place: PodPlace, picture: Picture, nodes: Mapping[str, NodeFacts], bound: Sequence[set[str]]
) -> tuple[list[NodeUse], Scope]:
    """The nodes that the pod may use, and why others not."""
    sharing = [node for node in picture.nodes.values() if node.complete and node.cards and node.name in nodes]
    found, tainted, not_chosen, elsewhere = [], [], 0, False
    for node in sharing:
        facts = nodes[node.name]
        taint = kept_away(facts.taints, place.tolerations)
        if not place.selection.chooses(facts.labels, node.name):
            not_chosen += 1
        elif taint is not None:
            tainted.append(taint)
        elif any(node.name not in pools for pools in bound):
            elsewhere = True
        else:
            found.append(node)
    where = tuple(sorted({pool for pools in bound for pool in pools})) if elsewhere else ()
    return found, Scope(len(found), len(sharing), not_chosen, tuple(tainted), where)


def _no_card(request: Request, found: Sequence[NodeUse], scope: Scope) -> NoCard | None:
    """None where at least one card can serve it. The last alternative is the one that is told: it asks for least."""
    blocked: list[tuple[str, CardUse, tuple[str, ...]]] = []
    for ask in request:
        blocked = []
        for node in found:
            for card in node.cards:
                why = blocks(card, ask)
                if not why:
                    return None
                blocked.append((node.name, card, why))
    return NoCard(request[-1], tuple(blocked), scope, len(request))


def _serves(card: CardUse, request: Request) -> bool:
    return any(not blocks(card, ask) for ask in request)


def _has_room(found: Sequence[NodeUse], requests: Sequence[Request]) -> bool:
    """Whether all of them fit on one of the nodes at the same time; also where that takes too long to find out."""
    if len(requests) == 1:
        (alternatives,) = requests
        return any(
            sum(not blocks(card, ask) for card in node.cards) >= ask.count for node in found for ask in alternatives
        )
    steps, tried = 0, set()
    for node in found:
        form = tuple(map(_form, node.cards))
        if form in tried:
            continue  # a node with as much left as this one had no room
        tried.add(form)
        search = _Search([_Room(card) for card in node.cards], requests, steps)
        if search.fits() or search.exhausted:
            return True
        steps = search.steps
    return False


def _form(card: CardUse) -> tuple[Any, ...]:
    """All of a card that decides what fits on it."""
    left = tuple(card.free(name) for name in card.card.capacities)
    return id(card.card.capacities), left, card.card.taints, card.card.shared


@dataclass(slots=True)
class _Room:
    """A card, and what a search has put on it."""

    card: CardUse
    taken: dict[str, int] = field(default_factory=dict)

    def put(self, ask: Ask) -> Mapping[str, int] | None:
        """Put a request on it, and what it took; None: there is no room."""
        if blocks(self.card, ask):
            return None
        asked = dict(ask.amounts)
        amounts = {name: row.taken(asked.get(name)) or 0 for name, row in self.card.card.capacities.items()}
        if any(self.taken.get(name, 0) + amount > self.card.free(name) for name, amount in amounts.items()):
            return None
        if not self.card.card.shared and self.taken:
            return None
        self._add(amounts, 1)
        return amounts

    def take_back(self, amounts: Mapping[str, int]) -> None:
        """Undo ``put``."""
        self._add(amounts, -1)

    def _add(self, amounts: Mapping[str, int], sign: int) -> None:
        sums = {name: self.taken.get(name, 0) + sign * amount for name, amount in amounts.items()}
        self.taken = sums if any(sums.values()) else {}


@dataclass(slots=True)
class _Search:
    """Tries to put requests on a node's cards, as the scheduler's allocator does: those of one request differ."""

    rooms: list[_Room]
    requests: Sequence[Request]
    steps: int  # made so far, on other nodes too

    @property
    def exhausted(self) -> bool:
        """Whether it gave up."""
        return self.steps > _STEPS_MAX

    def fits(self, number: int = 0) -> bool:
        """Whether the requests from this one on fit on what is left."""
        if number == len(self.requests):
            return True
        return any(self._fits(number, ask, ask.count, 0) for ask in self.requests[number])

    def _fits(self, number: int, ask: Ask, count: int, start: int) -> bool:
        if count == 0:
            return self.fits(number + 1)
        for place in self._places(count, start):
            room = self.rooms[place]
            amounts = room.put(ask)
            if amounts is None:
                continue
            if self._fits(number, ask, count - 1, place + 1):
                return True
            room.take_back(amounts)
        return False

    def _places(self, count: int, start: int) -> Iterator[int]:
        for place in range(start, len(self.rooms) - count + 1):
            self.steps += 1
            if self.exhausted:
                return
            yield place

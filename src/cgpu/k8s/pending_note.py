"""The words in which a pod is told why it waits: an event's note. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cgpu.doctor.labels import SCHEDULE
from cgpu.k8s import names
from cgpu.k8s.allocations import CardUse
from cgpu.k8s.event import NOTE_MAX
from cgpu.k8s.offers import kept_away
from cgpu.k8s.pending import EXCLUSIVE, TAINT, UNDIVIDED, NoCard, NoNode, NotTogether, Scope, Shortage
from cgpu.model.units import GIB

_SHORT: Final = {
    names.MEMORY: "too little memory",
    names.SHARES: "no tenant more",
    names.COMPUTE: "too little compute",
    UNDIVIDED: "compute not divided",
    TAINT: "tainted",
    EXCLUSIVE: "not shared",
}
_ORDER: Final = (*_SHORT,)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a pod waits."""

    kinds: tuple[str, ...]
    """The limits that bind, without their numbers: whether it is another reason, or the same with other numbers."""

    note: str


def reason_of(found: Shortage) -> Reason:
    """In words."""
    match found:
        case NoNode():
            reason = Reason(("no-node",), _no_node(found))
        case NoCard():
            reason = _no_card(found)
        case NotTogether():
            reason = Reason(("together",), _not_together(found))
    return reason if len(reason.note) <= NOTE_MAX else Reason(reason.kinds, f"{reason.note[: NOTE_MAX - 1]}…")


def gib(amount: int, *, up: bool = False) -> str:
    """Such as ``8 GiB`` or ``0.5 GiB``, cut off, or rounded up: nobody is told of more than there is."""
    hundredths = -(-amount * 100 // GIB) if up else amount * 100 // GIB
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + " GiB"


def _no_node(found: NoNode) -> str:
    scope = found.scope
    if scope.sharing:
        return f"no node that shares GPUs may run this pod{_excluded(scope)}"
    if found.labelled:
        nodes = _count(found.labelled, "node is labelled", "nodes are labelled")
        return f"{nodes} for sharing GPUs, and none offers any: does the agent run there?"
    return f"no node is labelled for sharing its GPUs ({SCHEDULE}=cgpu, core_mem or share)"


def _no_card(found: NoCard) -> Reason:
    counts = Counter(kind for _, _, kinds in found.blocked for kind in kinds)
    kinds = sorted(
        counts, key=lambda kind: (-counts[kind], _ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind)
    )
    heads = [_head(kind, found, counts[kind]) for kind in kinds]
    by_reason = ", ".join(f"{counts[kind]} {_SHORT.get(kind, f'too little {kind}')}" for kind in kinds)
    first = f"none of {found.alternatives} alternatives fits; the last: " if found.alternatives > 1 else ""
    gpus = _count(len(found.blocked), "GPU", "GPUs")
    return Reason(tuple(kinds), f"{first}{'; '.join(heads)} ({gpus}: {by_reason}){_scope(found.scope)}")


def _head(kind: str, found: NoCard, count: int) -> str:
    """What one limit says: what was asked, what there is, and where."""
    rows = [(node, card) for node, card, kinds in found.blocked if kind in kinds]
    on = "on all GPUs" if count == len(found.blocked) else f"on {count} of {len(found.blocked)} GPUs"
    match kind:
        case names.MEMORY:
            asked = found.ask.amount(kind)
            return _largest(
                "gpu memory", kind, "a whole GPU" if asked is None else gib(asked, up=True), asked, rows, gib
            )
        case names.COMPUTE:
            default = min(card.card.capacities[kind].default for _, card in rows)
            asked = found.ask.amount(kind) or default
            return _largest("gpu compute", kind, f"{asked} %", asked, rows, lambda amount: f"{amount} %")
        case names.SHARES:
            full = {(card.used.get(kind, 0), card.card.total(kind)) for _, card in rows}
            numbers = " of ".join(map(str, full.pop())) if len(full) == 1 else "all"
            return f"{numbers} tenants {on}"
        case _ if kind == UNDIVIDED:
            return f"compute is not divided {on} (nodes with the label {SCHEDULE}=core_mem divide it)"
        case _ if kind == EXCLUSIVE:
            return f"taken {on}, which are not shared: the gate DRAConsumableCapacity is off"
        case _ if kind == TAINT:
            taints = {kept_away(card.card.taints, found.ask.tolerations) for _, card in rows}
            told = sorted(f"{one.key}={one.value}" if one.value else one.key for one in taints if one)
            return f"taint {', '.join(told)} {on}"
        case _:
            return f"gpu {kind}: more asked than is left {on}"


def _largest(
    what: str,
    name: str,
    asked: str,
    amount: int | None,
    rows: Sequence[tuple[str, CardUse]],
    unit: Callable[[int], str],
) -> str:
    """Names the card that comes nearest, or, where the request is larger than every card, the largest card."""
    node, card = max(rows, key=lambda row: row[1].card.total(name))
    if amount is not None and amount > card.card.total(name):
        return f"{what}: asked {asked}, the largest GPU has {unit(card.card.total(name))} ({node}/{card.label})"
    node, card = max(rows, key=lambda row: row[1].free(name))
    return f"{what}: asked {asked}, largest free share {unit(card.free(name))} on {node}/{card.label}"


def _not_together(found: NotTogether) -> str:
    first = found.requests[0][0]
    if len(found.requests) > 1:
        wanted = _count(sum(request[0].count for request in found.requests), "GPU share", "GPU shares")
        return f"asked {wanted} on one node: each has room somewhere, all of them nowhere{_scope(found.scope)}"
    memory = first.amount(names.MEMORY)
    each = "whole" if memory is None else f"with {gib(memory, up=True)} free"
    least = min(ask.count for ask in found.requests[0])
    most = f"the most there are is {found.most}, on {found.node}"
    return f"asked {least} GPUs {each} on one node, {most}{_scope(found.scope)}"


def _scope(scope: Scope) -> str:
    if scope.used == scope.sharing:
        return ""
    return f"; on {scope.used} of {scope.sharing} nodes, those that the pod may use{_excluded(scope)}"


def _excluded(scope: Scope) -> str:
    parts = []
    if scope.not_chosen:
        parts.append(f"{scope.not_chosen} not chosen by its nodeSelector or node affinity")
    for taint, count in sorted(Counter(one.key for one in scope.tainted).items()):
        parts.append(f"{count} with the taint {taint}")
    if scope.elsewhere:
        parts.append(f"another claim of it has GPUs of {', '.join(scope.elsewhere)}")
    return f" ({', '.join(parts)})" if parts else ""


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"

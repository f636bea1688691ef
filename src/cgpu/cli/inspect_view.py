"""What ``kubectl inspect cgpu`` prints: the tables that users of ACK know, and JSON. Pure.

Layouts: the open-source ``kubectl inspect gpushare`` and ACK's documentation of ``kubectl inspect cgpu``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.k8s import names
from cgpu.k8s.allocations import CardUse, NodeUse, Picture, Use, by_users
from cgpu.model.units import GIB

_SUMMARY_LINE: Final = "-" * 69
_DETAIL_LINE: Final = "-" * 56
_NO_ADDRESS: Final = "unknown"
_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class PendingPod:
    """A pod without a node that asks for shares."""

    namespace: str
    name: str
    memory_bytes: int | None  # None: it asks for whole cards


@dataclass(frozen=True, slots=True)
class View:
    """All that is printed."""

    picture: Picture
    addresses: Mapping[str, str]  # of nodes, by name
    pending: Sequence[PendingPod]

    def address(self, node: str) -> str:
        """A node's internal IP address."""
        return self.addresses.get(node, _NO_ADDRESS)


def summary(view: View) -> Iterator[str]:
    """A line for each node."""
    nodes = list(view.picture.nodes.values())
    columns = _columns(nodes)
    pending = any(node.missing for node in nodes)
    header = ["NAME", "IPADDRESS", *(f"GPU{column}(Allocated/Total)" for column in range(columns))]
    header += ["PENDING(Allocated)"] if pending else []
    rows = [[*header, "GPU Memory(GiB)"]]
    for node in nodes:
        cells = {
            column: f"{gib(card.used.get(names.MEMORY, 0))}/{gib(_memory(card))}" for column, card in _placed(node)
        }
        row = [node.name, view.address(node.name), *(cells.get(column, "0/0") for column in range(columns))]
        row += [gib(node.missing_bytes())] if pending else []
        rows.append([*row, f"{gib(node.used(names.MEMORY))}/{gib(node.total(names.MEMORY))}"])
    yield from _aligned(rows)
    used, total = view.picture.used(names.MEMORY), view.picture.total(names.MEMORY)
    yield _SUMMARY_LINE
    yield "Allocated/Total GPU Memory In Cluster:"
    yield f"{gib(used)}/{gib(total)} ({percent(used, total)}%)"
    yield from _pending(view)


def details(view: View) -> Iterator[str]:
    """A table for each node, with a line for each pod."""
    for number, node in enumerate(view.picture.nodes.values()):
        if number:
            yield ""
        yield from _details(node, view.address(node.name))
    used, total = view.picture.used(names.MEMORY), view.picture.total(names.MEMORY)
    yield ""
    yield f"Allocated/Total GPU Memory In Cluster:  {gib(used)}/{gib(total)} ({percent(used, total)}%)"
    yield from _pending(view)


def document(view: View) -> Iterator[str]:
    """One JSON object in parts, in bytes and percent; a node is in memory at a time."""
    yield '{"nodes": ['
    separator = "\n"
    for node in view.picture.nodes.values():
        yield separator + json.dumps(_node(node, view.addresses.get(node.name)))
        separator = ",\n"
    used, total = view.picture.used(names.MEMORY), view.picture.total(names.MEMORY)
    rest = {
        "memory_bytes": total,
        "allocated_bytes": used,
        "pending": [
            {"namespace": pod.namespace, "pod": pod.name, "memory_bytes": pod.memory_bytes} for pod in view.pending
        ],
    }
    yield f"\n], {json.dumps(rest)[1:]}\n"


def gib(amount: int) -> str:
    """GiB, with at most two decimals where they are not whole."""
    return f"{amount / GIB:.2f}".rstrip("0").rstrip(".")


def percent(part: int, whole: int) -> int:
    """Whole percents, cut off."""
    return part * 100 // whole if whole else 0


def _details(node: NodeUse, address: str) -> Iterator[str]:
    columns = _columns([node])
    yield from _aligned([["NAME:", node.name], ["IPADDRESS:", address]])
    yield ""
    pending = bool(node.missing)
    header = ["NAME", "NAMESPACE", *(f"GPU{column}(Allocated)" for column in range(columns))]
    rows = [[*header, "Pending(Allocated)"] if pending else header]
    column_of = {card.card.device: column for column, card in _placed(node)}
    groups = by_users([use for card in node.cards for use in card.uses] + node.missing)
    for (namespace, pods, claim), uses in groups.items():
        amounts = [0] * columns
        for use in uses:
            if use.device in column_of:
                amounts[column_of[use.device]] += use.memory_bytes
        row = [",".join(pods) or f"claim/{claim}", namespace, *map(gib, amounts)]
        missing = sum(use.memory_bytes for use in uses if use.device not in column_of)
        rows.append([*row, gib(missing)] if pending else row)
    used, total = node.used(names.MEMORY), node.total(names.MEMORY)
    rows += [["Allocated :", f"{gib(used)} ({percent(used, total)}%)"], ["Total :", gib(total)]]
    yield from _aligned(rows)
    yield _DETAIL_LINE


def _pending(view: View) -> Iterator[str]:
    """Pods that no node has yet: there is no column that could be theirs."""
    if not view.pending:
        return
    asked = sum(pod.memory_bytes or 0 for pod in view.pending)
    whole = sum(pod.memory_bytes is None for pod in view.pending)
    count = len(view.pending)
    yield ""
    yield "Pending GPU Memory In Cluster:"
    yield f"{gib(asked)} ({count} pod{'s' * (count > 1)}{f', {whole} for whole GPUs' if whole else ''})"


def _columns(nodes: Sequence[NodeUse]) -> int:
    return max((column + 1 for node in nodes for column, _ in _placed(node)), default=0)


def _placed(node: NodeUse) -> Iterator[tuple[int, CardUse]]:
    """The cards with their columns: NVML's index, as users know them."""
    for place, card in enumerate(node.by_index()):
        yield place if card.card.index is None else card.card.index, card


def _memory(card: CardUse) -> int:
    return card.card.total(names.MEMORY)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell and two spaces; the last cell of a line makes no column wider."""
    widths: dict[int, int] = {}
    for row in rows:
        for column, cell in enumerate(row[:-1]):
            widths[column] = max(widths.get(column, 0), len(cell))
    for row in rows:
        cells = [cell.ljust(widths[column]) + _GAP for column, cell in enumerate(row[:-1])]
        yield "".join([*cells, row[-1]]).rstrip()


def _node(node: NodeUse, address: str | None) -> dict[str, Any]:
    return {
        "name": node.name,
        "address": address,
        "complete": node.complete,
        "memory_bytes": node.total(names.MEMORY),
        "allocated_bytes": node.used(names.MEMORY),
        "gpus": [_card(card) for card in node.by_index()],
        "missing": [{"device": use.device, **_share(use)} for use in node.missing],
    }


def _card(use: CardUse) -> dict[str, Any]:
    card = use.card
    divided = names.COMPUTE in card.capacities
    return {
        "index": card.index,
        "uuid": card.uuid,
        "device": card.device,
        "product": card.product,
        "simulated": card.simulated,
        "isolation": card.isolation,
        "memory_layer": card.memory_layer,
        "policy": card.policy,
        "shared": card.shared,
        "taints": [{"key": taint.key, "value": taint.value, "effect": taint.effect} for taint in card.taints],
        "memory_bytes": card.total(names.MEMORY),
        "allocated_bytes": use.used.get(names.MEMORY, 0),
        "free_bytes": use.free(names.MEMORY),
        "allocated_compute_percent": use.used.get(names.COMPUTE, 0) if divided else None,
        "free_compute_percent": use.free(names.COMPUTE) if divided else None,
        "tenants": len(use.uses),
        "tenants_max": card.total(names.SHARES),
        "shares": [_share(one) for one in use.uses],
    }


def _share(use: Use) -> dict[str, Any]:
    return {
        "namespace": use.namespace,
        "claim": use.claim,
        "request": use.request,
        "pods": list(use.pods),
        "memory_bytes": use.memory_bytes,
        "compute_percent": use.amounts.get(names.COMPUTE),
    }

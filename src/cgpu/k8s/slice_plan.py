"""What has to be written so that a node's ResourceSlices say what they should. Pure.

The scheduler takes a pool only when all slices of its newest generation are there, and ignores older
ones. So a change that one update makes keeps the generation; a greater one raises it everywhere, and
what is obsolete goes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.k8s.slices import Object, Pool, slices

_OURS: Final = ("attributes", "capacity", "taints")  # of a device: what is not wanted there any more has to go


@dataclass(frozen=True, slots=True)
class Plan:
    """Requests in the order in which they are made."""

    delete: tuple[str, ...] = ()
    update: tuple[Object, ...] = ()
    create: tuple[Object, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.delete or self.update or self.create)


def plan(existing: Sequence[Object], node: str, node_uid: str, devices: Sequence[Object]) -> Plan:
    """What brings the node's slices from what is there to these devices."""
    generation = max((item["spec"]["pool"]["generation"] for item in existing), default=1)
    present = {item["metadata"]["name"]: item for item in existing}
    wanted = slices(Pool(node, node_uid, generation), devices)
    obsolete = present.keys() - {item["metadata"]["name"] for item in wanted}
    changed = len(list(_different(wanted, present))) + len(obsolete)
    if not changed:
        return Plan()
    if changed > 1 and present:
        wanted = slices(Pool(node, node_uid, generation + 1), devices)
    different = list(_different(wanted, present))
    return Plan(
        delete=tuple(sorted(obsolete)),
        update=tuple(_over(present[name], item) for name, item in different if name in present),
        create=tuple(item for name, item in different if name not in present),
    )


def _different(wanted: Sequence[Object], present: Mapping[str, Object]) -> Iterator[tuple[str, Object]]:
    for item in wanted:
        name = item["metadata"]["name"]
        if name not in present or not _says(present[name]["spec"], item["spec"]):
            yield name, item


def _says(have: Any, want: Any) -> bool:
    """Whether what the server has says all that is wanted, and no more of what is ours to say.

    The server may have added fields of its own, such as the time of a taint.
    """
    if isinstance(want, dict):
        if not isinstance(have, dict) or any(_names(have.get(key)) != _names(want.get(key)) for key in _OURS):
            return False
        return all(_says(have.get(key), value) for key, value in want.items())
    if isinstance(want, list):
        have = have or []
        return len(have) == len(want) and all(_says(left, right) for left, right in zip(have, want, strict=True))
    return bool(have == want)


def _names(part: Any) -> Any:
    return set(part) if isinstance(part, dict) else len(part or ())


def _over(present: Object, wanted: Object) -> dict[str, Any]:
    """The object that replaces the present one, at the version that was read."""
    metadata = {**wanted["metadata"], "resourceVersion": present["metadata"]["resourceVersion"]}
    return {**wanted, "metadata": metadata}

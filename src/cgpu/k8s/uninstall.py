"""Before cgpu goes from a cluster: nobody may have a share. Looking, and bringing the pods that have one to an end.

Without an agent on its node a pod's claim cannot be taken back, and the kubelet does not let the pod go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_lease import LEASES
from cgpu.adapters.kube_objects import (
    CLAIM_TEMPLATES,
    CLAIMS,
    CONFIG_MAPS,
    DEVICE_CLASSES,
    SECRETS,
    ObjectClient,
)
from cgpu.errors import ClusterError, RefusedError
from cgpu.k8s import names
from cgpu.k8s.allocations import parse_uses
from cgpu.k8s.claim_check import CLASSES
from cgpu.k8s.quota_keeper import LABEL

Object = Mapping[str, Any]
_NOTHING: Final = {"cel": {"expression": "false"}}
_ROUND_S: Final = 2.0
_NAMED: Final = 5
_WAY_OUT: Final = "end them first, or have them evicted: --drain"


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who has shares: a pod, or a claim that no pod uses."""

    namespace: str
    name: str  # of the pod; empty: none uses the claim
    uid: str
    node: str
    claim: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.namespace}/{self.name}" if self.name else f"claim {self.namespace}/{self.claim}"


def holders_of(claims: Iterable[Object]) -> list[Holder]:
    """Who has shares of our cards by these ResourceClaims; a line for each pod and claim, in order. Pure."""
    found = []
    for claim in claims:
        uses = parse_uses(claim)
        if not uses:
            continue
        namespace, name, node = uses[0].namespace, uses[0].claim, uses[0].pool
        users = [row for row in claim["status"].get("reservedFor") or () if row["resource"] == "pods"]
        found += [Holder(namespace, row["name"], row["uid"], node, name) for row in users]
        if not users:
            found.append(Holder(namespace, "", "", node, name))
    return sorted(found)


def table(holders: Sequence[Holder]) -> list[str]:
    """The lines that show them. Pure."""
    rows = [("POD", "NODE", "CLAIM"), *((one.label if one.name else "-", one.node, one.claim) for one in holders)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]


def refusal_of(holders: Sequence[Holder], remedy: str = _WAY_OUT) -> RefusedError:
    """What is said while somebody has a share. Pure."""
    labels = list(dict.fromkeys(one.label for one in holders))
    nodes = len({one.node for one in holders})
    named = ", ".join(labels[:_NAMED]) + (", ..." if len(labels) > _NAMED else "")
    return RefusedError(
        f"claims of GPU shares are allocated on {nodes} node{'s' if nodes > 1 else ''} ({len(labels)}): {named}", remedy
    )


class Departure:
    """Looks, waits and removes. ``tell`` shows a line to whoever waits."""

    def __init__(self, api: ObjectClient, tell: Callable[[str], None]) -> None:
        self._api = api
        self._tell = tell

    def check(self) -> None:
        """Raise RefusedError while somebody has a share, after telling who. Raises ClusterError."""
        holders = self.holders()
        if holders:
            for line in table(holders):
                self._tell(line)
            raise refusal_of(holders)

    def holders(self) -> list[Holder]:
        """Who has shares now. Raises ClusterError."""
        return holders_of(self._api.each(CLAIMS))

    def drain(
        self, seconds: float, clock: Callable[[], float], wait: Callable[[float], object],
        classes: Collection[str] = CLASSES,
    ) -> None:  # fmt: skip
        """Evict all pods that have a share, and wait for their end. Disruption budgets hold.

        Meanwhile the DeviceClasses give nothing, or controllers would have their pods back on our cards at once.
        They give again when it does not end in so many seconds: then RefusedError. Raises ClusterError.
        """
        give_up = clock() + seconds
        with self._nothing_given(classes):
            evicted: set[str] = set()
            before: list[Holder] | None = None
            while holders := self.holders():
                held_back = self._evict(holders, evicted)
                if holders != before:
                    self._tell(f"waiting for {', '.join(dict.fromkeys(one.label for one in holders))}")
                before = holders
                if clock() >= give_up:
                    for line in table(holders):
                        self._tell(line)
                    raise refusal_of(holders, "; ".join(held_back.values()) or "they have not ended in time: repeat it")
                wait(_ROUND_S)

    def _evict(self, holders: Sequence[Holder], evicted: set[str]) -> dict[str, str]:
        """Evict the pods that are not yet; what keeps the others, by their uids."""
        held_back = {}
        for uid, one in {one.uid: one for one in holders if one.uid and one.uid not in evicted}.items():
            try:
                self._api.evict(one.namespace, one.name, uid)
            except ApiRefusedError as error:
                if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                    held_back[uid] = f"{one.label}: a disruption budget does not let it go"
                    continue
                if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):  # gone, or another of its name
                    raise
            else:
                self._tell(f"evicted {one.label} from {one.node}")
            evicted.add(uid)
        return held_back

    @contextlib.contextmanager
    def _nothing_given(self, classes: Collection[str]) -> Iterator[None]:
        """Until the end, if that is a good one: without agents there is nothing to be given."""
        closed = {name: selectors for name in classes if (selectors := self._close(name)) is not None}
        try:
            yield
        except BaseException:
            for name, selectors in closed.items():
                self._api.merge(DEVICE_CLASSES, "", name, {"spec": {"selectors": selectors}})
            raise

    def _close(self, name: str) -> list[Any] | None:
        """The selectors that the class had; None: there is no such class."""
        found = self._api.get(DEVICE_CLASSES, "", name)
        if found is None:
            return None
        selectors = [row for row in found["spec"].get("selectors") or () if row != _NOTHING]
        self._api.merge(DEVICE_CLASSES, "", name, {"spec": {"selectors": [*selectors, _NOTHING]}})
        return selectors

    def remove_rest(self, namespace: str, secret: str, lease: str) -> None:
        """Delete what our programs have made beside what Helm knows: templates, reservations, certificate, lease.

        Raises ClusterError.
        """
        templates = self._api.list(CLAIM_TEMPLATES, labels=f"{names.TEMPLATE}={names.TEMPLATE_OF_ACK}")[0]
        reservations = self._api.list(CONFIG_MAPS, namespace, labels=LABEL)[0]
        rows = [(CLAIM_TEMPLATES, row["metadata"]["namespace"], row["metadata"]["name"]) for row in templates]
        rows += [(CONFIG_MAPS, namespace, row["metadata"]["name"]) for row in reservations]
        rows += [(SECRETS, namespace, secret), (LEASES, namespace, lease)]
        failed: list[ClusterError] = []
        for kind, place, name in rows:
            try:
                self._api.delete(kind, place, name)
            except ApiRefusedError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        self._tell(f"removed {len(templates)} claim templates, {len(reservations)} reservations of quotas")

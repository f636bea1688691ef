"""Takes away the templates that nothing uses any more, and makes again those that are missed.

A template that no pod names is marked with the time; ten minutes later it goes, if it is still as it was.
The admission of a pod takes the mark away, so that a copy of the pods that is late by less than that does no harm.
Deciding is pure. One process of a cluster does it, but several would do no harm either.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_mirror import Mirror
from cgpu.adapters.kube_objects import CLAIM_TEMPLATES, CONFIG_MAPS, NAMESPACES, PODS, SLICES, ObjectClient
from cgpu.errors import CgpuError, ClusterError
from cgpu.k8s import names
from cgpu.k8s.offers import card_sizes_mib
from cgpu.k8s.quota_keeper import LABEL, PREFIX
from cgpu.k8s.templates import Share, may_be_ours, share_named, template

Object = Mapping[str, Any]
_LOG: Final = logging.getLogger(__name__)
WAIT: Final = timedelta(minutes=10)
_ROUND_S: Final = 60.0
_SYNC_S: Final = 60.0  # for so long the first copy of the pods is waited for
_ENDED: Final = ("Succeeded", "Failed")
_LIVING: Final = ",".join(f"status.phase!={phase}" for phase in _ENDED)


@dataclass(frozen=True, slots=True)
class Round:
    """What is to be done; templates by (namespace, name)."""

    mark: tuple[tuple[str, str], ...] = ()
    unmark: tuple[tuple[str, str], ...] = ()
    delete: tuple[tuple[str, str, str], ...] = ()
    """With the version that may be deleted."""
    make: tuple[tuple[str, Share], ...] = ()
    """Shares whose templates are missed, by namespace."""


def decide(
    templates: Iterable[Object],
    used: Collection[tuple[str, str]],
    now: datetime,
    sizes_mib: Callable[[], Sequence[int]] = lambda: (),
) -> Round:
    """What is to be done with our templates.

    ``used``: namespace and name of those that pods name. ``sizes_mib`` tells the memory of the cluster's cards; it is
    asked only where a template is missed.
    """
    there: set[tuple[str, str]] = set()
    mark, unmark, delete = [], [], []
    for row in templates:
        metadata = row["metadata"]
        key = metadata["namespace"], metadata["name"]
        there.add(key)
        since = _time((metadata.get("annotations") or {}).get(names.UNUSED_SINCE))
        if key in used:
            if since is not None:
                unmark.append(key)
        elif since is None or since > now:  # a time that is still to come is no use
            mark.append(key)
        elif now - since >= WAIT:
            delete.append((*key, metadata["resourceVersion"]))
    missed = sorted(set(used) - there)
    sizes = sizes_mib() if missed else ()
    make = [(namespace, share) for namespace, name in missed if (share := share_named(name, sizes)) is not None]
    return Round(tuple(mark), tuple(unmark), tuple(delete), tuple(make))


def stale_ledgers(ledgers: Iterable[Object], namespaces: Collection[str]) -> list[str]:
    """The names of the reservations' objects whose namespace is gone."""
    found = [row["metadata"]["name"] for row in ledgers]
    return [name for name in found if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in namespaces]


def named_templates(pod: Object) -> tuple[str, ...]:
    """The templates of ours that a pod names; none where it has ended, or is about to go."""
    if (pod.get("status") or {}).get("phase") in _ENDED or pod["metadata"].get("deletionTimestamp"):
        return ()
    found = (row.get("resourceClaimTemplateName") for row in (pod.get("spec") or {}).get("resourceClaims") or ())
    return tuple(name for name in found if name and may_be_ours(name))


def _time(text: str | None) -> datetime | None:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class TemplateCollector:
    """``run`` in a thread."""

    def __init__(self, api: ObjectClient, own_namespace: str, leads: Callable[[], bool] = lambda: True) -> None:
        """``leads`` says whether this process is the one that does it; ``own_namespace`` has the quotas' ledgers."""
        self._api = api
        self._own_namespace = own_namespace
        self._leads = leads
        self._stopping = threading.Event()
        # Not listed each time: in a large cluster that would be some hundred megabytes a minute.
        self._pods = Mirror(api, PODS, lambda pod: named_templates(pod) or None, fields=_LIVING)

    def run(self) -> None:
        """A round a minute until ``stop``. What fails is tried again in the next one."""
        while not self._stopping.wait(_ROUND_S):
            try:
                if self._leads() and self._follow().is_set():
                    self.round(datetime.now(UTC))
            except CgpuError as error:
                _LOG.warning("templates that nothing uses stay for now: %s", error)

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()
        self._pods.stop()

    def round(self, now: datetime) -> Round:
        """Look, and do what is to be done. Raises ClusterError."""
        if not self._follow().wait(_SYNC_S):
            raise ClusterError("the pods could not be read", "the log tells why; the service account may list them")
        # The templates first: their versions tell which of them have changed since.
        templates, _ = self._api.list(CLAIM_TEMPLATES, labels=f"{names.TEMPLATE}={names.TEMPLATE_OF_ACK}")
        used = {(namespace, name) for (namespace, _), named in self._pods.items().items() for name in named}
        todo = decide(templates, used, now, self._sizes_mib)
        for namespace, name in todo.mark:
            self._annotate(namespace, name, now.isoformat(timespec="seconds"))
        for namespace, name in todo.unmark:
            self._annotate(namespace, name, None)
        for namespace, name, version in todo.delete:
            with _unless_changed():
                self._api.delete(CLAIM_TEMPLATES, namespace, name, version=version)
        for namespace, share in todo.make:
            with _unless_changed():
                self._api.create(CLAIM_TEMPLATES, template(share, namespace), namespace)
        self._remove_ledgers()
        return todo

    def _follow(self) -> threading.Event:
        """Set when the pods have been read."""
        self._pods.start()
        return self._pods.synced

    def _sizes_mib(self) -> list[int]:
        slices = self._api.each(SLICES, fields=f"spec.driver={names.DRIVER}")
        return sorted({size for piece in slices for size in card_sizes_mib(piece)})

    def _annotate(self, namespace: str, name: str, since: str | None) -> None:
        patch = {"metadata": {"annotations": {names.UNUSED_SINCE: since}}}
        with _unless_changed():
            self._api.merge(CLAIM_TEMPLATES, namespace, name, patch)

    def _remove_ledgers(self) -> None:
        ledgers, _ = self._api.list(CONFIG_MAPS, self._own_namespace, labels=LABEL)
        if not ledgers:
            return
        namespaces = {row["metadata"]["name"] for row in self._api.list(NAMESPACES)[0]}
        for name in stale_ledgers(ledgers, namespaces):
            self._api.delete(CONFIG_MAPS, self._own_namespace, name)


@contextlib.contextmanager
def _unless_changed() -> Iterator[None]:
    """Somebody else was faster, or the namespace is about to go: the next round sees how things are then."""
    try:
        yield
    except ApiRefusedError as error:
        if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
            raise
        _LOG.info("%s", error)

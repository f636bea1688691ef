"""Takes away the templates that nothing uses any more, and makes again those that are missed.

A template that no pod names is marked with the time; ten minutes later it goes, if it is still as it was.
The admission of a pod takes the mark away. Deciding is pure; several collectors do no harm.
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
from cgpu.adapters.kube_objects import CLAIM_TEMPLATES, CONFIG_MAPS, NAMESPACES, PODS, ObjectClient
from cgpu.errors import CgpuError
from cgpu.k8s import names
from cgpu.k8s.quota_keeper import LABEL, PREFIX
from cgpu.k8s.templates import Share, share_named, template

Object = Mapping[str, Any]
_LOG: Final = logging.getLogger(__name__)
WAIT: Final = timedelta(minutes=10)
_ROUND_S: Final = 60.0
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


def decide(templates: Iterable[Object], pods: Iterable[Object], now: datetime, sizes_mib: Sequence[int] = ()) -> Round:
    """What is to be done with our templates, by the pods that there are, and the cluster's cards."""
    used = _used(pods)
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
    missed = sorted(used - there)
    make = [(namespace, share) for namespace, name in missed if (share := share_named(name, sizes_mib)) is not None]
    return Round(tuple(mark), tuple(unmark), tuple(delete), tuple(make))


def stale_ledgers(ledgers: Iterable[Object], namespaces: Collection[str]) -> list[str]:
    """The names of the reservations' objects whose namespace is gone."""
    found = [row["metadata"]["name"] for row in ledgers]
    return [name for name in found if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in namespaces]


def _used(pods: Iterable[Object]) -> set[tuple[str, str]]:
    used = set()
    for pod in pods:
        if (pod.get("status") or {}).get("phase") in _ENDED or pod["metadata"].get("deletionTimestamp"):
            continue
        for entry in (pod.get("spec") or {}).get("resourceClaims") or ():
            if entry.get("resourceClaimTemplateName"):
                used.add((pod["metadata"]["namespace"], entry["resourceClaimTemplateName"]))
    return used


def _time(text: str | None) -> datetime | None:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class TemplateCollector:
    """``run`` in a thread."""

    def __init__(
        self, api: ObjectClient, own_namespace: str, sizes_mib: Callable[[], Sequence[int]] = lambda: ()
    ) -> None:
        """``sizes_mib`` tells the memory of the cluster's cards."""
        self._sizes_mib = sizes_mib
        self._api = api
        self._own_namespace = own_namespace
        self._stopping = threading.Event()

    def run(self) -> None:
        """A round a minute until ``stop``. What fails is tried again in the next one."""
        while not self._stopping.wait(_ROUND_S):
            try:
                self.round(datetime.now(UTC))
            except CgpuError as error:
                _LOG.warning("templates that nothing uses stay for now: %s", error)

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def round(self, now: datetime) -> Round:
        """Look, and do what is to be done. Raises ClusterError."""
        # The templates first: a pod that comes in between is seen, and the version tells a template that changed.
        templates, _ = self._api.list(CLAIM_TEMPLATES, labels=f"{names.TEMPLATE}={names.TEMPLATE_OF_ACK}")
        todo = decide(templates, self._api.each(PODS, fields=_LIVING), now, self._sizes_mib())
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

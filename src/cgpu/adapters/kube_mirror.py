"""All objects of a kind as they are in the cluster, kept up to date by a watch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from cgpu.adapters.kube_objects import ExpiredError, Kind, Object, ObjectClient
from cgpu.errors import CgpuError

_LOG: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 2.0


class Mirror:
    """Safe for several threads. ``run`` in one of its own; what is here may be some milliseconds old."""

    def __init__(self, api: ObjectClient, kind: Kind, keep: Callable[[Object], Any], *, fields: str = "") -> None:
        """``keep`` takes from an object what is of interest; the rest is not kept."""
        self._api = api
        self._kind = kind
        self._keep = keep
        self._fields = fields
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], Any] = {}
        self._stopping = threading.Event()
        self.synced = threading.Event()
        """Set when everything has been read once."""

    def get(self, namespace: str, name: str) -> Any:
        """What was kept of an object, or None."""
        with self._lock:
            return self._kept.get((namespace, name))

    def values(self, namespace: str | None = None) -> list[Any]:
        """What was kept of all objects, or of those of a namespace."""
        with self._lock:
            return [kept for (place, _), kept in self._kept.items() if namespace in (None, place)]

    def run(self) -> None:
        """Until ``stop``. What cannot be read now is read later."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except ExpiredError:
                continue
            except CgpuError as error:
                if self._stopping.is_set():
                    return
                _LOG.warning("%s: %s; trying again", self._kind.plural, error)
                self._stopping.wait(_AGAIN_S)

    def stop(self) -> None:
        """End ``run``: a watch that waits ends when the client is closed."""
        self._stopping.set()

    def _follow(self) -> None:
        items, version = self._api.list(self._kind, fields=self._fields)
        with self._lock:
            self._kept = {_key(item): self._keep(item) for item in items}
        self.synced.set()
        while not self._stopping.is_set():
            for event, item in self._api.watch(self._kind, version, fields=self._fields):
                version = item["metadata"]["resourceVersion"]
                if event == "BOOKMARK":
                    continue
                with self._lock:
                    if event == "DELETED":
                        self._kept.pop(_key(item), None)
                    else:
                        self._kept[_key(item)] = self._keep(item)


def _key(item: Object) -> tuple[str, str]:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]

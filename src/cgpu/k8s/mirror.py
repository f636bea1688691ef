"""A copy of the objects of one kind, reduced to what is needed of them and kept as the API server has them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from cgpu.adapters.kube_objects import ExpiredError, Kind, Object, ObjectClient
from cgpu.errors import CgpuError

T = TypeVar("T")
Key = tuple[str, str]
_LOG: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 5.0  # after a failure
_BOOKMARK: Final = "BOOKMARK"


class Mirror(Generic[T]):
    """``start`` it; then ``items`` is the newest copy that there is."""

    def __init__(
        self,
        api: ObjectClient,
        kind: Kind,
        parse: Callable[[Object], T | None],
        changed: Callable[[], None],
        *,
        fields: str = "",
    ) -> None:
        """``parse`` makes of an object what is kept of it, or None; ``changed`` is called when a copy has changed."""
        self._api = api
        self._kind = kind
        self._parse = parse
        self._changed = changed
        self._fields = fields
        self._items: dict[Key, T] = {}
        self._lock = threading.Lock()
        self._synced = False
        self._stopping = threading.Event()

    @property
    def synced(self) -> bool:
        """Whether all objects have been read once."""
        return self._synced

    def items(self) -> dict[Key, T]:
        """By (namespace, name)."""
        with self._lock:
            return dict(self._items)

    def start(self) -> None:
        """Read and watch in a thread of its own."""
        threading.Thread(target=self._keep, name=f"mirror of {self._kind.plural}", daemon=True).start()

    def stop(self) -> None:
        """End it; closing the client ends a watch that waits."""
        self._stopping.set()

    def _keep(self) -> None:
        version = ""
        while not self._stopping.is_set():
            try:
                version = version or self._read()
                version = self._follow(version)
            except ExpiredError:
                version = ""
            except CgpuError as error:
                if not self._stopping.is_set():
                    _LOG.warning("%s", error)
                version = ""
                self._stopping.wait(_AGAIN_S)

    def _read(self) -> str:
        found, version = self._api.list(self._kind, fields=self._fields)
        items = {_key(item): kept for item in found if (kept := self._kept(item)) is not None}
        with self._lock:
            self._items = items
        self._synced = True
        self._changed()
        return version

    def _follow(self, version: str) -> str:
        for change, item in self._api.watch(self._kind, version, fields=self._fields):
            version = item["metadata"]["resourceVersion"]
            if change == _BOOKMARK:
                continue
            key, kept = _key(item), None if change == "DELETED" else self._kept(item)
            with self._lock:
                before = self._items.pop(key, None)
                if kept is not None:
                    self._items[key] = kept
            if kept != before:
                self._changed()
        return version

    def _kept(self, item: Object) -> T | None:
        try:
            return self._parse(item)
        except CgpuError as error:
            _LOG.warning("%s %s: %s", self._kind.plural, "/".join(_key(item)), error)
            return None


def _key(item: dict[str, Any]) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]

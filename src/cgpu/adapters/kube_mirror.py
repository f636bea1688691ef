"""All objects of a kind, reduced to what is needed of them and kept as the API server has them, by a watch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from cgpu.adapters.kube_objects import ExpiredError, Kind, Object, ObjectClient
from cgpu.errors import CgpuError

T = TypeVar("T")
Key = tuple[str, str]  # namespace, name
_LOG: Final = logging.getLogger(__name__)
_BOOKMARK: Final = "BOOKMARK"


class Mirror(Generic[T]):
    """``start`` it; then it is the newest copy that there is, some milliseconds old. Safe for several threads."""

    def __init__(
        self,
        api: ObjectClient,
        kind: Kind,
        parse: Callable[[Object], T | None],
        changed: Callable[[], None] = lambda: None,
        *,
        fields: str = "",
        again_s: float = 5.0,
    ) -> None:
        """``again_s``: the pause after a failure.

        ``parse`` makes of an object what is kept of it, or None: nothing; of one that it raises CgpuError for
        nothing is kept either. ``changed`` is called when all has been read, and when a copy has changed.
        """
        self._api = api
        self._kind = kind
        self._parse = parse
        self._changed = changed
        self._fields = fields
        self._again_s = again_s
        self._items: dict[Key, T] = {}
        self._version = 0
        """The resource version up to which it is whole; those of a cluster grow."""
        self._lock = threading.Condition()
        self._is_started = False
        self._stopping = threading.Event()
        self.synced = threading.Event()
        """Set when everything has been read once."""

    def get(self, namespace: str, name: str) -> T | None:
        """What was kept of an object, or None."""
        with self._lock:
            return self._items.get((namespace, name))

    def items(self) -> dict[Key, T]:
        """By (namespace, name)."""
        with self._lock:
            return dict(self._items)

    @property
    def version(self) -> int:
        """The resource version up to which all changes are in the copy."""
        with self._lock:
            return self._version

    def reached(self, version: int, patience_s: float) -> bool:
        """Whether all changes up to that resource version are in the copy, now or soon."""
        with self._lock:
            return self._lock.wait_for(lambda: self._version >= version, patience_s)

    def start(self) -> None:
        """Read and watch in a thread of its own. Called again, from whatever thread, it changes nothing."""
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
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
                    _LOG.warning("%s: %s; trying again", self._kind.plural, error)
                version = ""
                self._stopping.wait(self._again_s)

    def _read(self) -> str:
        items: dict[Key, T] = {}
        version = ""
        for page in self._api.pages(self._kind, fields=self._fields):
            version = page["metadata"]["resourceVersion"]
            items |= {_key(item): kept for item in page.get("items") or () if (kept := self._kept(item)) is not None}
        with self._lock:
            self._items = items
            self._passed(version)
        self.synced.set()
        self._changed()
        return version

    def _follow(self, version: str) -> str:
        for change, item in self._api.watch(self._kind, version, fields=self._fields):
            version = item["metadata"]["resourceVersion"]
            if change == _BOOKMARK:
                with self._lock:
                    self._passed(version)
                continue
            key, kept = _key(item), None if change == "DELETED" else self._kept(item)
            with self._lock:
                before = self._items.pop(key, None)
                if kept is not None:
                    self._items[key] = kept
                self._passed(version)
            if kept != before:
                self._changed()
        return version

    def _passed(self, version: str) -> None:
        self._version = int(version) if version.isdecimal() else 0
        self._lock.notify_all()

    def _kept(self, item: Object) -> T | None:
        try:
            return self._parse(item)
        except CgpuError as error:
            _LOG.warning("%s %s: %s", self._kind.plural, "/".join(_key(item)), error)
            return None


def _key(item: Object) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]

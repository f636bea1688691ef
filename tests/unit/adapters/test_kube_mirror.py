"""A copy of a kind's objects: it is followed once, however often and from wherever it is started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

from cgpu.adapters.kube_mirror import Mirror
from cgpu.adapters.kube_objects import NODES, Kind, ObjectClient


class Api:
    """Has one node, and a watch that tells nothing until the test ends."""

    def __init__(self) -> None:
        self.read = 0
        self.watched = threading.Event()
        self.ended = threading.Event()

    def pages(self, kind: Kind, **_: str) -> Iterator[dict[str, Any]]:
        assert kind is NODES
        self.read += 1
        yield {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a", "resourceVersion": "3"}}]}

    def watch(self, *_: object, **__: str) -> Iterator[tuple[str, dict[str, Any]]]:
        self.watched.set()
        self.ended.wait()
        yield from ()


def test_it_is_followed_once_however_often_it_is_started():
    api = Api()
    mirror: Mirror[str] = Mirror(cast("ObjectClient", api), NODES, lambda node: str(node["metadata"]["name"]))
    begin = threading.Barrier(8)

    def start() -> None:
        begin.wait()
        mirror.start()

    starts = [threading.Thread(target=start) for _ in range(8)]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    try:
        assert api.watched.wait(5)
        mirror.start()
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("mirror of nodes") == 1
        assert (mirror.items(), mirror.version, api.read) == ({("", "a"): "a"}, 7, 1)
    finally:
        mirror.stop()
        api.ended.set()

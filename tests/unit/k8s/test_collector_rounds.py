"""What the collector of templates asks the API server for: the pods once, and then by a watch; and who does it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cgpu.adapters.kube_objects import CLAIM_TEMPLATES, NAMESPACES, PODS, SLICES, Kind
from cgpu.k8s.admission import Mirrors
from cgpu.k8s.template_collector import TemplateCollector
from cgpu.k8s.templates import Share, name_of

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
NAME = name_of(Share(8192))


def pod(name: str) -> dict[str, Any]:
    spec = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": NAME}]}
    metadata = {"namespace": "team", "name": name, "resourceVersion": "2"}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


def cards(node: str, memory: str) -> dict[str, Any]:
    devices = [{"name": "gpu-0", "capacity": {"memory": {"value": memory}}}]
    return {"metadata": {"name": node, "resourceVersion": "1"}, "spec": {"driver": "gpu.cgpu.dev", "devices": devices}}


class Api:
    """As much of an ObjectClient as is asked of it: lists are counted, a watch tells what is put into it."""

    def __init__(self, objects: dict[Kind, list[dict[str, Any]]]) -> None:
        self.objects = objects
        self.listed: Counter[Kind] = Counter()
        self.made: list[str] = []
        self._told = threading.Condition()
        self._changes: dict[Kind, list[tuple[str, dict[str, Any]]]] = {}

    def pages(self, kind: Kind, *_: str, **__: str) -> Iterator[dict[str, Any]]:
        self.listed[kind] += 1
        yield {"metadata": {"resourceVersion": "1"}, "items": list(self.objects.get(kind, ()))}

    def list(self, kind: Kind, *_: str, **__: str) -> tuple[list[dict[str, Any]], str]:
        (page,) = self.pages(kind)
        return page["items"], "1"

    def each(self, kind: Kind, *_: str, **__: str) -> Iterator[dict[str, Any]]:
        yield from self.list(kind)[0]

    def watch(self, kind: Kind, *_: str, **__: str) -> Iterator[tuple[str, dict[str, Any]]]:
        while True:
            with self._told:
                self._told.wait_for(lambda: self._changes.get(kind))
                change = self._changes[kind].pop(0)
            yield change

    def tell(self, kind: Kind, change: str, item: dict[str, Any]) -> None:
        with self._told:
            self._changes.setdefault(kind, []).append((change, item))
            self._told.notify_all()

    def create(self, kind: Kind, document: dict[str, Any], namespace: str = "") -> dict[str, Any]:
        assert kind is CLAIM_TEMPLATES
        self.made.append(f"{namespace}/{document['metadata']['name']}")
        return document


def test_pods_are_listed_once_and_cards_only_where_a_template_is_missed():
    api = Api({PODS: []})
    collector = TemplateCollector(api, "cgpu-system")  # type: ignore[arg-type]
    for _ in range(3):
        collector.round(NOW)
    assert api.listed[PODS] == 1
    assert api.listed[SLICES] == 0

    api.tell(PODS, "ADDED", pod("a"))
    assert collector._pods.reached(2, 5.0)
    assert collector.round(NOW).make == (("team", Share(8192)),)
    assert api.made == [f"team/{NAME}"]
    assert (api.listed[PODS], api.listed[SLICES]) == (1, 1)


@pytest.mark.parametrize("leads", [False, True])
def test_only_the_leader_collects(leads: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cgpu.k8s.template_collector._ROUND_S", 0.001)
    asked = threading.Event()
    api = Api({PODS: []})

    def is_leader() -> bool:
        if api.listed[CLAIM_TEMPLATES] or not leads:
            asked.set()
        return leads

    collector = TemplateCollector(api, "cgpu-system", is_leader)  # type: ignore[arg-type]
    thread = threading.Thread(target=collector.run)
    thread.start()
    assert asked.wait(5.0)
    collector.stop()
    thread.join(5.0)
    assert (api.listed[CLAIM_TEMPLATES] > 0) == leads
    assert (api.listed[PODS] > 0) == leads


def test_the_sizes_of_cards_are_counted_anew_after_a_change():
    api = Api({SLICES: [cards("a", "15079Mi"), cards("b", "15079Mi")], NAMESPACES: []})
    mirrors = Mirrors(api)  # type: ignore[arg-type]
    mirrors.start(5.0)
    assert mirrors.sizes_mib() == [15079]
    assert mirrors.sizes_mib() is mirrors.sizes_mib()
    more = cards("c", "40536Mi")
    more["metadata"]["resourceVersion"] = "2"
    api.tell(SLICES, "ADDED", more)
    assert mirrors._slices.reached(2, 5.0)
    while mirrors.sizes_mib() != [15079, 40536]:
        time.sleep(0.001)  # it is told of the change after the copy has it
    mirrors.stop()

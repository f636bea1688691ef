"""Who has shares, and what is said of them; evictions by what the API answers."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.errors import RefusedError
from cgpu.k8s.uninstall import Departure, holders_of, refusal_of, table

OPEN = [{"cel": {"expression": "device.driver == 'gpu.cgpu.dev'"}}]
SHUT = {"cel": {"expression": "false"}}


def claim(name: str, *pods: str, node: str = "node-a", driver: str = "gpu.cgpu.dev") -> dict[str, Any]:
    result = {
        "driver": driver,
        "pool": node,
        "request": "gpu",
        "device": "gpu-0a",
        "consumedCapacity": {"memory": "1Gi"},
    }
    users = [{"resource": "pods", "name": pod, "uid": f"uid-{pod}"} for pod in pods]
    return {
        "metadata": {"namespace": "team", "name": name},
        "status": {"allocation": {"devices": {"results": [result, result]}}, "reservedFor": users},
    }


def test_pods_and_claims_that_nobody_uses_are_named():
    waiting = {"metadata": {"namespace": "team", "name": "waits"}, "spec": {}}
    claims = [claim("one", "web", "db"), claim("idle", node="node-b"), waiting, claim("nic", "net", driver="nic.com")]
    holders = holders_of(claims)
    assert [one.label for one in holders] == ["claim team/idle", "team/db", "team/web"]
    assert [line.split() for line in table(holders)] == [
        ["POD", "NODE", "CLAIM"],
        ["-", "node-b", "idle"],
        ["team/db", "node-a", "one"],
        ["team/web", "node-a", "one"],
    ]
    said = str(refusal_of(holders))
    assert said == (
        "claims of GPU shares are allocated on 2 nodes (3): claim team/idle, team/db, team/web"
        " (end them first, or have them evicted: --drain)"
    )


def test_of_many_some_are_named():
    said = refusal_of(holders_of([claim(f"c{number}", f"pod-{number}") for number in range(9)])).message
    assert said.endswith("on 1 node (9): team/pod-0, team/pod-1, team/pod-2, team/pod-3, team/pod-4, ...")


class Api:
    """Claims that go with their pods; what evictions are answered is given."""

    def __init__(self, claims: list[dict[str, Any]], answers: dict[str, list[HTTPStatus]]) -> None:
        self.claims = claims
        self.answers = answers
        self.evicted: list[str] = []
        self.selectors: list[Any] = OPEN

    def each(self, _: object) -> Iterator[dict[str, Any]]:
        yield from [
            row for row in self.claims if any(user["name"] not in self.evicted for user in row["status"]["reservedFor"])
        ]

    def evict(self, namespace: str, name: str, uid: str) -> None:
        assert (namespace, uid) == ("team", f"uid-{name}")
        assert name not in self.evicted
        assert SHUT in self.selectors
        if self.answers.get(name):
            raise ApiRefusedError(self.answers[name].pop(0), "no")
        self.evicted.append(name)

    def get(self, *_: object) -> dict[str, Any]:
        return {"spec": {"selectors": self.selectors}}

    def merge(self, _: object, __: str, name: str, patch: dict[str, Any]) -> None:
        assert name == "gpu.cgpu.dev"
        self.selectors = patch["spec"]["selectors"]


def drain(api: Api, seconds: float = 10) -> list[str]:
    said: list[str] = []
    now = [0.0]

    def wait(pause_s: float) -> None:
        now[0] += pause_s

    Departure(api, said.append).drain(seconds, lambda: now[0], wait)  # type: ignore[arg-type]
    return said


def test_pods_are_evicted_as_budgets_allow_it():
    api = Api([claim("one", "web"), claim("two", "db")], {"web": [HTTPStatus.TOO_MANY_REQUESTS] * 2})
    assert drain(api) == [
        "evicted team/db from node-a",
        "waiting for team/db, team/web",
        "waiting for team/web",
        "evicted team/web from node-a",
    ]
    assert SHUT in api.selectors  # until Helm takes the class away


def test_a_pod_that_is_gone_or_another_is_not_waited_for():
    gone = HTTPStatus.NOT_FOUND
    api = Api([claim("one", "web")], {"web": [gone]})
    with pytest.raises(RefusedError, match="they have not ended in time"):
        drain(api)  # its claim is still there
    assert api.evicted == []


def test_a_budget_that_never_allows_it_is_named_and_the_class_gives_again():
    api = Api([claim("one", "web"), claim("two", "db")], {"web": [HTTPStatus.TOO_MANY_REQUESTS] * 99})
    with pytest.raises(RefusedError, match=r"\(1\): team/web") as caught:
        drain(api)
    assert caught.value.remedy == "team/web: a disruption budget does not let it go"
    assert api.selectors == OPEN


def test_a_class_that_was_left_shut_is_opened_after_a_refusal():
    api = Api([claim("one", "web")], {"web": [HTTPStatus.TOO_MANY_REQUESTS] * 99})
    api.selectors = [*OPEN, SHUT]
    with pytest.raises(RefusedError):
        drain(api)
    assert api.selectors == OPEN


def test_what_the_api_refuses_otherwise_is_told():
    api = Api([claim("one", "web")], {"web": [HTTPStatus.FORBIDDEN]})
    with pytest.raises(ApiRefusedError):
        drain(api)
    assert api.selectors == OPEN

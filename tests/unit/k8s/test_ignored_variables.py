"""Pods that set CGPU_DISABLE are told once that it is ignored."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.k8s.ignored_variables import IgnoredVariables, disabling, told


def pod(name: str = "web", value: Any = "true", *, claims: bool = True, **status: Any) -> dict[str, Any]:
    variable = {"name": "CGPU_DISABLE", **(value if isinstance(value, dict) else {"value": value})}
    main: dict[str, Any] = {"name": "main", "env": [{"name": "A"}, variable]}
    if claims:
        main["resources"] = {"claims": [{"name": "gpu"}]}
    return {
        "metadata": {"namespace": "team", "name": name, "uid": f"uid-{name}"},
        "spec": {"containers": [main], "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]},
        "status": status,
    }


def placed(name: str = "web") -> dict[str, Any]:
    return pod(name, resourceClaimStatuses=[{"name": "gpu", "resourceClaimName": f"{name}-gpu-x"}])


@pytest.mark.parametrize(
    ("made", "containers"),
    [
        (pod(), ["main"]),
        (pod(value="1"), ["main"]),
        (pod(value={"valueFrom": {"fieldRef": {}}}), ["main"]),
        (pod(value="false"), []),
        (pod(value="0"), []),
        (pod(value=None), []),
        (pod(claims=False), []),
        ({"spec": {}}, []),
    ],
)
def test_only_what_would_take_a_share_off_is_meant(made: dict[str, Any], containers: list[str]):
    assert disabling(made) == containers


def test_the_words_name_the_containers():
    assert told(["a"]).startswith("container a: CGPU_DISABLE is ignored: ")
    assert told(["a", "b"]).startswith("containers a, b: ")


class Api:
    """Keeps events; those that it has are refused."""

    def __init__(self, pods: list[dict[str, Any]]) -> None:
        self.pods = pods
        self.events: dict[str, Any] = {}

    def create(self, _: object, document: dict[str, Any], namespace: str) -> None:
        name = document["metadata"]["name"]
        assert namespace == "team"
        if name in self.events:
            raise ApiRefusedError(HTTPStatus.CONFLICT, "it is there")
        self.events[name] = document

    def each(self, *_: object, **__: str) -> Iterator[dict[str, Any]]:
        yield from self.pods


def ignored(api: Api, now: list[float]) -> IgnoredVariables:
    return IgnoredVariables(api, "here", lambda: now[0])  # type: ignore[arg-type]


def test_a_pod_is_told_once_its_claims_are_known_to_be_ours():
    api, now = Api([]), [0.0]
    watching = ignored(api, now)
    watching.see(pod())  # no claim is made yet
    watching.tell(lambda *_: True)
    assert not api.events
    watching.see(placed())
    watching.tell(lambda *_: False)
    assert not api.events
    watching.tell(lambda namespace, claim: (namespace, claim) == ("team", "web-gpu-x"))
    watching.see(placed())
    watching.tell(lambda *_: True)
    (event,) = api.events.values()
    assert (event["reason"], event["regarding"]["uid"]) == ("CgpuDisableIgnored", "uid-web")


def test_another_leader_says_it_no_second_time():
    api, now = Api([placed()]), [0.0]
    for _ in range(2):
        watching = ignored(api, now)
        watching.begin()
        watching.tell(lambda *_: True)
    assert len(api.events) == 1


def test_others_claims_and_pods_that_go_are_forgotten():
    api, now = Api([]), [0.0]
    watching = ignored(api, now)
    watching.see(placed())
    now[0] = 61.0
    watching.tell(lambda *_: False)
    watching.tell(lambda *_: True)
    going = placed("going")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    watching.see(going)
    watching.see(placed("others"))
    watching.forget()
    watching.tell(lambda *_: True)
    assert not api.events

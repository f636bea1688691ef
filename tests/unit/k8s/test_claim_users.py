"""Which containers use which requests of claims."""

from __future__ import annotations

from typing import Any

import pytest

from cgpu.errors import ClaimError
from cgpu.k8s.claim_users import Use, check_pod, is_whole, uses_of, uses_of_claim


def pod(*containers: tuple[str, ...], init: tuple[str, ...] = (), **status: Any) -> dict[str, Any]:
    """Containers c0, c1, ...; each use is "claim" or "claim/request"."""

    def container(name: str, uses: tuple[str, ...]) -> dict[str, Any]:
        rows = [dict(zip(("name", "request"), use.split("/"), strict=False)) for use in uses]
        return {"name": name, "resources": {"claims": rows} if rows else {}}

    claims = sorted({use.split("/")[0] for uses in (*containers, init) for use in uses})
    entries = [{"name": claim, "resourceClaimTemplateName": "t"} for claim in claims]
    spec: dict[str, Any] = {"containers": [container(f"c{n}", uses) for n, uses in enumerate(containers)]}
    if init:
        spec["initContainers"] = [container("i0", init)]
    return {"spec": spec | {"resourceClaims": entries}, "status": status}


OURS = {"gpu": ["big", "small"], "one": ["gpu"], "nic": []}


@pytest.mark.parametrize(
    "made",
    [
        pod(()),
        pod(("gpu",)),
        pod(("gpu",), ("gpu",), init=("gpu",)),
        pod(("gpu/big",), ("gpu/small",), init=("gpu/big",)),
        pod(("gpu", "gpu/big")),  # the request is part of the whole
        pod(("one", "one/gpu")),
        pod(("one",), ("one/gpu",), init=("one",)),  # a claim of one request is that request
        pod(("one", "nic")),
        pod(("gpu", "nic/port"), ("one",)),
        pod(("gpu/other",), ("gpu",)),  # a request of another driver
    ],
)
def test_a_container_has_one_share(made: dict[str, Any]):
    check_pod(made, OURS)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (pod(("gpu", "one")), "container c0 uses two claims of our cards, gpu and one"),
        (pod((), init=("gpu/big", "one")), "container i0 uses two claims of our cards"),
        (pod(("gpu/big", "gpu/small")), "container c0 names the requests big and small of claim gpu"),
        (pod(("gpu/big",), ("gpu",)), "container c1 uses claim gpu as a whole, and container c0 its request big"),
        (pod(("gpu",), init=("gpu/small",)), "container c0 uses claim gpu as a whole, and container i0 its request"),
    ],
)
def test_what_would_be_two_shares_of_a_container_is_refused(made: dict[str, Any], words: str):
    with pytest.raises(ClaimError, match=words):
        check_pod(made, OURS)


def test_the_claim_of_a_pod_is_found_by_what_was_made_for_it():
    made = pod(("gpu/big",), ("gpu/small",), resourceClaimStatuses=[{"name": "gpu", "resourceClaimName": "web-gpu-x"}])
    assert uses_of_claim(made, "web-gpu-x") == [Use("c0", "gpu", ("big",)), Use("c1", "gpu", ("small",))]
    assert uses_of_claim(made, "gpu") == []
    made["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "mine"}]
    assert uses_of_claim(made, "mine") == list(uses_of(made))
    assert uses_of_claim({}, "mine") == []


def test_a_claim_is_whole_by_its_users():
    requests = OURS["gpu"]
    assert is_whole([Use("a", "gpu", ()), Use("b", "gpu", ())], requests, "it")
    assert not is_whole([Use("a", "gpu", ("big",))], requests, "it")
    assert not is_whole([], requests, "it")
    assert not is_whole([Use("a", "gpu", ())], ["gpu"], "it")

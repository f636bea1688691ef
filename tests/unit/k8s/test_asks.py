from __future__ import annotations

import pytest

from cgpu.errors import AmountError
from cgpu.k8s.asks import claims_of, parse_asks
from cgpu.k8s.offers import Toleration
from cgpu.model.units import GIB
from tests.unit.k8s.cluster_objects import claim, pod, request, result


def test_amounts_counts_and_tolerations():
    wanted = [
        request("a", count=2, compute="30"),
        {"name": "b", "firstAvailable": [request()["exactly"], request(memory="1500m")["exactly"]]},
        request("c", allocationMode="All", tolerations=[{"operator": "Exists"}]),
    ]
    found = parse_asks(claim("x", requests=wanted))
    assert found is not None
    first, second, third = found.requests
    assert (first[0].count, first[0].amount("memory"), first[0].amount("compute")) == (2, 8 * GIB, 30)
    assert [ask.amount("memory") for ask in second] == [8 * GIB, 2]  # the scheduler rounds up, too
    assert (third[0].count, third[0].tolerations) == (1, (Toleration("", "Exists", "", ""),))
    assert (found.memory_bytes(), found.allocated) == (4 * 8 * GIB, False)


def test_where_a_claim_has_been_allocated():
    found = parse_asks(claim("x", result("node-a", 0), result("node-a", 1)))
    assert found is not None
    assert found.pools == ("node-a",)


def test_a_request_without_memory_is_for_whole_cards():
    found = parse_asks(claim("x", requests=[request("a"), request("b", memory=None)]))
    assert found is not None
    assert found.memory_bytes() is None


def test_what_another_class_could_serve_is_left_out():
    other = {"deviceClassName": "gpu.nvidia.com"}
    mixed = {"name": "a", "firstAvailable": [request()["exactly"], other]}
    assert parse_asks(claim("x", requests=[mixed, {"name": "b", "exactly": other}])) is None
    assert parse_asks(claim("x", requests=[request(adminAccess=True)])) is None


def test_an_amount_that_is_none():
    with pytest.raises(AmountError):
        parse_asks(claim("x", requests=[request(memory="much")]))


def test_the_claims_of_a_pod():
    made = pod("p", {"gpu": "p-gpu-1"})
    made["spec"]["resourceClaims"].append({"name": "own", "resourceClaimName": "shared"})
    assert claims_of(made) == ["p-gpu-1", "shared"]
    made["status"]["resourceClaimStatuses"] = [{"name": "gpu"}]  # the control plane found that it needs none
    assert claims_of(made) == ["shared"]
    made["status"]["resourceClaimStatuses"] = []
    assert claims_of(made) is None
    assert claims_of({"spec": {}, "status": {}}) == []

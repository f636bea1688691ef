from __future__ import annotations

from typing import Any

import pytest

from cgpu.errors import AmountError, ClaimError
from cgpu.k8s.claims import CardShare, RequestShare, shares_of
from cgpu.model.tenant import Share
from cgpu.model.units import GIB

UID = "5f0d1a2b-0000-4000-8000-000000000001"


def result(request: str = "gpu", device: str = "gpu-0a", memory: str = "8Gi", **more: Any) -> dict[str, Any]:
    return {
        "driver": "gpu.cgpu.dev",
        "pool": "node-a",
        "request": request,
        "device": device,
        "shareID": "s-1",
        "consumedCapacity": {"memory": memory, "shares": "1", **more},
    }


def claim(*results: dict[str, Any], config: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    allocation = {"devices": {"results": list(results), "config": config or []}}
    metadata = {"namespace": "team", "name": "web-gpu-x", "uid": UID}
    asked = [{"name": "gpu", "exactly": {"capacity": {"requests": {"memory": "8Gi", "compute": "30"}}}}]
    return {
        "metadata": metadata,
        "spec": {"devices": {"requests": asked}},
        "status": {"allocation": allocation},
    }


def parameters(values: dict[str, Any], *requests: str, source: str = "FromClaim", driver: str = "gpu.cgpu.dev") -> Any:
    head = {"apiVersion": "gpu.cgpu.dev/v1", "kind": "ShareParameters"}
    return {"requests": list(requests), "source": source, "opaque": {"driver": driver, "parameters": head | values}}


def test_amounts_become_a_share():
    shares = shares_of(claim(result(compute="30")), UID)
    assert shares.requests == (
        RequestShare("gpu", "node-a", (CardShare("gpu-0a", "s-1", 8 * GIB, 30),), asks_compute=True),
    )
    (part,) = shares.parts(whole=True)
    assert (shares.tenant_id(part), shares.tenant_name(part)) == (f"k8s-{UID}-0", "team/web-gpu-x")


def test_no_compute_is_no_percentage():
    (request,) = shares_of(claim(result(compute="0")), UID).requests
    assert request.cards[0].compute_percent is None


def test_capacities_may_come_with_their_domain():
    row = result()
    row["consumedCapacity"] = {"gpu.cgpu.dev/memory": "1Gi", "gpu.cgpu.dev/compute": "5"}
    (request,) = shares_of(claim(row), UID).requests
    assert (request.cards[0].memory_bytes, request.cards[0].compute_percent) == (GIB, 5)


def test_cards_of_one_request_are_one_tenant_and_requests_are_several():
    shares = shares_of(claim(result("a", "gpu-0a"), result("b", "gpu-0a"), result("a", "gpu-0b")), UID)
    assert [(row.request, [card.device for card in row.cards]) for row in shares.requests] == [
        ("a", ["gpu-0a", "gpu-0b"]),
        ("b", ["gpu-0a"]),
    ]


def test_requests_are_a_tenant_each_or_one_together():
    shares = shares_of(claim(result("a", "gpu-0a"), result("b/small", "gpu-0b", "2Gi")), UID)
    assert [(shares.tenant_id(part), shares.tenant_name(part)) for part in shares.parts(whole=False)] == [
        (f"k8s-{UID}-0", "team/web-gpu-x/a"),
        (f"k8s-{UID}-1", "team/web-gpu-x/b"),
    ]
    (part,) = shares.parts(whole=True)
    assert (shares.tenant_id(part), shares.tenant_name(part)) == (f"k8s-{UID}-all", "team/web-gpu-x")
    assert {device: share.memory_bytes for device, share in part.on_cards().items()} == {
        "gpu-0a": 8 * GIB,
        "gpu-0b": 2 * GIB,
    }


def test_what_two_requests_have_of_one_card_is_one_share():
    config = [parameters({"weight": 7, "computeLimitPercent": 60}, "a"), parameters({"priority": 1}, "b")]
    made = claim(result("a", compute="30"), result("b", memory="2Gi", compute="40"), config=config)
    made["spec"]["devices"]["requests"] = [
        {"name": name, "exactly": {"capacity": {"requests": {"compute": "30"}}}} for name in ("a", "b")
    ]
    (part,) = shares_of(made, UID).parts(whole=True)
    assert part.on_cards() == {"gpu-0a": Share("gpu-0a", 10 * GIB, 70, 100, 7, 1)}
    unlimited = claim(result("a"), result("b"), config=[parameters({"computeLimitPercent": 60}, "a")])
    (part,) = shares_of(unlimited, UID).parts(whole=True)
    assert part.on_cards() == {"gpu-0a": Share("gpu-0a", 16 * GIB)}


def test_a_percentage_that_nobody_asked_for_is_the_devices_own():
    made = claim(result("gpu/small", compute="5"), result("other", compute="5"))
    options = [
        {"name": "big", "capacity": {"requests": {"compute": "30"}}},
        {"name": "small", "capacity": {"requests": {"memory": "1Gi"}}},
    ]
    made["spec"]["devices"]["requests"] = [{"name": "gpu", "firstAvailable": options}, {"name": "other", "exactly": {}}]
    assert [row.asks_compute for row in shares_of(made, UID).requests] == [False, False]
    made["spec"]["devices"]["requests"][0]["firstAvailable"][1]["capacity"]["requests"]["gpu.cgpu.dev/compute"] = "5"
    assert [row.asks_compute for row in shares_of(made, UID).requests] == [True, False]


def test_what_others_drivers_gave_is_not_ours():
    other = result() | {"driver": "gpu.nvidia.com", "consumedCapacity": None}
    assert shares_of(claim(other), UID).requests == ()


def test_parameters_of_the_claim_win_over_those_of_the_class():
    config = [
        parameters({"weight": 7}, source="FromClaim"),
        parameters({"weight": 2, "priority": 1}, source="FromClass"),
        parameters({"computeLimitPercent": 50}, "gpu"),
        parameters({"weight": 900}, "other"),
        parameters({"anything": 1}, driver="gpu.nvidia.com"),
    ]
    (request,) = shares_of(claim(result("gpu/small"), config=config), UID).requests
    assert (request.weight, request.priority, request.compute_limit_percent) == (7, 1, 50)


@pytest.mark.parametrize(
    "values",
    [{"weight": 0}, {"weight": 1001}, {"weight": "2"}, {"weight": True}, {"priority": 2}, {"computeLimitPercent": 0}],
)
def test_parameters_out_of_bounds_are_refused(values: dict[str, Any]):
    with pytest.raises(ClaimError, match=next(iter(values))):
        shares_of(claim(result(), config=[parameters(values)]), UID)


def test_unknown_parameters_are_named():
    with pytest.raises(ClaimError, match="unknown wieght"):
        shares_of(claim(result(), config=[parameters({"wieght": 2})]), UID)
    foreign = parameters({})
    foreign["opaque"]["parameters"]["kind"] = "GpuConfig"
    with pytest.raises(ClaimError, match="GpuConfig"):
        shares_of(claim(result(), config=[foreign]), UID)


def test_a_claim_that_was_replaced_or_is_not_allocated():
    with pytest.raises(ClaimError, match="was replaced"):
        shares_of(claim(result()), "other")
    waiting = claim(result())
    del waiting["status"]["allocation"]
    with pytest.raises(ClaimError, match="not allocated"):
        shares_of(waiting, UID)


def test_a_server_that_dropped_the_amounts_is_named():
    row = result()
    del row["consumedCapacity"]
    with pytest.raises(ClaimError, match="without an amount of memory"):
        shares_of(claim(row), UID)


def test_an_amount_that_is_none():
    with pytest.raises(AmountError):
        shares_of(claim(result(memory="much")), UID)

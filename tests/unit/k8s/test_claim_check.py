from __future__ import annotations

from typing import Any

import pytest

from cgpu.errors import AmountError, ClaimError
from cgpu.k8s.claim_check import Asked, asked_of
from cgpu.k8s.templates import Share, template
from cgpu.model.units import GIB, MIB


def request(name: str = "gpu", count: int = 1, device_class: str = "gpu.cgpu.dev", **amounts: str) -> dict[str, Any]:
    capacity = {"requests": amounts}
    return {"name": name, "exactly": {"deviceClassName": device_class, "count": count, "capacity": capacity}}


def spec(*requests: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    head = {"apiVersion": "gpu.cgpu.dev/v1", "kind": "ShareParameters"}
    config = [{"requests": [], "opaque": {"driver": "gpu.cgpu.dev", "parameters": head | parameters}}]
    return {"devices": {"requests": list(requests), "config": config if parameters else []}}


def test_amounts_are_added_over_cards_and_requests():
    asked = asked_of(spec(request(count=2, memory="8Gi", compute="30"), request("b", memory="512Mi")), "claim")
    assert asked == Asked(16 * GIB + 512 * MIB, 17, 60, largest_bytes=8 * GIB)


def test_memory_is_counted_as_the_scheduler_rounds_it():
    assert asked_of(spec(request(memory="1")), "claim").memory_bytes == MIB


def test_other_classes_are_not_ours():
    assert asked_of(spec(request(device_class="gpu.nvidia.com", memory="x")), "claim") == Asked()
    assert asked_of({}, "claim") == Asked()


def test_of_alternatives_the_largest_counts_and_in_gib_as_ack_does():
    share = Share(3072, card_sizes_mib=(15079, 16130))
    asked = asked_of(template(share, "team")["spec"]["spec"], "claim")
    assert asked.memory_bytes == 3231 * MIB
    assert asked.memory_gib == 3


@pytest.mark.parametrize("made", [request(), {"name": "gpu", "exactly": {"deviceClassName": "gpu.cgpu.dev"}}])
def test_a_claim_without_memory_is_unbounded(made: dict[str, Any]):
    assert "whole card" in asked_of(spec(made), "claim").unbounded


def test_all_cards_of_a_node_are_unbounded():
    made = request(memory="1Gi")
    made["exactly"]["allocationMode"] = "All"
    assert "all cards" in asked_of(spec(made), "claim").unbounded


@pytest.mark.parametrize(
    ("amounts", "words"),
    [
        ({"memory": "8GiB"}, "memory"),
        ({"memory": "0"}, "memory is 0"),
        ({"memory": "1Gi", "compute": "101"}, "up to 100"),
        ({"memory": "1Gi", "compute": "12.5"}, "whole number"),
        ({"memory": "1Gi", "shares": "2"}, "one tenant"),
    ],
)
def test_amounts_that_no_card_gives_are_refused(amounts: dict[str, Any], words: str):
    with pytest.raises(AmountError, match=words):
        asked_of(spec(request(**amounts)), "claim")


def test_an_unknown_capacity_is_refused():
    with pytest.raises(ClaimError, match="no card has mem"):
        asked_of(spec(request(mem="1Gi")), "claim")


def test_favours_are_found_and_malformed_parameters_refused():
    made = request(memory="1Gi")
    assert asked_of(spec(made, weight=2, priority=1), "claim").favoured == "weight 2 and high priority"
    assert asked_of(spec(made, weight=1, priority=0), "claim").favoured == ""
    with pytest.raises(ClaimError, match="weight"):
        asked_of(spec(made, weight=5000), "claim")
    with pytest.raises(ClaimError, match="unknown wieght"):
        asked_of(spec(made, wieght=5), "claim")

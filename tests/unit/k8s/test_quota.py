from __future__ import annotations

from typing import Any

import pytest

from cgpu.errors import AmountError, QuotaError
from cgpu.k8s.claim_check import Asked, asked_of
from cgpu.k8s.quota import (
    RESERVED_S,
    Limits,
    Reservation,
    held_of,
    limits_of,
    parse_reservations,
    reservation,
    reserve,
    waiting_of,
)
from cgpu.k8s.templates import Share, template
from cgpu.model.units import GIB


def claim(uid: str, gib: int) -> dict[str, Any]:
    return {
        "metadata": {"uid": uid, "resourceVersion": "1"},
        "spec": template(Share(gib * 1024), "team")["spec"]["spec"],
    }


def admit(
    limits: Limits, claims: list[dict[str, Any]], rows: list[Reservation], uid: str, wanted: Asked, now: float
) -> list[Reservation]:
    """The reservations when one more claim was admitted."""
    held = [held_of(row) for row in claims]
    return reserve(limits, held, waiting_of(rows, held, now), wanted, reservation(uid, wanted, "1", now))


def asked(gib: int) -> Asked:
    return asked_of(claim("", gib)["spec"], "claim")


def quota(hard: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"spec": {"hard": hard, **more}}


def test_limits_come_from_the_label_and_from_resource_quotas():
    quotas = [
        quota({"requests.aliyun.com/gpu-mem": "64", "pods": "9"}),
        quota({"requests.aliyun.com/gpu-mem": "32", "requests.aliyun.com/gpu-core.percentage": "200"}),
        quota({"requests.aliyun.com/gpu-mem": "1"}, scopes=["BestEffort"]),
        quota({"requests.aliyun.com/gpu-mem": "1"}, scopeSelector={"matchExpressions": []}),
    ]
    assert limits_of({"cgpu.dev/gpu-memory-quota": "64Gi"}, quotas) == Limits(64 * GIB, 32, 200)
    assert limits_of({}, []).are_none
    with pytest.raises(AmountError, match="gpu-memory-quota"):
        limits_of({"cgpu.dev/gpu-memory-quota": "much"}, [])


def test_what_is_used_and_what_is_reserved_both_count():
    limits = Limits(memory_bytes=16 * GIB)
    rows = admit(limits, [claim("a", 4)], [], "b", asked(8), 0.0)
    assert [row.uid for row in rows] == ["b"]
    with pytest.raises(QuotaError, match="asked 8GiB, used 12GiB, limit 16GiB"):
        admit(limits, [claim("a", 4)], rows, "c", asked(8), 1.0)
    assert len(admit(limits, [claim("a", 4)], rows, "c", asked(4), 1.0)) == 2


def test_a_reservation_ends_when_its_claim_is_there_or_never_came():
    limits = Limits(memory_bytes=16 * GIB)
    rows = admit(limits, [], [], "a", asked(8), 0.0)
    assert [row.uid for row in admit(limits, [claim("a", 8)], rows, "b", asked(8), 1.0)] == ["b"]
    assert [row.uid for row in admit(limits, [], rows, "b", asked(16), RESERVED_S + 1)] == ["b"]
    assert [row.uid for row in admit(limits, [], rows, "a", asked(16), 1.0)] == ["a"]  # asked again


def test_quotas_of_ack_count_gib_and_percentages():
    limits = Limits(memory_gib=8, compute_percent=50)
    admit(limits, [], [], "a", asked(8), 0.0)
    with pytest.raises(QuotaError, match=r"aliyun.com/gpu-mem.*asked 9 GiB"):
        admit(limits, [], [], "a", asked(9), 0.0)
    with pytest.raises(QuotaError, match=r"percentage.*limit 50 %"):
        admit(limits, [], [], "a", Asked(GIB, 1, 60), 0.0)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(QuotaError, match="cannot be counted"):
        admit(Limits(memory_bytes=GIB), [], [], "a", Asked(unbounded="it takes all"), 0.0)


def test_a_claim_without_an_amount_counts_by_what_it_was_given():
    row = {"driver": "gpu.cgpu.dev", "consumedCapacity": {"gpu.cgpu.dev/memory": "14Gi", "compute": "5"}}
    whole = {
        "metadata": {"uid": "w", "resourceVersion": "1"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.cgpu.dev"}}]}},
        "status": {"allocation": {"devices": {"results": [row, row | {"driver": "other"}]}}},
    }
    with pytest.raises(QuotaError, match="used 14GiB"):
        admit(Limits(memory_bytes=16 * GIB), [whole], [], "a", asked(4), 0.0)


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"uid": 1}]', "null", "[" * 9999])
def test_unreadable_reservations_are_none(text: str):
    assert parse_reservations(text) == []


def test_claims_of_another_class_of_ours_count_too():
    row = claim("a", 4)
    row["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = "t4"
    assert held_of(row).asked == Asked()
    assert held_of(row, ("gpu.cgpu.dev", "t4")).asked == asked(4)

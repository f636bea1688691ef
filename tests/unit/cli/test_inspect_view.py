"""The tables of `kubectl inspect cgpu`, letter by letter."""

from __future__ import annotations

import json
from typing import Any

from cgpu.cli.inspect_view import PendingPod, View, details, document, gib, summary
from cgpu.k8s.allocations import parse_uses, picture
from cgpu.k8s.offers import parse_slice
from cgpu.model.units import GIB, MIB
from tests.unit.k8s.cluster_objects import claim, result, slices_of, uuid


def view(slices: list[Any], *claims: Any, addresses: dict[str, str] | None = None, pending: Any = ()) -> View:
    parsed = [one for item in slices if (one := parse_slice(item)) is not None]
    return View(picture(parsed, [use for item in claims for use in parse_uses(item)]), addresses or {}, pending)


def text(lines: Any) -> str:
    return "".join(f"{line}\n" for line in lines)


def test_the_summary_of_a_cluster():
    name = "cn-shanghai.192.168.0.4"
    made = view(slices_of(name, 2, gib=7), addresses={name: "192.168.0.4"})
    assert (
        text(summary(made))
        == """\
NAME                     IPADDRESS    GPU0(Allocated/Total)  GPU1(Allocated/Total)  GPU Memory(GiB)
cn-shanghai.192.168.0.4  192.168.0.4  0/7                    0/7                    0/14
---------------------------------------------------------------------
Allocated/Total GPU Memory In Cluster:
0/14 (0%)
"""
    )


def test_the_details_of_a_node():
    name = "cn-hangzhou.192.168.2.167"
    claims = [
        claim(f"c{number}", result(name, 0, "4Gi"), pods=[f"app-3g-v1-{number}"], namespace="default")
        for number in range(2)
    ]
    made = view(slices_of(name, 1), *claims, addresses={name: "192.168.2.167"})
    assert (
        text(details(made))
        == """\
NAME:       cn-hangzhou.192.168.2.167
IPADDRESS:  192.168.2.167

NAME         NAMESPACE  GPU0(Allocated)
app-3g-v1-0  default    4
app-3g-v1-1  default    4
Allocated :  8 (53%)
Total :      15
--------------------------------------------------------

Allocated/Total GPU Memory In Cluster:  8/15 (53%)
"""
    )


def test_nodes_with_fewer_cards_devices_that_are_gone_and_pods_that_wait():
    claims = [
        claim("a", result("node-a", 1, "512Mi"), result("node-a", 9, "2Gi"), pods=["both"]),
        claim("b", result("node-b", 0), pods=["x", "y"]),
        claim("c", result("node-b", 0, "1Gi")),
    ]
    pending = [PendingPod("team", "p", 8 * GIB), PendingPod("team", "q", None)]
    made = view([*slices_of("node-a", 2), *slices_of("node-b", 1)], *claims, pending=pending)
    assert (
        text(summary(made))
        == """\
NAME    IPADDRESS  GPU0(Allocated/Total)  GPU1(Allocated/Total)  PENDING(Allocated)  GPU Memory(GiB)
node-a  unknown    0/15                   0.5/15                 2                   0.5/30
node-b  unknown    9/15                   0/0                    0                   9/15
---------------------------------------------------------------------
Allocated/Total GPU Memory In Cluster:
9.5/45 (21%)

Pending GPU Memory In Cluster:
8 (2 pods, 1 for whole GPUs)
"""
    )
    assert (
        text(details(made))
        == """\
NAME:       node-a
IPADDRESS:  unknown

NAME         NAMESPACE  GPU0(Allocated)  GPU1(Allocated)  Pending(Allocated)
both         team       0                0.5              2
Allocated :  0.5 (1%)
Total :      30
--------------------------------------------------------

NAME:       node-b
IPADDRESS:  unknown

NAME         NAMESPACE  GPU0(Allocated)
claim/c      team       1
x,y          team       8
Allocated :  9 (60%)
Total :      15
--------------------------------------------------------

Allocated/Total GPU Memory In Cluster:  9.5/45 (21%)

Pending GPU Memory In Cluster:
8 (2 pods, 1 for whole GPUs)
"""
    )


def test_no_node_at_all():
    assert "0/0 (0%)" in text(summary(view([])))
    assert json.loads("".join(document(view([]))))["nodes"] == []


def test_json_has_everything():
    made = view(
        slices_of("node-a", 2, unhealthy="xid-79"),
        claim("a", result("node-a", 0, "3Gi", "30"), pods=["web"]),
        claim("b", result("node-a", 9), pods=["lost"]),
        addresses={"node-a": "10.0.0.1"},
        pending=[PendingPod("team", "p", 8 * GIB)],
    )
    found = json.loads("".join(document(made)))
    (node,) = found["nodes"]
    first, second = node["gpus"]
    assert (node["name"], node["address"], node["complete"]) == ("node-a", "10.0.0.1", True)
    assert (first["uuid"], first["product"]) == (uuid("node-a", 0), "Tesla T4")
    assert (first["memory_bytes"], first["free_bytes"], first["free_compute_percent"]) == (15 * GIB, 12 * GIB, 70)
    assert first["shares"] == [
        {
            "namespace": "team",
            "claim": "a",
            "request": "gpu",
            "pods": ["web"],
            "memory_bytes": 3 * GIB,
            "compute_percent": 30,
        }
    ]
    assert second["taints"] == [{"key": "gpu.cgpu.dev/unhealthy", "value": "xid-79", "effect": "NoSchedule"}]
    assert [row["device"] for row in node["missing"]] == ["gpu-00000009"]
    assert found["pending"] == [{"namespace": "team", "pod": "p", "memory_bytes": 8 * GIB}]
    assert (found["memory_bytes"], found["allocated_bytes"]) == (30 * GIB, 3 * GIB)


def test_gib_are_whole_where_they_can_be():
    assert [gib(amount) for amount in (0, GIB, 10 * GIB, 512 * MIB, 14917 * MIB)] == ["0", "1", "10", "0.5", "14.57"]

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.k8s.allocations import parse_uses, picture
from cgpu.k8s.asks import parse_asks
from cgpu.k8s.event import NOTE_MAX
from cgpu.k8s.offers import parse_slice
from cgpu.k8s.pending import is_unschedulable, parse_node, parse_place, shortage
from cgpu.k8s.pending_note import Reason, gib, reason_of
from cgpu.model.units import GIB
from tests.unit.k8s.cluster_objects import MEMORY, claim, node, pod, request, result, slices_of

Json = dict[str, Any]


def why(
    slices: list[Json], claims: list[Json], *requests: Json, nodes: list[Json] | None = None, **spec: Any
) -> Reason | None:
    """What a pod is told that has these requests in a claim of its own."""
    asked = parse_asks(claim("own", requests=requests or [request()]))
    assert asked is not None
    parsed = [one for item in slices if (one := parse_slice(item)) is not None]
    seen = picture(parsed, [use for item in claims for use in parse_uses(item)])
    there = [node("node-a"), node("node-b")] if nodes is None else nodes
    facts = {one.name: one for one in map(parse_node, there)}
    found = shortage([asked], parse_place(pod("p", {"gpu": "own"}, **spec)), seen, facts)
    return None if found is None else reason_of(found)


def note(*arguments: Any, **options: Any) -> str:
    reason = why(*arguments, **options)
    assert reason is not None
    return reason.note


def tenants(name: str, index: int, count: int, memory: str = "256Mi") -> list[Json]:
    return [claim(f"{name}-{index}-{number}", result(name, index, memory)) for number in range(count)]


def test_memory_names_what_was_asked_and_the_largest_free_share():
    slices = [*slices_of("node-a"), *slices_of("node-b")]
    taken = [claim("a", result("node-a", 0, "12Gi"), result("node-a", 1, "11Gi"))]
    taken += [claim("b", result("node-b", 0, "15Gi"), result("node-b", 1, "10Gi"))]
    assert why(slices, taken, request(memory="8Gi")) == Reason(
        ("memory",),
        "gpu memory: asked 8 GiB, largest free share 5 GiB on node-b/gpu-1 (4 GPUs: 4 too little memory)",
    )
    assert why(slices, taken, request(memory="5Gi")) is None


def test_all_tenants_are_taken():
    taken = tenants("node-a", 0, 20) + tenants("node-a", 1, 20)
    expected = Reason(("shares",), "20 of 20 tenants on all GPUs (2 GPUs: 2 no tenant more)")
    assert why(slices_of("node-a", sharing=MEMORY), taken, request(memory="1Gi")) == expected
    assert why(slices_of("node-a"), taken, request(memory="1Gi")) == expected
    asked = note(slices_of("node-a"), taken, request(memory="1Gi", compute="30"))
    assert "; gpu compute: asked 30 %, largest free share 0 % on node-a/gpu-0 (" in asked


def test_cards_are_counted_by_reason():
    slices = [*slices_of("node-a", 3, sharing=MEMORY, unhealthy="xid-79"), *slices_of("node-b", 1)]
    taken = [*tenants("node-a", 0, 20), *tenants("node-a", 1, 1, "12Gi"), *tenants("node-b", 0, 1, "12Gi")]
    assert note(slices, taken, request(memory="4Gi")) == (
        "gpu memory: asked 4 GiB, largest free share 3 GiB on node-a/gpu-1; 20 of 20 tenants on 1 of 4 GPUs;"
        " taint gpu.cgpu.dev/unhealthy=xid-79 on 1 of 4 GPUs"
        " (4 GPUs: 2 too little memory, 1 no tenant more, 1 tainted)"
    )


def test_compute():
    taken = [claim("a", result("node-a", 0, "1Gi", "80")), claim("b", result("node-a", 1, "1Gi", "90"))]
    assert note(slices_of("node-a"), taken, request(compute="30")) == (
        "gpu compute: asked 30 %, largest free share 20 % on node-a/gpu-0 (2 GPUs: 2 too little compute)"
    )


def test_compute_where_nodes_do_not_divide_it():
    slices = slices_of("node-a", sharing=MEMORY)
    assert note(slices, [], request(compute="30")).startswith(
        "compute is not divided on all GPUs (nodes with the label"
    )
    assert "gpu bandwidth: more asked than is left on all GPUs" in note(slices, [], request(bandwidth="1"))


def test_more_than_every_card_has():
    assert note(slices_of("node-a", gib=15), [], request(memory="80Gi")) == (
        "gpu memory: asked 80 GiB, the largest GPU has 15 GiB (node-a/gpu-0) (2 GPUs: 2 too little memory)"
    )


def test_a_whole_card():
    taken = [*tenants("node-a", 0, 1), *tenants("node-a", 1, 1)]
    assert "asked a whole GPU, largest free share 14.75 GiB" in note(slices_of("node-a"), taken, request(memory=None))
    assert why(slices_of("node-a"), taken[:1], request(memory=None)) is None


def test_no_node_shares_anything():
    bare = node("node-a")
    bare["metadata"]["labels"] = {}
    assert note([], [], nodes=[bare]).startswith(
        "no node is labelled for sharing its GPUs (ack.node.gpu.schedule=cgpu,"
    )
    assert note([], [], nodes=[node("node-b"), bare]) == (
        "1 node is labelled for sharing GPUs, and none offers any: does the agent run there?"
    )
    assert "none offers any" in note(slices_of("node-a", 65)[:1], [])  # a slice is missing: the scheduler takes none


def test_only_nodes_that_the_pod_may_use_are_spoken_of():
    slices = [*slices_of("node-a", 1), *slices_of("node-b", 1), *slices_of("node-c", 1)]
    there = [
        node("node-a"),
        node("node-b", {"disk": "ssd"}),
        node("node-c", {"disk": "ssd"}, [{"key": "team", "value": "x", "effect": "NoSchedule"}]),
    ]
    taken = tenants("node-b", 0, 1, "14Gi")
    found = note(slices, taken, nodes=there, nodeSelector={"disk": "ssd"})
    assert found == (
        "gpu memory: asked 8 GiB, largest free share 1 GiB on node-b/gpu-0 (1 GPU: 1 too little memory);"
        " on 1 of 3 nodes, those that the pod may use (1 not chosen by its nodeSelector or node affinity,"
        " 1 with the taint team)"
    )
    tolerated = [{"key": "team", "operator": "Exists"}]
    assert why(slices, taken, nodes=there, nodeSelector={"disk": "ssd"}, tolerations=tolerated) is None
    nowhere = note(slices, [], nodes=there, nodeSelector={"disk": "none"})
    assert nowhere.startswith("no node that shares GPUs may run this pod (3 not chosen by")


def test_a_claim_that_has_its_cards_binds_the_pod_to_their_node():
    held = claim("held", result("node-a", 0, "10Gi"), pods=["p"])
    parsed = [one for item in [*slices_of("node-a", 1), *slices_of("node-b", 1)] if (one := parse_slice(item))]
    asks = [parse_asks(held), parse_asks(claim("own", requests=[request()]))]
    facts = {name: parse_node(node(name)) for name in ("node-a", "node-b")}
    found = shortage([ask for ask in asks if ask], parse_place(pod("p", {})), picture(parsed, parse_uses(held)), facts)
    assert found is not None
    assert reason_of(found).note.endswith("may use (another claim of it has GPUs of node-a)")


def test_several_cards_of_one_node():
    slices = [*slices_of("node-a", 2), *slices_of("node-b", 3)]
    taken = tenants("node-b", 1, 1, "12Gi")
    assert note(slices, taken, request(count=3)) == (
        "asked 3 GPUs with 8 GiB free on one node, the most there are is 2, on node-a"
    )
    assert why(slices, [], request(count=3)) is None


def test_several_requests_share_a_card_or_not():
    slices = slices_of("node-a", 1)
    assert why(slices, [], request("a", memory="7Gi"), request("b", memory="8Gi")) is None
    assert note(slices, [], request("a", memory="8Gi"), request("b", memory="8Gi")) == (
        "asked 2 GPU shares on one node: each has room somewhere, all of them nowhere"
    )


def test_what_takes_too_long_to_find_out_is_not_said():
    """Sixteen shares on eight cards that have room for one each, on nodes that all differ a little."""
    requests = [request(f"r{number}", count=4, memory="2Gi") for number in range(4)]
    slices, taken, there = [], [], []
    for number in range(20):
        name = f"node-{number}"
        slices += slices_of(name, 8)
        taken += [claim(f"{name}-{index}", result(name, index, f"{12 * 1024 + number}Mi")) for index in range(8)]
        there.append(node(name))
    assert note(slices[:1], taken[:8], *requests, nodes=there[:1]).startswith("asked 16 GPU shares on one node")
    assert why(slices, taken, *requests, nodes=there) is None


def test_nodes_that_have_the_same_left_are_tried_once():
    requests = [request(f"r{number}", count=4, memory="2Gi") for number in range(4)]
    slices = [part for number in range(20) for part in slices_of(f"node-{number}", 8)]
    taken = [claim(f"c{number}", result(f"node-{number // 8}", number % 8, "12Gi")) for number in range(160)]
    found = why(slices, taken, *requests, nodes=[node(f"node-{number}") for number in range(20)])
    assert found is not None
    assert found.kinds == ("together",)


def test_alternatives():
    options = [
        {"name": name, **request(memory=memory)["exactly"]} for name, memory in (("big", "80Gi"), ("small", "8Gi"))
    ]
    taken = tenants("node-a", 0, 1, "12Gi")
    assert why(slices_of("node-a"), taken, {"name": "gpu", "firstAvailable": options}) is None
    assert note(slices_of("node-a", 1), taken, {"name": "gpu", "firstAvailable": options}).startswith(
        "none of 2 alternatives fits; the last: gpu memory: asked 8 GiB, largest free share 3 GiB on node-a/gpu-0"
    )


def test_a_taint_that_the_request_tolerates():
    slices = slices_of("node-a", 1, unhealthy="xid-79")
    assert why(slices, [], request(tolerations=[{"key": "gpu.cgpu.dev/unhealthy", "operator": "Exists"}])) is None
    assert note(slices, [], request(tolerations=[{"key": "other", "operator": "Exists"}])) == (
        "taint gpu.cgpu.dev/unhealthy=xid-79 on all GPUs (1 GPU: 1 tainted)"
    )


def test_cards_that_the_server_made_exclusive():
    slices = slices_of("node-a", 1)
    del slices[0]["spec"]["devices"][0]["allowMultipleAllocations"]
    assert note(slices, tenants("node-a", 0, 1)).startswith("taken on all GPUs, which are not shared: the gate")


def test_a_pod_whose_claims_all_have_their_cards_waits_for_something_else():
    held = parse_asks(claim("held", result("node-a", 0)))
    assert held is not None
    assert shortage([held], parse_place(pod("p", {})), picture([], []), {}) is None


def test_notes_are_no_longer_than_an_event_takes():
    taints = [{"key": f"{number:060}", "value": "v" * 60, "effect": "NoSchedule"} for number in range(16)]
    slices = slices_of("node-a", 1)
    slices[0]["spec"]["devices"][0]["taints"] = taints
    tolerated = [{"key": taint["key"], "operator": "Exists"} for taint in taints[:-1]]
    assert len(note(slices, [], request(tolerations=tolerated))) < NOTE_MAX
    there = [node(f"node-{number}", taints=[taints[number]]) for number in range(16)]
    many = [part for number in range(16) for part in slices_of(f"node-{number}", 1)]
    assert len(note(many, [], nodes=there)) == NOTE_MAX


def test_only_what_the_scheduler_has_tried_is_unschedulable():
    assert is_unschedulable(pod("p", {}))
    assert not is_unschedulable(pod("p", {}, unschedulable=False))
    assert not is_unschedulable({"status": {}})


@pytest.mark.parametrize(("amount", "cut", "up"), [(8 * GIB, "8 GiB", "8 GiB"), (8 * GIB - 1, "7.99 GiB", "8 GiB")])
def test_nobody_is_told_of_more_than_there_is(amount: int, cut: str, up: str):
    assert (gib(amount), gib(amount, up=True)) == (cut, up)


_REQUESTS = st.lists(
    st.builds(lambda count, memory: (count, memory), st.integers(1, 3), st.integers(1, 15)), min_size=1, max_size=3
)
_TAKEN = st.lists(st.integers(0, 15), min_size=4, max_size=4)


def _fits(free: list[int], asked: list[tuple[int, int]]) -> bool:
    """Tries every way to put the requests on a node's cards."""
    ways = [itertools.combinations(range(len(free)), count) for count, _ in asked]
    for way in itertools.product(*ways):
        left = list(free)
        for cards, (_, memory) in zip(way, asked, strict=True):
            for card in cards:
                left[card] -= memory
        if min(left) >= 0:
            return True
    return False


@given(_REQUESTS, _TAKEN, st.integers(1, 3))
def test_a_reason_is_given_exactly_where_there_is_no_room(asked: list[tuple[int, int]], taken: list[int], cards: int):
    slices = [*slices_of("node-a", cards, sharing=MEMORY), *slices_of("node-b", 4 - cards, sharing=MEMORY)]
    places = [("node-a", index) for index in range(cards)] + [("node-b", index) for index in range(4 - cards)]
    claims = [
        claim(f"c{number}", result(name, index, f"{amount}Gi"))
        for number, ((name, index), amount) in enumerate(zip(places, taken, strict=True))
        if amount
    ]
    requests = [
        request(f"r{number}", count=count, memory=f"{memory}Gi") for number, (count, memory) in enumerate(asked)
    ]
    free = [15 - amount for amount in taken]
    room = _fits(free[:cards], asked) or _fits(free[cards:], asked)
    assert (why(slices, claims, *requests) is None) == room

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cgpu.k8s.allocations import Picture, by_users, parse_uses, picture
from cgpu.k8s.offers import Capacity, parse_slice
from cgpu.model.units import GIB, MIB
from tests.unit.k8s.cluster_objects import BOTH, MEMORY, claim, result, slices_of


def seen(slices: list[dict[str, Any]], claims: list[dict[str, Any]]) -> Picture:
    parsed = [one for item in slices if (one := parse_slice(item)) is not None]
    return picture(parsed, [use for item in claims for use in parse_uses(item)])


def test_a_card_shows_who_has_how_much():
    found = seen(
        [*slices_of("node-b"), *slices_of("node-a", 1, sharing=MEMORY)],
        [claim("x", result("node-b", 1, "8Gi", "30"), pods=["web"]), claim("y", result("node-b", 1, "512Mi"))],
    )
    assert list(found.nodes) == ["node-a", "node-b"]
    first, second = found.nodes["node-b"].by_index()
    assert (first.uses, first.free("memory"), first.free("compute"), first.free("shares")) == ([], 15 * GIB, 100, 20)
    assert [(use.claim, use.pods, use.memory_bytes) for use in second.uses] == [
        ("x", ("web",), 8 * GIB),
        ("y", (), 512 * MIB),
    ]
    assert second.free("memory") == 15 * GIB - 8 * GIB - 512 * MIB
    assert (second.free("compute"), second.free("shares")) == (65, 18)
    card = second.card
    assert (card.index, card.product, card.isolation, card.shared) == (1, "Tesla T4", "memory-and-compute", True)
    assert found.nodes["node-a"].cards[0].card.total("compute") == 0


def test_a_device_that_no_slice_offers_is_named_at_its_node():
    found = seen(slices_of("node-a", 1), [claim("x", result("node-a", 7)), claim("y", result("node-gone", 0))])
    assert [use.device for use in found.nodes["node-a"].missing] == ["gpu-00000007"]
    assert found.nodes["node-gone"].missing_bytes() == 8 * GIB
    assert not found.nodes["node-gone"].complete


def test_only_a_pools_newest_generation_counts():
    old = slices_of("node-a", 3)
    old[0]["metadata"]["name"] = "older"
    found = seen([*slices_of("node-a", 2, generation=2), *old], [])
    assert len(found.nodes["node-a"].cards) == 2
    assert found.nodes["node-a"].complete


def test_a_pool_whose_slices_are_not_all_there_says_so():
    many = slices_of("node-a", 65)
    assert seen(many, []).nodes["node-a"].complete
    assert not seen(many[:1], []).nodes["node-a"].complete


def test_what_others_have_is_not_counted():
    other = slices_of("node-a")
    other[0]["spec"]["driver"] = "gpu.nvidia.com"
    admin = result("node-a", 0, adminAccess=True)
    foreign = result("node-a", 0) | {"driver": "gpu.nvidia.com"}
    assert seen(other, [claim("x", admin), claim("y", foreign), claim("z")]).nodes == {}


def test_a_card_that_the_server_made_exclusive_has_nothing_left():
    item = slices_of("node-a", 1)
    offered = item[0]["spec"]["devices"][0]
    del offered["allowMultipleAllocations"]
    for capacity in offered["capacity"].values():
        del capacity["requestPolicy"]
    row = result("node-a", 0)
    del row["consumedCapacity"]
    (card,) = seen(item, [claim("x", row)]).nodes["node-a"].cards
    assert not card.card.shared
    assert (card.used["memory"], card.free("memory")) == (15 * GIB, 0)


def test_a_card_that_shrank_has_nothing_left_and_not_less():
    (card,) = seen(slices_of("node-a", 1, gib=4), [claim("x", result("node-a", 0))]).nodes["node-a"].cards
    assert (card.used["memory"], card.free("memory")) == (8 * GIB, 0)


def test_a_claim_that_pods_share_stands_once():
    claims = [
        claim("shared", result("node-a", 0), pods=["a", "b"]),
        claim("own-1", result("node-a", 0), pods=["a"]),
        claim("own-2", result("node-a", 1), pods=["a"]),
        claim("unused", result("node-a", 1)),
    ]
    groups = by_users([use for item in claims for use in parse_uses(item)])
    assert {(pods, name): [use.claim for use in uses] for (_, pods, name), uses in groups.items()} == {
        ((), "unused"): ["unused"],
        (("a",), ""): ["own-1", "own-2"],
        (("a", "b"), ""): ["shared"],
    }


_ROWS = st.builds(
    result,
    st.sampled_from(["node-a", "node-b", "node-gone"]),
    st.integers(0, 3),
    st.integers(1, 20 << 10).map(lambda mib: f"{mib}Mi"),
    st.integers(0, 100).map(str),
)


@given(st.lists(st.lists(_ROWS, min_size=1, max_size=4), max_size=12), st.permutations(range(12)))
def test_everything_that_claims_say_stands_in_one_place(rows: list[list[dict[str, Any]]], order: list[int]):
    claims = [claim(f"c{number}", *results) for number, results in enumerate(rows)]
    claims = [claims[number] for number in order if number < len(claims)]
    found = seen([*slices_of("node-b", 2), *slices_of("node-a", 3, sharing=BOTH)], claims)
    said = [use for item in claims for use in parse_uses(item)]
    placed = [use for node in found.nodes.values() for card in node.cards for use in card.uses]
    placed += [use for node in found.nodes.values() for use in node.missing]
    assert Counter(map(str, placed)) == Counter(map(str, said))
    missing = sum(node.missing_bytes() for node in found.nodes.values())
    assert found.used("memory") + missing == sum(use.memory_bytes for use in said)
    for node in found.nodes.values():
        for card in node.cards:
            assert card.used.get("memory", 0) == sum(use.memory_bytes for use in card.uses)
            assert 0 <= card.free("memory") <= card.card.total("memory")


@given(
    st.integers(1, 50), st.integers(1, 10), st.integers(0, 60), st.integers(0, 500),
)  # fmt: skip
def test_a_request_is_rounded_up_to_a_step_of_the_range(low: int, step: int, steps: int, asked: int):
    capacity = Capacity(total=low + steps * step, default=low, minimum=low, step=step)
    taken = capacity.taken(asked)
    if taken is None:
        assert asked > capacity.total
    else:
        assert max(asked, low) <= taken <= capacity.total
        assert (taken - low) % step == 0
        assert taken - max(asked, low) < step


def test_a_request_takes_a_valid_value_or_the_default():
    capacity = Capacity(total=20, default=1, values=(1,))
    assert [capacity.taken(asked) for asked in (None, 0, 1, 2)] == [1, 1, 1, None]
    assert Capacity(total=10, default=10).taken(None) == 10
    assert Capacity(total=10, default=1, maximum=5).taken(6) is None

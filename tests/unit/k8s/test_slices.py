from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgpu.k8s.isolation import Isolation, Placement, Sharing
from cgpu.k8s.quantity import parse_quantity
from cgpu.k8s.slice_plan import plan
from cgpu.k8s.slices import DEVICES_PER_SLICE, Card, Pool, device_name, devices, dropped_fields, slice_name, slices
from cgpu.model.tenant import Gpu
from cgpu.model.units import GIB, MIB

BOTH = Sharing(Isolation.MEMORY_AND_COMPUTE, Placement.BINPACK)
MEMORY = Sharing(Isolation.MEMORY, Placement.BINPACK)
SPREAD = Sharing(Isolation.MEMORY, Placement.SPREAD)


def card(index: int, **changes: Any) -> Card:
    gpu = Gpu(index, f"GPU-{index:08x}-1111-2222-3333-444444444444", "Tesla T4", 16 * GIB, "535.54.03", simulated=True)
    values: dict[str, Any] = {"memory_bytes": 15 * GIB, "memory_layer": "shim", "policy": "preemptive", **changes}
    return Card(gpu, **values)


@given(st.lists(st.uuids(), min_size=1, max_size=64, unique=True))
def test_names_of_devices_differ_and_do_not_depend_on_order(uuids: list[uuid.UUID]):
    texts = [f"GPU-{one}" for one in uuids]
    found = {text: device_name(text, texts) for text in texts}
    assert len(set(found.values())) == len(texts)
    assert found == {text: device_name(text, reversed(texts)) for text in texts}


def test_a_device_says_what_it_has():
    (device,) = devices([card(3, numa_node=1)], BOTH, {})
    assert device["name"] == "gpu-00000003"
    assert device["allowMultipleAllocations"] is True
    assert device["attributes"]["driverVersion"] == {"version": "535.54.3"}
    assert device["attributes"]["resource.kubernetes.io/numaNode"] == {"int": 1}
    assert device["attributes"]["isolation"] == {"string": "memory-and-compute"}
    assert device["capacity"]["shares"]["value"] == "20"
    assert device["capacity"]["compute"]["requestPolicy"]["default"] == "5"
    assert "taints" not in device


@pytest.mark.parametrize("tenants", range(1, 21))
def test_as_many_tenants_as_there_may_be_have_compute_for_all(tenants: int):
    (device,) = devices([card(0, tenants_max=tenants)], BOTH, {})
    least = int(device["capacity"]["compute"]["requestPolicy"]["default"])
    assert 100 - tenants < least * tenants <= 100


def test_without_isolation_of_compute_none_can_be_asked_for():
    (device,) = devices([card(0)], MEMORY, {})
    assert "compute" not in device["capacity"]


def test_without_isolation_nothing_is_said_to_enforce_anything():
    (device,) = devices([card(0)], Sharing(Isolation.NONE, Placement.BINPACK), {})
    said = {name: device["attributes"][name]["string"] for name in ("isolation", "memoryLayer", "policy")}
    assert said == {"isolation": "none", "memoryLayer": "none", "policy": "native"}
    assert device["capacity"].keys() == {"memory", "shares"}


@given(st.integers(MIB, 1 << 40))
def test_amounts_are_multiples_of_their_steps(memory_bytes: int):
    """Else the API server refuses the slice."""
    (device,) = devices([card(0, memory_bytes=memory_bytes)], BOTH, {})
    for capacity in device["capacity"].values():
        policy = capacity["requestPolicy"]
        value, default = parse_quantity(capacity["value"]), parse_quantity(policy["default"])
        assert value <= max(memory_bytes, 100)
        if "validRange" in policy:
            step = parse_quantity(policy["validRange"]["step"])
            assert value % step == default % step == 0
            assert default >= parse_quantity(policy["validRange"]["min"])


def test_spread_puts_the_emptiest_first_and_binpack_keeps_the_order():
    cards = [card(0), card(1), card(2)]
    allocated = {cards[0].gpu.uuid: 8 * GIB, cards[1].gpu.uuid: 2 * GIB}
    spread = [device["attributes"]["index"]["int"] for device in devices(cards, SPREAD, allocated)]
    packed = [device["attributes"]["index"]["int"] for device in devices(cards, MEMORY, allocated)]
    assert (spread, packed) == ([2, 1, 0], [0, 1, 2])


@pytest.mark.parametrize(("evict", "effect"), [(False, "NoSchedule"), (True, "NoExecute")])
def test_an_unhealthy_card_is_tainted(evict: bool, effect: str):
    (device,) = devices([card(0, unhealthy="xid-79", evict=evict)], BOTH, {})
    assert device["taints"] == [{"key": "gpu.cgpu.dev/unhealthy", "value": "xid-79", "effect": effect}]


def test_many_cards_need_several_slices_and_none_needs_one():
    many = slices(Pool("node", "uid", 1), devices([card(i) for i in range(DEVICES_PER_SLICE + 1)], BOTH, {}))
    assert [len(item["spec"]["devices"]) for item in many] == [DEVICES_PER_SLICE, 1]
    assert {item["spec"]["pool"]["resourceSliceCount"] for item in many} == {2}
    assert [item["metadata"]["name"] for item in many] == sorted(item["metadata"]["name"] for item in many)
    (empty,) = slices(Pool("node", "uid", 1), [])
    assert empty["spec"]["devices"] == []


def test_the_longest_name_of_a_node_still_gives_one_of_a_slice():
    longest = ".".join(["a" * 62] * 4)[:253]
    assert len(slice_name(longest, 9)) <= 253
    assert slice_name(longest, 9) != slice_name(longest[:-1] + "b", 9)


def stored(document: Any) -> Any:
    """As a server has it: with a version, and fields of its own."""
    kept = copy.deepcopy(document)
    kept["metadata"] |= {"resourceVersion": "7", "uid": "u"}
    for device in kept["spec"]["devices"]:
        device["bindsToNode"] = False
        for taint in device.get("taints", ()):
            taint["timeAdded"] = "2026-01-01T00:00:00Z"
    return kept


def test_what_a_server_without_the_gate_drops_is_named():
    (sent,) = slices(Pool("node", "uid", 1), devices([card(0), card(1)], BOTH, {}))
    assert dropped_fields(sent, stored(sent)) == []
    kept = stored(sent)
    for device in kept["spec"]["devices"]:
        del device["allowMultipleAllocations"]
        for capacity in device["capacity"].values():
            del capacity["requestPolicy"]
    assert dropped_fields(sent, kept) == [
        "devices.allowMultipleAllocations",
        "devices.capacity.compute.requestPolicy",
        "devices.capacity.memory.requestPolicy",
        "devices.capacity.shares.requestPolicy",
    ]


def test_nothing_is_written_where_all_is_as_it_should_be():
    offered = devices([card(0, unhealthy="lost")], BOTH, {})
    existing = [stored(item) for item in slices(Pool("node", "uid", 4), offered)]
    assert not plan(existing, "node", "uid", offered)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((card(0), BOTH), (card(0, policy="fixed"), BOTH)),
        ((card(0), BOTH), (card(0), MEMORY)),
        ((card(0, numa_node=1), BOTH), (card(0), BOTH)),
        ((card(0, unhealthy="lost"), BOTH), (card(0), BOTH)),
        ((card(0), BOTH), (card(0, unhealthy="lost"), BOTH)),
    ],
)
def test_one_update_keeps_the_generation(before: tuple[Card, Sharing], after: tuple[Card, Sharing]):
    existing = [stored(item) for item in slices(Pool("node", "uid", 4), devices([before[0]], before[1], {}))]
    todo = plan(existing, "node", "uid", devices([after[0]], after[1], {}))
    (item,) = todo.update
    assert (todo.delete, todo.create) == ((), ())
    assert item["spec"]["pool"]["generation"] == 4
    assert item["metadata"]["resourceVersion"] == "7"


def test_a_greater_change_raises_it_everywhere_and_deletes_first_what_is_obsolete():
    before = devices([card(i) for i in range(DEVICES_PER_SLICE + 1)], BOTH, {})
    after = devices([card(i) for i in range(3)], BOTH, {})
    existing = [stored(item) for item in slices(Pool("node", "uid", 4), before)]
    todo = plan(existing, "node", "uid", after)
    assert todo.delete == (existing[1]["metadata"]["name"],)
    assert [item["spec"]["pool"]["generation"] for item in todo.update] == [5]


def test_slices_that_were_wiped_are_made_again():
    todo = plan([], "node", "uid", devices([card(0)], BOTH, {}))
    assert len(todo.create) == 1


SIZES = st.sampled_from([0, 1, 2, 64, 65])


@settings(deadline=None, max_examples=12)
@given(SIZES, SIZES, st.integers(1, 9))
def test_after_a_plan_there_is_nothing_left_to_plan(before: int, after: int, generation: int):
    offered_before = devices([card(i) for i in range(before)], BOTH, {})
    existing = [stored(item) for item in slices(Pool("node", "uid", generation), offered_before)]
    offered = devices([card(i) for i in range(after)], BOTH, {})
    todo = plan(existing, "node", "uid", offered)
    present = {item["metadata"]["name"]: item for item in existing if item["metadata"]["name"] not in todo.delete}
    for item in (*todo.update, *todo.create):
        present[item["metadata"]["name"]] = stored(item)
    now = list(present.values())
    assert not plan(now, "node", "uid", offered)
    assert {item["spec"]["pool"]["resourceSliceCount"] for item in now} == {len(now)}
    assert len({item["spec"]["pool"]["generation"] for item in now}) == 1


@pytest.mark.parametrize(
    ("driver", "attribute"),
    [("999.1", {"version": "999.1.0"}), ("620.06", {"version": "620.6.0"}), ("N/A", None), ("", None), ("5.x.1", None)],
)
def test_a_version_that_is_none_is_not_published(driver: str, attribute: dict[str, str] | None):
    known = card(3)
    (device,) = devices([replace(known, gpu=replace(known.gpu, driver_version=driver))], BOTH, {})
    assert device["attributes"].get("driverVersion") == attribute

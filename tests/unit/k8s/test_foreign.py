from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgpu.k8s import node_event
from cgpu.k8s.foreign import ForeignSlice, managed_by, parse_foreign, resources_of

OURS = "GPU-11111111-2222-3333-4444-555555555555"
NODE = {"metadata": {"name": "node-a", "uid": "u-1"}}


def node(capacity: dict[str, str], allocatable: dict[str, str] | None = None) -> dict[str, Any]:
    return {**NODE, "status": {"capacity": capacity, "allocatable": capacity if allocatable is None else allocatable}}


def foreign_slice(driver: str, *devices: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"driver": driver, "nodeName": "node-a", "devices": list(devices)}}


def device(**attributes: str) -> dict[str, Any]:
    return {"name": "x", "attributes": {name: {"string": value} for name, value in attributes.items()}}


@pytest.mark.parametrize(
    "name",
    ["aliyun.com/gpu-mem", "aliyun.com/gpu", "nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb"],
)
def test_resources_by_which_others_hand_out_gpus_are_seen(name: str):
    assert resources_of(node({"cpu": "4", name: "2"})) == (name,)
    assert resources_of(node({name: "2"}, {name: "0"})) == (name,)  # a plugin that has just stopped
    assert resources_of(node({name: "0"}, {name: "2"})) == (name,)


@pytest.mark.parametrize(
    "capacity", [{}, {"nvidia.com/gpu": "0"}, {"cpu": "8", "memory": "3Gi", "example.com/gpu": "1"}]
)
def test_others_resources_and_those_of_which_there_are_none_do_not_count(capacity: dict[str, str]):
    assert resources_of(node(capacity)) == ()
    assert resources_of(NODE) == ()


def test_nvidias_driver_has_the_nodes_cards_whatever_it_calls_them():
    seen = parse_foreign(foreign_slice("gpu.nvidia.com", {"name": "gpu-0"}))
    assert seen is not None
    assert managed_by("", (), [seen], [OURS]) == "the driver gpu.nvidia.com offers them in its ResourceSlices"


def test_another_driver_counts_where_it_offers_one_of_our_cards():
    other = parse_foreign(foreign_slice("gpu.example.com", device(uuid=OURS), device(uuid="GPU-2")))
    network = parse_foreign(
        foreign_slice("nic.example.com", device(mac="00:11"), {"name": "y", "attributes": {"n": {"int": 3}}})
    )
    assert other is not None
    assert network is not None
    assert managed_by("", (), [network], [OURS]) == ""
    assert "gpu.example.com" in managed_by("", (), [network, other], [OURS])
    assert managed_by("", (), [other], ["GPU-3"]) == ""


def test_our_own_slices_and_empty_ones_are_nobody_elses():
    assert parse_foreign(foreign_slice("gpu.cgpu.dev", device(uuid=OURS))) is None
    assert parse_foreign(foreign_slice("gpu.nvidia.com")) is None


SLICES = st.lists(st.builds(ForeignSlice, st.sampled_from(["gpu.nvidia.com", "a.b"]), st.just(frozenset({OURS}))))


@settings(deadline=None, max_examples=25)
@given(st.permutations(["aliyun.com/gpu-mem", "nvidia.com/gpu"]), SLICES)
def test_the_words_do_not_depend_on_the_order_in_which_things_are_seen(
    resources: list[str], slices: list[ForeignSlice]
):
    said = managed_by("/proc/cgpu_km", resources, slices, [OURS])
    assert said == managed_by("/proc/cgpu_km", sorted(resources), list(reversed(slices)) * 2, [OURS])
    assert said.startswith("Alibaba's cGPU is active (/proc/cgpu_km)")
    assert said.count("nvidia.com/gpu") == 1


def test_an_event_has_the_same_name_for_the_same_words_and_occasion_only():
    reason = node_event.Reason.REFUSED

    def name(note: str, occasion: str = "") -> str:
        return str(node_event.document(NODE, reason, note, occasion)["metadata"]["name"])

    assert name("a") == name("a")
    assert len({name("a"), name("b"), name("a", "later")}) == 3


def test_an_event_is_within_the_limits_of_the_api():
    long = {"metadata": {"name": ".".join(["n" * 62] * 4), "uid": "u"}}
    event = node_event.document(long, node_event.Reason.RESUMED, "x" * 5000, "")
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["note"]) <= 1024
    assert len(event["reportingInstance"]) <= 128
    assert event["type"] == "Normal"

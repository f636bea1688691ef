"""cGPU's variables and ours: each value as it is meant, and each malformed one named."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.errors import NoSuchGpuError, RefusedError, VariableError
from cgpu.model.units import GIB, MIB
from cgpu.oci.amount import Part
from cgpu.oci.environment import Request, request_of
from cgpu.oci.wish import wish_of

MEM = "ALIYUN_COM_GPU_MEM_CONTAINER"
PART = Part(3, 14, GIB)
CGPU = (f"{MEM}=3", "ALIYUN_COM_GPU_MEM_DEV=14")
OURS = ("CGPU_MEMORY=6GiB",)


def asked(*environment: str, **annotations: str) -> Request:
    request = request_of(environment, {f"cgpu.dev/{key.replace('_', '-')}": text for key, text in annotations.items()})
    assert request is not None
    return request


# The points that were published: total MiB of the card, MEM_CONTAINER, MEM_DEV, MiB shown in the container.
@pytest.mark.parametrize(
    ("total", "units", "of_units", "shown"),
    [
        (15079, 3, 14, 3231),
        (16130, 4, 15, 4301),
        (16130, 3, 15, 3226),
        (16130, 2, 15, 2150),
        (15360, 3, 15, 3072),
        (23028, 8, 22, 8373),
        (46068, 8, 44, 8376),
        (46068, 3, 44, 3141),
    ],
)
def test_a_part_of_a_card_is_what_cgpu_shows(total: int, units: int, of_units: int, shown: int):
    assert Part(units, of_units, GIB).bytes_of(total * MIB) == shown * MIB
    assert Part(units, None, GIB).bytes_of(total * MIB) == shown * MIB  # MEM_DEV is the card's whole GiB


@given(st.integers(1024, 1 << 20), st.lists(st.integers(1, 64), min_size=1, max_size=20), st.integers(0, 100))
def test_parts_never_add_up_to_more_than_the_card(total_mib: int, units: list[int], rest: int):
    parts = [Part(each, sum(units) + rest, GIB) for each in units]
    try:
        assert sum(part.bytes_of(total_mib * MIB) for part in parts) <= total_mib * MIB
    except RefusedError:
        assert total_mib * min(units) < sum(units) + rest


def test_a_part_is_at_most_the_card():
    with pytest.raises(RefusedError, match="more than the whole card"):
        Part(16, None, GIB).bytes_of(15079 * MIB)


def test_mebibytes_as_a_unit():
    request = asked(f"{MEM}=3072", "ALIYUN_COM_GPU_MEM_UNIT=MiB")
    assert request.memory == Part(3072, None, MIB)
    assert isinstance(request.memory, Part)
    assert request.memory.bytes_of(15360 * MIB) == 3072 * MIB


@pytest.mark.parametrize(
    "environment",
    [
        (),
        ("ALIYUN_COM_GPU_MEM_DEV=14", "ALIYUN_COM_GPU_SCHD_WEIGHT=2", "NVIDIA_VISIBLE_DEVICES=all"),
        (*CGPU, "CGPU_DISABLE=true"),
        (*OURS, "CGPU_DISABLE=1", "CGPU_WEIGHT=nonsense"),
        (*CGPU, "NVIDIA_VISIBLE_DEVICES=none"),
        ("XCGPU_MEMORY=6GiB", "CGPU_MEMORY"),
    ],
)
def test_not_for_us(environment: tuple[str, ...]):
    assert request_of(environment, {}) is None


def test_disable_by_annotation():
    assert request_of(CGPU, {"cgpu.dev/disable": "true"}) is None
    assert request_of((*CGPU, "CGPU_DISABLE=false"), {}) is not None


@pytest.mark.parametrize(
    ("environment", "sliced", "native"),
    [
        ((), ("0",), ()),
        (("NVIDIA_VISIBLE_DEVICES=1",), ("1",), ()),
        (("NVIDIA_VISIBLE_DEVICES=all",), ("all",), ()),
        (("NVIDIA_VISIBLE_DEVICES=GPU-a,GPU-b",), ("GPU-a", "GPU-b"), ()),
        (("ALIYUN_COM_GPU_VISIBLE_DEVICES=0,1",), ("0", "1"), ()),
        (("ALIYUN_COM_GPU_VISIBLE_DEVICES=2", "NVIDIA_VISIBLE_DEVICES=0,1,2"), ("2",), ("0", "1")),
        (("ALIYUN_COM_GPU_VISIBLE_DEVICES=2", "NVIDIA_VISIBLE_DEVICES=all"), ("2",), ()),
        (("ALIYUN_COM_GPU_VISIBLE_DEVICES=2", "NVIDIA_VISIBLE_DEVICES=void"), ("2",), ()),
        (("CGPU_GPU=1", "ALIYUN_COM_GPU_VISIBLE_DEVICES=1"), ("1",), ()),
    ],
)
def test_which_gpus(environment: tuple[str, ...], sliced: tuple[str, ...], native: tuple[str, ...]):
    request = asked(*CGPU, *environment)
    assert (request.sliced, request.native) == (sliced, native)


def test_every_variable_of_cgpu():
    request = asked(*CGPU, "ALIYUN_COM_GPU_MEM_UNIT=GiB", "ALIYUN_COM_GPU_SCHD_WEIGHT=4", "ALIYUN_COM_GPU_HIGH_PRIO=1")
    assert request == Request(memory=PART, sliced=("0",), weight=4, priority=1)


OWN = {
    "memory": ("6GiB", "memory", 6 * GIB),
    "compute": ("30", "compute_percent", 30),
    "compute_limit": ("60%", "compute_limit_percent", 60),
    "weight": ("2", "weight", 2),
    "priority": ("1", "priority", 1),
    "gpu": ("0,GPU-a", "sliced", ("0", "GPU-a")),
    "name": ("web", "name", "web"),
    "require_layer": ("driver", "require_layer", "driver"),
    "refuse_managed": ("1", "refuse_managed", True),
}


@pytest.mark.parametrize("name", OWN)
def test_every_variable_of_ours_and_its_annotation(name: str):
    text, field, value = OWN[name]
    memory = () if name == "memory" else OURS
    variable = f"CGPU_{name.upper()}={text}"
    for request in (asked(*memory, variable), asked(*memory, **{name: text}), asked(*memory, variable, **{name: text})):
        assert getattr(request, field) == value


def test_the_same_said_in_two_ways_is_no_contradiction():
    assert asked("CGPU_MEMORY=6GiB", memory="6144MiB").memory == 6 * GIB


@pytest.mark.parametrize(
    ("environment", "annotations", "names"),
    [
        (("CGPU_MEMORY=6GiB",), {"cgpu.dev/memory": "5GiB"}, ("CGPU_MEMORY", "cgpu.dev/memory")),
        ((*CGPU, "CGPU_MEMORY=6GiB"), {}, ("CGPU_MEMORY", MEM)),
        ((*CGPU, "CGPU_WEIGHT=2", "ALIYUN_COM_GPU_SCHD_WEIGHT=3"), {}, ("CGPU_WEIGHT", "ALIYUN_COM_GPU_SCHD_WEIGHT")),
        ((*CGPU, "CGPU_GPU=0", "ALIYUN_COM_GPU_VISIBLE_DEVICES=1"), {}, ("CGPU_GPU", "ALIYUN_COM_GPU_VISIBLE_DEVICES")),
    ],
)
def test_a_contradiction_names_both(environment: tuple[str, ...], annotations: dict[str, str], names: tuple[str, str]):
    with pytest.raises(VariableError) as raised:
        request_of(environment, annotations)
    assert all(name in raised.value.message for name in names)


@pytest.mark.parametrize(
    "entry",
    [
        *(f"{MEM}={text}" for text in ("", "0", "-1", "3.5", "3GiB", "x", "9999999999", "٣", " 3")),
        *(f"ALIYUN_COM_GPU_MEM_DEV={text}" for text in ("", "0", "15GiB")),
        f"{MEM}=15",
        "ALIYUN_COM_GPU_MEM_UNIT=GB",
        "ALIYUN_COM_GPU_VISIBLE_DEVICES=",
        "ALIYUN_COM_GPU_VISIBLE_DEVICES=0,,1",
        "NVIDIA_VISIBLE_DEVICES=no-gpu-has-3GiB-to-run",
        "NVIDIA_VISIBLE_DEVICES=void",
        "ALIYUN_COM_GPU_SCHD_WEIGHT=0",
        "ALIYUN_COM_GPU_HIGH_PRIO=yes",
        "CGPU_DISABLE=yes",
        "CGPU_MEMORY=6",
        "CGPU_COMPUTE=101",
        "CGPU_COMPUTE_LIMIT=x",
        "CGPU_WEIGHT=1001",
        "CGPU_PRIORITY=2",
        "CGPU_GPU=first",
        "CGPU_NAME=-a b",
        "CGPU_REQUIRE_LAYER=broker",
        "CGPU_REFUSE_MANAGED=",
    ],
)
def test_a_malformed_value_names_its_variable(entry: str):
    with pytest.raises(VariableError) as raised:
        request_of([*CGPU, entry], {})
    assert raised.value.message.startswith(entry.partition("=")[0] + ":")


@pytest.mark.parametrize("name", [name for name in OWN if name != "memory"])
def test_a_share_without_memory_is_a_mistake(name: str):
    with pytest.raises(VariableError, match=f"CGPU_{name.upper()} is set, but"):
        request_of([f"CGPU_{name.upper()}={OWN[name][0]}"], {})


def test_the_last_of_two_values_counts():
    assert asked("CGPU_MEMORY=1GiB", "CGPU_MEMORY=2GiB").memory == 2 * GIB


@given(st.lists(st.text()), st.dictionaries(st.text(), st.text()))
def test_anything_else_is_nothing_or_told(environment: list[str], annotations: dict[str, str]):
    with contextlib.suppress(VariableError):
        request_of(environment, annotations)


def row(index: int, total: int = 15079 * MIB) -> dict[str, Any]:
    return {"index": index, "uuid": f"GPU-{index}", "total_bytes": total}


def test_the_wish_names_cards_by_uuid_and_the_sliced_first():
    request = asked(*CGPU, "ALIYUN_COM_GPU_VISIBLE_DEVICES=2", "NVIDIA_VISIBLE_DEVICES=0,GPU-2")
    wish = wish_of(request, "web", [row(0), row(1), row(2)])
    assert wish.visible == ("GPU-2", "GPU-0")
    assert wish.body["shares"] == [{"gpu": "GPU-2", "memory_bytes": 3231 * MIB, "weight": 1, "priority": 0}]
    assert wish.body["container"] == "web"


def test_all_is_each_card_with_its_own_part():
    wish = wish_of(asked(f"{MEM}=3", "NVIDIA_VISIBLE_DEVICES=all"), "web", [row(0), row(1, 23028 * MIB)])
    assert [share["memory_bytes"] // MIB for share in wish.body["shares"]] == [3231, 23028 * 3 // 22]


def test_a_card_that_is_named_twice_is_one():
    assert len(wish_of(asked(*OURS, "CGPU_GPU=0,GPU-0"), "web", [row(0)]).body["shares"]) == 1


def test_a_card_that_is_not_here_is_told():
    with pytest.raises(NoSuchGpuError, match="'3'"):
        wish_of(asked(*OURS, "CGPU_GPU=3"), "web", [row(0)])

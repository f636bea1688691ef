"""The region's layout in Python is the C compiler's, field by field, and the constants are the header's.

Offsets alone would not do: a field that is narrower in one language may be hidden by padding.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cgpu.region import layout
from native import build
from tests.native.c_compiler import compile_c

HEADER = build.NATIVE / "include" / "region.h"
Layout = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = compile_c(tmp_path_factory.mktemp("layout") / "dump", [build.NATIVE / "tests" / "layout_dump.c"])
    result: dict[str, Any] = json.loads(subprocess.run([program], capture_output=True, check=True, timeout=60).stdout)
    return result


def element_of(kind: Any) -> tuple[Any, int]:
    """The innermost type of an array, and how many there are of it; 0 for a type that is no array."""
    count = 0
    while issubclass(kind, ctypes.Array):
        count = (count or 1) * kind._length_
        kind = kind._type_
    return kind, count


def python_layout(structure: type[ctypes.LittleEndianStructure]) -> dict[str, Any]:
    fields = []
    for name, kind, *_ in structure._fields_:
        element, count = element_of(kind)
        fields.append((name, getattr(structure, name).offset, ctypes.sizeof(element), count))
    return {"size": ctypes.sizeof(structure), "fields": fields}


def c_layout(structure: dict[str, Any]) -> dict[str, Any]:
    return {
        "size": structure["size"],
        # A composite's single member counts 1, which in Python is no array.
        "fields": [
            (field["name"], field["offset"], field["size"], 0 if field["name"] == "header" else field["count"])
            for field in structure["fields"]
        ],
    }


def test_the_same_structures(dump: dict[str, Layout]) -> None:
    assert set(layout.STRUCTURES) == set(dump["structures"])


@pytest.mark.parametrize("name", sorted(layout.STRUCTURES))
def test_the_same_fields(dump: dict[str, Layout], name: str) -> None:
    assert python_layout(layout.STRUCTURES[name]) == c_layout(dump["structures"][name])


def test_the_same_constants(dump: dict[str, Layout]) -> None:
    python = {name: value for name, value in vars(layout).items() if name.startswith("CGPU_")}
    assert python == dump["constants"]


def test_the_dump_has_every_constant_of_the_header(dump: dict[str, Layout]) -> None:
    defined = set(
        re.findall(
            r"^#define (CGPU_(?!\w*FIELDS|X_|A_|REGION_H|GRANT_STATE|STRUCT|CHECK|DEFINE)\w+) ",
            HEADER.read_text(),
            re.MULTILINE,
        )
    )
    assert defined - {"CGPU_X_MEMBER", "CGPU_A_MEMBER"} == set(dump["constants"])


def test_every_field_names_its_writer(dump: dict[str, Layout]) -> None:
    writers = {"agent", "arbiter", "slot", "tenant", "any"}
    for name, structure in dump["structures"].items():
        for field in structure["fields"]:
            assert field["writer"] in writers or name in ("cgpu_grants", "cgpu_usage", "cgpu_usage_slot"), field


def test_a_tenant_writes_nothing_of_what_flows_down(dump: dict[str, Layout]) -> None:
    for name in ("cgpu_grants_header", "cgpu_grants_gpu", "cgpu_grants_surplus"):
        assert {field["writer"] for field in dump["structures"][name]["fields"]} <= {"agent", "arbiter"}


def test_a_narrower_field_hidden_by_padding_is_noticed(tmp_path: Path) -> None:
    """The comparison itself: `retired` shrinks to half, and no offset and no size changes."""

    class Wide(ctypes.LittleEndianStructure):
        _fields_ = (("used", ctypes.c_uint64), ("retired", ctypes.c_uint64))

    class Narrow(ctypes.LittleEndianStructure):
        _fields_ = (("used", ctypes.c_uint64), ("retired", ctypes.c_uint32))

    assert ctypes.sizeof(Wide) == ctypes.sizeof(Narrow)
    assert python_layout(Wide) != python_layout(Narrow)

"""Every fuzzer for a moment, over its kept corpus and beyond; and that each finds a fault that was planted for it.

Longer: ``python -m tests.fuzz --seconds 600``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import c_fuzzer, corpora, python_fuzzer, python_targets
from tests.fuzz.c_fuzzer import Fault

SECONDS = 0.7
PLANTED_SECONDS = 90.0  # it ends at the first finding, mostly within two; but chance decides
EDGES = {"charge": 400, "image": 350, "profile": 90, "region": 250, "text": 200, "turns": 250}
"""Fewer than the corpus alone reaches: a fuzzer that no longer gets into the code must not pass."""

FAULTS = {
    "charge": Fault("shim/share.c", "if (!word || slot >= CGPU_MAX_SLOTS) return false;", "if (!word) return false;"),
    "image": Fault(
        "simgpu/cuda_image_elf.c", "return offset <= elf->size && bytes <= elf->size - offset;",
        "return offset + bytes <= elf->size;",
    ),
    "profile": Fault("simgpu/card_profile.c", " || length - 1 > key->bytes)", ")"),
    "region": Fault("programs/inside_text.c", "text[i] < least ||", "text[i] + 0x80 < least ||"),
    "text": Fault("programs/json_text.c", "if (length + count >= size) break;", "if (length + 1 >= size) break;"),
    "turns": Fault("arbiter/turns.c", "(sight->elsewhere ? 0 : least(long_ns, most_ns))", "long_ns + sight->long_ns"),
}  # fmt: skip
"""What somebody could get wrong: a bound that is missing, or one that wraps around."""

PYTHON_FAULTS = {
    "bundle": ("cgpu.oci.bundle:_check", "not isinstance(config[name], kind)", "kind is None"),
    "checkpoint": ("cgpu.adapters.checkpoint:CheckpointStore.load", "(ValueError, RecursionError)", "ValueError"),
    "conf": ("cgpu.oci.conf:Conf.read", "except ValueError", "except KeyError"),
    "facts": ("cgpu.doctor.facts_file:_whole_text", "except UnicodeEncodeError", "except UnicodeDecodeError"),
    "log": ("cgpu.doctor.log_text:clean_line", 'raw.decode("utf-8", "replace")', "raw.decode()"),
    "profile": ("cgpu.sim.profiles:load_profile", "TypeError, OverflowError, RecursionError", "TypeError"),
    "region": ("cgpu.region.reader:RegionReader._text", "except UnicodeDecodeError", "except UnicodeEncodeError"),
    "units": ("cgpu.model.units:parse_percent", "not 1 <= int(body)", "not 0 <= int(body)"),
}
"""The function, what is right in it, and what is wrong: cases that were forgotten."""


@functools.cache
def needs_sanitizers() -> None:
    if c_fuzzer.compiler() is None:
        reason = f"no compiler with -fsanitize={c_fuzzer.SANITIZERS} (Debian: apt-get install gcc libc6-dev)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.mark.parametrize("name", c_fuzzer.TARGETS)
def test_c(name: str, tmp_path: Path) -> None:
    needs_sanitizers()
    outcome = c_fuzzer.fuzz(name, c_fuzzer.build_target(name, tmp_path), SECONDS, tmp_path / "crashes")
    assert outcome.crash is None, outcome
    assert outcome.runs > len(corpora.kept(name)) > 0
    assert outcome.edges >= EDGES[name]


@pytest.mark.parametrize("name", c_fuzzer.TARGETS)
def test_c_finds_a_planted_fault(name: str, tmp_path: Path) -> None:
    needs_sanitizers()
    program = c_fuzzer.build_target(name, tmp_path, FAULTS[name])
    outcome = c_fuzzer.fuzz(name, program, PLANTED_SECONDS, tmp_path / "crashes")
    assert outcome.crash is not None, outcome
    assert outcome.crash.is_file(), outcome
    assert (
        "AddressSanitizer" in outcome.report or "runtime error" in outcome.report or "does not hold" in outcome.report
    )


def test_what_takes_for_ever_is_found(tmp_path: Path) -> None:
    needs_sanitizers()
    fault = Fault("simgpu/cuda_image_ptx.c", "while (depth && next(r)) {", "while (depth) { next(r);")
    outcome = c_fuzzer.fuzz(
        "image", c_fuzzer.build_target("image", tmp_path, fault), PLANTED_SECONDS, tmp_path / "crashes"
    )
    assert outcome.crash is not None, outcome
    assert outcome.crash.name.startswith("hang-"), outcome


@pytest.mark.parametrize("target", python_targets.TARGETS, ids=lambda target: target.name)
def test_python(target: python_fuzzer.Target, tmp_path: Path) -> None:
    outcome = python_fuzzer.fuzz(target, SECONDS, tmp_path)
    assert outcome.crash is None, outcome
    assert outcome.runs > len(corpora.kept(target.name)) > 0


@pytest.mark.parametrize("target", python_targets.TARGETS, ids=lambda target: target.name)
def test_python_finds_a_planted_fault(
    target: python_fuzzer.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, *PYTHON_FAULTS[target.name])
    outcome = python_fuzzer.fuzz(target, PLANTED_SECONDS, tmp_path)
    assert outcome.crash is not None, outcome
    assert "Error" in outcome.report


def plant(monkeypatch: pytest.MonkeyPatch, place: str, right: str, wrong: str) -> None:
    """Put a function with the fault in the place of the right one, wherever that has been imported."""
    module_name, _, names = place.partition(":")
    *classes, name = names.split(".")
    module = importlib.import_module(module_name)
    owner = functools.reduce(getattr, classes, module)
    function = getattr(owner, name)
    text = textwrap.dedent(inspect.getsource(function))
    assert text.count(right) == 1, f"{place} has changed: the fault cannot be planted"
    planted: dict[str, Any] = {}
    exec(compile(text.replace(right, wrong), module.__file__ or place, "exec"), module.__dict__, planted)
    monkeypatch.setattr(owner, name, planted[name])
    for other in [other for other in list(sys.modules.values()) if getattr(other, name, None) is function]:
        monkeypatch.setattr(other, name, planted[name])


@pytest.mark.parametrize("path", sorted(corpora.CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_kept_input_is_of_a_target(path: Path) -> None:
    assert path.parent.name in {*c_fuzzer.TARGETS, *(target.name for target in python_targets.TARGETS)}
    corpora.read_input(path)

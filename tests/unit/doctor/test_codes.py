"""Every error that cgpu can produce has a code with an explanation, and every explanation an error."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from cgpu.compat.dataset import shipped
from cgpu.doctor.codes import Code, code_of, codes
from cgpu.doctor.explain import recognise
from cgpu.doctor.failures import Catalogue, catalogue
from cgpu.errors import CapacityError, NoSuchGpuError, public_code

REPOSITORY: Final = Path(__file__).parents[3]
SHIM: Final = sorted((REPOSITORY / "native" / "shim").glob("*.c"))
_LITERALS: Final = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'


@cache
def known() -> Catalogue:
    return catalogue(shipped())


@cache
def of_errors() -> set[str]:
    """The codes that classes of error have of their own, wherever in the package they are; others inherit one."""
    classes = (
        node
        for path in (REPOSITORY / "src" / "cgpu").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    )
    values = (
        statement.value
        for node in classes
        for statement in node.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "code"
    )
    return {public_code(ast.literal_eval(value)) for value in values}


@cache
def of_api() -> set[str]:
    """The codes that the API sends beside those of errors."""
    source = (REPOSITORY / "src" / "cgpu" / "agent" / "api.py").read_text()
    return {public_code(code) for code in re.findall(r'"code": "(\w+)"', source)}


@cache
def of_commands() -> set[str]:
    """The codes that the command line prints without an error."""
    sources = (path.read_text() for path in (REPOSITORY / "src" / "cgpu" / "cli").glob("*.py"))
    return {public_code(code) for source in sources for code in re.findall(r"public_code\(['\"](\w+)['\"]\)", source)}


@cache
def said_by_shim() -> list[str]:
    """The format of each line that the shim says."""
    found = [
        "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals))
        for path in SHIM
        for literals in re.findall(rf"\bcg_say\(\s*{_LITERALS}", path.read_text())
    ]
    calls = sum(len(re.findall(r"\bcg_say\(", path.read_text())) for path in SHIM)
    assert len(found) == calls > 10
    return found


@cache
def said_by_simulation() -> list[str]:
    source = "".join(path.read_text() for path in (REPOSITORY / "native" / "simgpu").glob("*.c"))
    return [text.replace("\\n", "") for text in re.findall(r'fprintf\(stderr, "([^"]*)"', source)]


def test_each_error_is_explained_and_each_explanation_is_of_an_error():
    of_shim = {code for code in codes() if code.startswith(("CGPU-SHIM-", "CGPU-SIM-"))}
    assert of_errors() | of_api() | of_commands() | of_shim == set(codes())
    assert of_shim == {code.code for code in codes().values() if code.said}


def test_each_line_of_the_shim_has_a_code_and_each_code_a_line():
    known_formats = {text: code.code for code in codes().values() for text in code.said}
    seen = set()
    for line in said_by_shim():
        text, _, marked = line.partition(" [")
        assert f"cgpu: {text}" in known_formats, f"{text!r} has no code in codes.toml"
        code = known_formats[f"cgpu: {text}"]
        seen.add(code)
        assert not marked or marked == f"{code}]"
    assert seen == {code for code in codes() if code.startswith("CGPU-SHIM-")}


def test_each_line_of_the_simulated_gpu_has_a_code_and_each_code_a_line():
    formats = {text for code in codes().values() if code.code.startswith("CGPU-SIM-") for text in code.said}
    assert set(said_by_simulation()) == formats


@pytest.mark.parametrize("code", codes().values(), ids=lambda code: code.code)
def test_each_code_says_what_it_means_where_it_comes_from_and_what_to_do(code: Code):
    assert code_of(code.code) == code.code
    assert code.meaning
    assert code.causes
    assert code.fix


_PRINTED: Final = {"s": "/run/cgpu/tenants/a b/grants: x", "u": "32", "lld": "4096", "llu": "8192", "zu": "8192"}


@pytest.mark.parametrize("code", codes().values(), ids=lambda code: code.code)
def test_a_log_with_an_error_of_ours_is_recognised_by_its_code_or_its_words(code: Code):
    (finding,) = recognise(f"cgpu: some cause [{code.code}]\n      the way out", known())
    assert (finding.id, finding.line) == (code.code, 1)
    for text in code.said:
        line = re.sub(r"%(s|u|lld|llu|zu)", lambda match: _PRINTED[match[1]], text)
        for printed in (line, f"{line} [{code.code}]", f"2026-03-01T12:00:00Z stderr F {line}"):
            assert [(finding.id, finding.count) for finding in recognise(f"x\n{printed}\ny", known())] == [
                (code.code, 1)
            ]


def test_lines_of_the_shim_that_follow_one_another_stay_apart():
    log = "cgpu: memory is refused: cannot open /a: b\ncgpu: memory is refused: /c is not a file of cgpu\n"
    assert [(finding.id, finding.line) for finding in recognise(log, known())] == [
        ("CGPU-SHIM-OPEN", 1),
        ("CGPU-SHIM-FOREIGN", 2),
    ]


def test_the_limit_of_tenants_is_the_pod_limit_too():
    log = (
        "cgpu: Error occurs when creating cGPU instance: unknown: GPU x already has 20 tenants (maximum 20) "
        "[CGPU-CAPACITY]"
    )
    assert {finding.id for finding in recognise(log, known())} == {"pod-limit", "CGPU-CAPACITY"}


def test_a_code_has_one_form():
    assert NoSuchGpuError("x").public_code == "CGPU-NO-SUCH-GPU"
    assert CapacityError("x").public_code == "CGPU-CAPACITY"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("CGPU-CAPACITY", "CGPU-CAPACITY"),
        (" cgpu-capacity\n", "CGPU-CAPACITY"),
        ("CGPU-FROM-THE-FUTURE", "CGPU-FROM-THE-FUTURE"),
        ("CGPU", None),
        ("CGPU-", None),
        ("CGPU-CAPACITY and more", None),
        ("[CGPU-CAPACITY]", None),
        ("", None),
    ],
)
def test_what_is_a_code_and_what_is_a_text(text: str, code: str | None):
    assert code_of(text) == code

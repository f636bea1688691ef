"""What examples/ shows is what happens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from cgpu.model.units import MIB
from tests.integration.conftest import Node

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTS = Path(__file__).parents[1]


def test_quota(node: Node) -> None:
    result = node.cgpu("run", "--memory", "2GiB", "--", sys.executable, str(EXAMPLES / "quota" / "client.py"))
    assert result.returncode == 0, result.stderr
    found = re.fullmatch(
        r"the card has 2048 MiB\nallocated (\d+) MiB, then error 2 \(CUDA_ERROR_OUT_OF_MEMORY\)\n", result.stdout
    )
    assert found is not None, result.stdout
    assert 1024 <= int(found[1]) < 2048
    assert node.machine.status().cards[0].used_bytes <= 450 * MIB, "the card holds what ended"


@pytest.mark.parametrize("folder", sorted(EXAMPLES.iterdir()), ids=lambda folder: folder.name)
def test_every_file_of_an_example_is_explained_and_tested(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    tests = "".join(path.read_text() for path in TESTS.rglob("test_examples.py"))
    assert f'"{folder.name}"' in tests or f"{folder.name}/" in tests
    files = [path.name for path in folder.iterdir() if path.name != "README.md"]
    assert files
    for name in files:
        assert name in text
    for command in re.findall(r"^kubectl .*-f .*$", text, re.MULTILINE):
        assert set(re.findall(r"-f (\S+)", command)) <= set(files)

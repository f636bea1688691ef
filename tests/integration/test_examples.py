"""What examples/ shows is what happens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cgpu.model.units import MIB
from tests.integration.conftest import Node

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_quota(node: Node) -> None:
    result = node.cgpu("run", "--memory", "2GiB", "--", sys.executable, str(EXAMPLES / "quota" / "client.py"))
    assert result.returncode == 0, result.stderr
    found = re.fullmatch(
        r"the card has 2048 MiB\nallocated (\d+) MiB, then error 2 \(CUDA_ERROR_OUT_OF_MEMORY\)\n", result.stdout
    )
    assert found is not None, result.stdout
    assert 1024 <= int(found[1]) < 2048
    assert node.machine.status().cards[0].used_bytes <= 450 * MIB, "the card holds what ended"

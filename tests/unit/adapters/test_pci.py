from __future__ import annotations

from pathlib import Path

import pytest

from cgpu.adapters.pci import numa_node

PLACE = "sys/bus/pci/devices/0000:3b:00.0"


@pytest.mark.parametrize(("said", "node"), [("1\n", 1), ("0\n", 0), ("-1\n", None), ("\n", None)])
def test_the_numa_node_is_what_the_kernel_says(tmp_path: Path, said: str, node: int | None):
    (tmp_path / PLACE).mkdir(parents=True)
    (tmp_path / PLACE / "numa_node").write_text(said)
    assert numa_node(tmp_path, "00000000:3B:00.0") == node


@pytest.mark.parametrize("bus_id", ["", "00000000:3B:00.0", "nonsense", "g:3b:00.0"])
def test_a_card_that_the_kernel_does_not_know_has_none(tmp_path: Path, bus_id: str):
    assert numa_node(tmp_path, bus_id) is None

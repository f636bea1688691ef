"""The kernels of this suite are sound PTX: NVIDIA's own linker compiles them, which needs no card."""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda.bindings import nvjitlink

import cgpu

SPIN = Path(cgpu.__file__).with_name("sim") / "spin.ptx"
KERNELS = Path(__file__).with_name("kernels.ptx")


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("source", [SPIN, KERNELS], ids=lambda path: path.stem)
def test_nvidias_compiler_takes_the_kernels(source: Path, architecture: str):
    link = nvjitlink.create(1, [f"-arch={architecture}"])
    text = source.read_bytes() + b"\0"
    nvjitlink.add_data(link, nvjitlink.InputType.PTX, text, len(text), source.name)
    nvjitlink.complete(link)
    assert nvjitlink.get_linked_cubin_size(link) > 0
    nvjitlink.destroy(link)

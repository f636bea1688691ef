"""Whether Alibaba's cGPU is active, told by what is in /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgpu.adapters.alibaba import sign_of_cgpu


@pytest.mark.parametrize(
    ("modules", "sign"),
    [
        (
            "nvidia 1 0 - Live 0x0\nkm 1 0 - Live 0x0\ncgpu_procfs 1 1 km, Live 0x0\n",
            "the kernel modules cgpu_procfs, km",
        ),
        ("cgpu_km 1 0 - Live 0x0 (POE)\n", "the kernel module cgpu_km"),
        ("nvidia 1 2 kmod,km_helper, Live 0x0\nkmod 1 0 - Live 0x0\n", ""),
        ("", ""),
    ],
)
def test_its_modules_are_a_sign(tmp_path: Path, modules: str, sign: str):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/modules").write_text(modules)
    assert sign_of_cgpu(tmp_path) == sign


def test_its_folder_in_proc_is_a_sign(tmp_path: Path):
    (tmp_path / "proc/cgpu_km").mkdir(parents=True, mode=0)
    assert sign_of_cgpu(tmp_path) == "/proc/cgpu_km"


def test_no_proc_is_no_sign(tmp_path: Path):
    assert sign_of_cgpu(tmp_path) == ""

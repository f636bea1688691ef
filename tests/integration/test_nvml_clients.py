"""Unmodified programs that read NVML, on the simulated one: nvidia-ml-py and nvitop."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.native.sim_machine import (
    CONTEXT_BYTES,
    MIB,
    POWER_LIMIT_MW,
    TOTAL_BYTES,
    Machine,
    build_holder,
    make_machine,
)

if TYPE_CHECKING:
    from pathlib import Path

HELD_BYTES = 500 * MIB
USED_BYTES = CONTEXT_BYTES + HELD_BYTES


@pytest.fixture(scope="session")
def holder_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_holder(tmp_path_factory.mktemp("holder"))


@pytest.fixture
def machine(holder_program: Path, tmp_path: Path) -> Machine:
    return make_machine(tmp_path, holder_program)


def test_nvidia_ml_py_reads_a_device(machine: Machine) -> None:
    with machine.hold(HELD_BYTES) as holder:
        result = machine.nvml(
            """
memory = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
result = [memory.total, memory.used, [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(device)],
          nvml.nvmlSystemGetProcessName(nvml.nvmlDeviceGetComputeRunningProcesses(device)[0].pid)]
"""
        )
    assert result == [TOTAL_BYTES, USED_BYTES, [holder.pid], str(machine.holder)]


def test_nvitop_prints_its_report(machine: Machine) -> None:
    with machine.hold(HELD_BYTES) as holder:
        holder.keep_busy()
        report = machine.run(sys.executable, "-m", "nvitop", "--once", "--ascii", COLUMNS="120")
    assert report.returncode == 0, report.stderr
    text = report.stdout
    assert "Driver Version: 550.163.01" in text
    assert text.count("Tesla T4") == 2
    assert re.search(rf"{USED_BYTES / MIB:.1f}MiB / {TOTAL_BYTES // MIB}MiB", text)
    assert re.search(rf"^\|\s+0\s+{holder.pid} C\s+\S+\s+{USED_BYTES / MIB:.1f}MiB\s", text, re.MULTILINE)


def test_nvitop_api_reads_every_column(machine: Machine) -> None:
    with machine.hold(HELD_BYTES) as holder:
        result = machine.nvml(
            """
import nvitop
gpu = nvitop.Device(0)
processes = gpu.processes()
result = [gpu.name(), gpu.memory_total(), gpu.memory_used(), gpu.power_limit(), gpu.compute_mode(),
          gpu.persistence_mode(), gpu.total_volatile_uncorrected_ecc_errors(), str(gpu.fan_speed()),
          gpu.cuda_compute_capability(),
          [[pid, process.gpu_memory(), process.type] for pid, process in processes.items()]]
"""
        )
    assert result == [
        "Tesla T4", TOTAL_BYTES, USED_BYTES, POWER_LIMIT_MW, "Default", "Enabled", 0, "N/A", [7, 5],
        [[holder.pid, USED_BYTES, "C"]],
    ]  # fmt: skip

"""NVIDIA's real nvidia-smi, of three driver branches, on the simulated NVML."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest

from tests.native import debian_nvidia
from tests.native.sim_machine import (
    CONTEXT_BYTES,
    MIB,
    RESERVED_BYTES,
    TOTAL_BYTES,
    Machine,
    build_holder,
    make_machine,
)

HELD_BYTES = 500 * MIB
USED_MIB = (CONTEXT_BYTES + HELD_BYTES) // MIB
TOTAL_MIB = TOTAL_BYTES // MIB
RESERVED_MIB = RESERVED_BYTES // MIB


class NvidiaSmi:
    """One version of nvidia-smi on one machine whose driver has the same version."""

    def __init__(self, machine: Machine, root: Path) -> None:
        self.machine = machine
        self.version = debian_nvidia.version(root)
        self.program = debian_nvidia.nvidia_smi(root)

    def __call__(self, *arguments: str, **environment: str) -> str:
        done = self.machine.run(self.program, *arguments, **{"CGPU_SIM_DRIVER": self.version} | environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def table(self, query: str, **environment: str) -> list[list[str]]:
        """Rows of a --query-... option, without header."""
        text = self(query, "--format=csv,noheader,nounits", **environment)
        return list(csv.reader(text.splitlines(), skipinitialspace=True))


@pytest.fixture(scope="session")
def holder_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_holder(tmp_path_factory.mktemp("holder"))


@pytest.fixture(params=debian_nvidia.SUITES)
def smi(request: pytest.FixtureRequest, holder_program: Path, tmp_path: Path) -> NvidiaSmi:
    root = debian_nvidia.fetch(request.param)
    if root is None:
        pytest.skip(f"nvidia-smi of Debian {request.param} is not to be had here (archive changed, or no network)")
    return NvidiaSmi(make_machine(tmp_path, holder_program), root)


def test_at_least_one_version_is_had() -> None:
    had = [suite for suite in debian_nvidia.SUITES if debian_nvidia.fetch(suite)]
    if not had and os.environ.get("CI") != "true":
        pytest.skip("no nvidia-smi is to be had here (no Debian archive, or no network)")
    assert had


def test_default_view_shows_cards_and_processes(smi: NvidiaSmi) -> None:
    with smi.machine.hold(HELD_BYTES, environment={"CGPU_SIM_DRIVER": smi.version}) as holder:
        text = smi()
    assert f"NVIDIA-SMI {smi.version}" in text
    assert f"Driver Version: {smi.version}" in text
    assert text.count("Tesla T4") == 2
    assert re.search(rf"\b{USED_MIB}MiB /\s+{TOTAL_MIB}MiB", text)
    assert re.search(rf"\b0MiB /\s+{TOTAL_MIB}MiB", text)
    rows = re.findall(r"^\|\s+(\d+)\s+N/A\s+N/A\s+(\d+)\s+(\S+)\s+(\S+)\s+(\d+)MiB \|$", text, re.MULTILINE)
    assert [(gpu, int(pid), kind, int(used)) for gpu, pid, kind, _, used in rows] == [("0", holder.pid, "C", USED_MIB)]
    assert rows[0][3].endswith("sim_holder")


def test_default_view_of_idle_cards_lists_nobody(smi: NvidiaSmi) -> None:
    assert "No running processes found" in smi()


def test_query_tells_all_about_a_card(smi: NvidiaSmi) -> None:
    with smi.machine.hold(HELD_BYTES, environment={"CGPU_SIM_DRIVER": smi.version}) as holder:
        text = smi("-q", "-i", "0")
    values = dict(re.findall(r"^\s+(\S.*?)\s+: (.*)$", text, re.MULTILINE))
    memory = text[text.index("FB Memory Usage") :].splitlines()[1:5]
    assert [line.split(":")[1].strip() for line in memory] == [
        f"{TOTAL_MIB} MiB", f"{RESERVED_MIB} MiB", f"{USED_MIB} MiB", f"{TOTAL_MIB - RESERVED_MIB - USED_MIB} MiB",
    ]  # fmt: skip
    assert values["Product Name"] == "Tesla T4"
    assert values["VBIOS Version"] == "simulated"
    assert values["Process ID"] == str(holder.pid)
    assert values["Used GPU Memory"] == f"{USED_MIB} MiB"
    assert "Unknown Error" not in text


def test_list_names_both_cards(smi: NvidiaSmi) -> None:
    uuids = smi.machine.nvml(
        "result = [nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)) for index in (0, 1)]",
        CGPU_SIM_DRIVER=smi.version,
    )
    assert smi("-L").splitlines() == [f"GPU {index}: Tesla T4 (UUID: {uuid})" for index, uuid in enumerate(uuids)]


def test_query_gpu_is_a_table(smi: NvidiaSmi) -> None:
    with smi.machine.hold(HELD_BYTES, environment={"CGPU_SIM_DRIVER": smi.version}):
        rows = smi.table(
            "--query-gpu=index,name,driver_version,memory.total,memory.used,pcie.link.gen.max,pstate,mig.mode.current"
        )
    common = ["Tesla T4", smi.version, str(TOTAL_MIB)]
    assert rows == [
        ["0", *common, str(USED_MIB), "3", "P0", "[N/A]"],
        ["1", *common, "0", "3", "P8", "[N/A]"],
    ]


def test_query_compute_apps_is_a_table(smi: NvidiaSmi) -> None:
    environment = {"CGPU_SIM_DRIVER": smi.version}
    with (
        smi.machine.hold(HELD_BYTES, environment=environment) as first,
        smi.machine.hold(card=1, environment=environment) as second,
    ):
        rows = smi.table("--query-compute-apps=pid,used_memory,process_name")
    assert [[int(pid), int(used)] for pid, used, _ in rows] == [
        [first.pid, USED_MIB], [second.pid, CONTEXT_BYTES // MIB],
    ]  # fmt: skip
    assert {Path(name).name for _, _, name in rows} == {"sim_holder"}


def test_memory_limit_of_a_cgroup_is_shown_as_the_card(smi: NvidiaSmi) -> None:
    inside = {"CGPU_SIM_DRIVER": "615.71.09", "CGPU_SIM_CGROUP": "/tenant-7"}
    code = smi.machine.nvml(
        f"""
import ctypes
class Limits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("soft", ctypes.c_ulonglong), ("hard", ctypes.c_ulonglong)]
result = nvml.nvmlLib.nvmlDeviceSetMemoryLimits_v1(device, ctypes.byref(Limits(b"/tenant-7", 0, {1000 * MIB})))
""",
        CGPU_SIM_DRIVER="615.71.09",
    )
    assert code == 0
    with smi.machine.hold(HELD_BYTES, environment=inside):
        assert smi.table("--query-gpu=memory.total,memory.used", **inside)[0] == ["1000", str(USED_MIB)]
        assert re.search(rf"\b{USED_MIB}MiB /\s+1000MiB", smi(**inside))
        outside = {"CGPU_SIM_DRIVER": "615.71.09"}
        assert smi.table("--query-gpu=memory.total,memory.used", **outside)[0] == [str(TOTAL_MIB), str(USED_MIB)]

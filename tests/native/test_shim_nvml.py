"""A tenant's own view through NVML: what the shim makes of the simulated library's answers.

The tenant's region is written by the test, in the place of the agent and of the tenant's processes;
the processes themselves are real ones that hold contexts and memory of the card without the shim.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from cgpu.model.tenant import Gpu, Policy, Share, Tenant
from cgpu.region import layout
from cgpu.region.words import Account, Charge
from cgpu.region.writer import GrantsWriter, Owner, Row, create_region
from native import build
from tests.native import debian_nvidia
from tests.native.sim_machine import (
    CONTEXT_BYTES,
    MIB,
    PROLOGUE,
    RESERVED_BYTES,
    TOTAL_BYTES,
    Machine,
    build_holder,
    make_machine,
)

QUOTA_BYTES = 4096 * MIB
OVERHEAD_BYTES = 64 * MIB
CHARGED_BYTES = 300 * MIB
UTILISATION_PERCENT = 37


class TenantRegion:
    """The tenant's folder, with a process's slot filled in as its shim would."""

    def __init__(self, folder: Path, machine: Machine, cards: tuple[int, ...] = (0,)) -> None:
        self.folder = folder
        self.machine = machine
        uuids = machine.nvml(
            f"result = [nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(card)) for card in {list(cards)}]"
        )
        gpus = [
            Gpu(card, uuid, "Tesla T4", TOTAL_BYTES, "550.163.01", True)
            for card, uuid in zip(cards, uuids, strict=True)
        ]
        self.rows = tuple(Row(gpu, Share(gpu.uuid, QUOTA_BYTES), Policy.PREEMPTIVE, CONTEXT_BYTES) for gpu in gpus)
        self.tenant = Tenant("tenant-7", "seven", tuple(row.share for row in self.rows))
        create_region(folder, self.tenant, self.rows, Owner())
        self.measure(0, 0)

    def measure(self, overhead_bytes: int, utilisation_percent: int) -> None:
        with contextlib.closing(GrantsWriter(self.folder)) as writer:
            writer.set_measured(0, overhead_bytes, CONTEXT_BYTES)
            writer.set_utilisation(0, utilisation_percent)

    def resize(self, quota_bytes: int) -> None:
        share = Share(self.rows[0].share.gpu_uuid, quota_bytes)
        row = Row(self.rows[0].gpu, share, Policy.PREEMPTIVE, CONTEXT_BYTES)
        tenant = Tenant(self.tenant.id, self.tenant.name, (share,))
        with contextlib.closing(GrantsWriter(self.folder)) as writer:
            writer.set_intent(tenant, (row,))

    def usage(self) -> layout.Usage:
        return layout.Usage.from_buffer_copy((self.folder / "usage").read_bytes())

    def register(self, slot: int, pid: int, charged_bytes: int, inner_pid: int | None = None) -> None:
        """Fill a slot for a living process, and add what it holds to the tenant's account."""
        usage = self.usage()
        units = charged_bytes // layout.CGPU_UNIT_BYTES
        own = usage.slot[slot]
        own.header.state = layout.CGPU_SLOT_LIVE
        own.header.pid = pid if inner_pid is None else inner_pid
        own.header.start_ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        own.header.pid_namespace = Path(f"/proc/{pid}/ns/pid").stat().st_ino
        own.gpu[0].charge = Charge(units, 1).pack()
        own.gpu[0].contexts = 1
        account = Account.unpack(usage.gpu[0].account)
        usage.gpu[0].account = Account(account.used_units + units, slot, 1).pack()
        usage.header.slots_seen = max(usage.header.slots_seen, slot + 1)
        (self.folder / "usage").write_bytes(bytes(usage))

    def nvml(self, script: str, **environment: str) -> Any:
        """As Machine.nvml, of a process of the tenant's."""
        return self.machine.nvml(script, **self.environment(**environment))

    def environment(self, **more: str) -> dict[str, str]:
        shim = self.machine.libraries.parent / "libcgpu.so"
        return {"CGPU_REGION": str(self.folder), "LD_PRELOAD": str(shim), **more}


@pytest.fixture(scope="session")
def holder_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_holder(tmp_path_factory.mktemp("holder"))


@pytest.fixture
def machine(holder_program: Path, tmp_path: Path) -> Machine:
    return make_machine(tmp_path, holder_program)


@pytest.fixture
def region(machine: Machine, tmp_path: Path) -> TenantRegion:
    return TenantRegion(tmp_path / "tenant", machine)


MEMORY = """
one, two = nvml.nvmlDeviceGetMemoryInfo(device), nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
result = [[one.total, one.used, one.free], [two.total, two.reserved, two.used, two.free]]
"""


def test_memory_is_the_share(region: TenantRegion) -> None:
    assert region.nvml(MEMORY) == [[QUOTA_BYTES, 0, QUOTA_BYTES], [QUOTA_BYTES, 0, 0, QUOTA_BYTES]]
    with region.machine.hold(size_bytes=1000 * MIB) as own, region.machine.hold(size_bytes=2000 * MIB):
        region.register(0, own.pid, CHARGED_BYTES)
        region.measure(OVERHEAD_BYTES, 0)
        used = CHARGED_BYTES + OVERHEAD_BYTES
        free = QUOTA_BYTES - used
        assert region.nvml(MEMORY) == [[QUOTA_BYTES, used, free], [QUOTA_BYTES, 0, used, free]]


def test_quota_cut_below_what_is_used_leaves_nothing_free(region: TenantRegion) -> None:
    with region.machine.hold() as own:
        region.register(0, own.pid, CHARGED_BYTES)
        region.resize(100 * MIB)
        assert region.nvml(MEMORY) == [[100 * MIB, CHARGED_BYTES, 0], [100 * MIB, 0, CHARGED_BYTES, 0]]


def test_errors_of_the_library_stand(region: TenantRegion) -> None:
    assert region.nvml(
        """
import ctypes
memory = nvml.c_nvmlMemory_v2_t()
memory.version = 77
version = nvml.nvmlLib.nvmlDeviceGetMemoryInfo_v2(device, ctypes.byref(memory))
null = nvml.nvmlLib.nvmlDeviceGetMemoryInfo(device, None)
nvml.nvmlShutdown()
result = [version, null, error(nvml.nvmlDeviceGetMemoryInfo, device)]
"""
    ) == [pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH, pynvml.NVML_ERROR_INVALID_ARGUMENT, "Uninitialized"]


EVERYTHING = """
result = []
for index in range(nvml.nvmlDeviceGetCount()):
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    result.append([memory.total, memory.used, nvml.nvmlDeviceGetUtilizationRates(device).gpu > 0,
                   [[row.pid, row.usedGpuMemory] for row in nvml.nvmlDeviceGetComputeRunningProcesses(device)],
                   error(nvml.nvmlDeviceGetProcessUtilization, device, 0)])
"""


def test_a_process_that_is_no_tenant_sees_the_card(region: TenantRegion) -> None:
    shim = region.environment()["LD_PRELOAD"]
    with region.machine.hold(CHARGED_BYTES) as holder:
        holder.keep_busy()
        seen = region.machine.nvml(EVERYTHING, LD_PRELOAD=shim)
        assert seen == region.machine.nvml(EVERYTHING)
        held = CONTEXT_BYTES + CHARGED_BYTES
        assert seen[0] == [TOTAL_BYTES, RESERVED_BYTES + held, True, [[holder.pid, held]], None]


def test_a_card_outside_the_region_is_not_touched(region: TenantRegion) -> None:
    with region.machine.hold(CHARGED_BYTES, card=1):
        assert region.nvml(EVERYTHING)[1] == region.machine.nvml(EVERYTHING)[1]


@pytest.mark.parametrize("version", ["", "_v2", "_v3"])
def test_only_own_processes_are_listed_with_their_charges(region: TenantRegion, version: str) -> None:
    with region.machine.hold() as first, region.machine.hold() as second, region.machine.hold():
        region.register(0, first.pid, CHARGED_BYTES)
        region.register(3, second.pid, CHARGED_BYTES // 2)
        result = region.nvml(
            f"""
def rows(name):
    rows = getattr(nvml, "nvmlDeviceGet" + name + "RunningProcesses{version}")(device)
    return sorted([row.pid, row.usedGpuMemory] for row in rows)
result = [rows(name) for name in ("Compute", "Graphics", "MPSCompute")]
"""
        )
    assert result == [sorted([[first.pid, CHARGED_BYTES], [second.pid, CHARGED_BYTES // 2]]), [], []]


def test_too_little_room_is_told_with_the_own_number(region: TenantRegion) -> None:
    with contextlib.ExitStack() as stack:
        for slot in range(2):
            region.register(slot, stack.enter_context(region.machine.hold()).pid, CHARGED_BYTES)
        stack.enter_context(region.machine.hold())
        assert region.nvml(
            """
import ctypes
count, rows = ctypes.c_uint(1), (nvml.c_nvmlProcessInfo_v2_t * 1)()
code = nvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), rows)
result = [code, count.value]
"""
        ) == [pynvml.NVML_ERROR_INSUFFICIENT_SIZE, 2]


def test_detail_list_has_own_processes(region: TenantRegion) -> None:
    with region.machine.hold() as own, region.machine.hold():
        region.register(0, own.pid, CHARGED_BYTES)
        result = region.nvml(
            """
def list_of(mode):
    rows = nvml.nvmlDeviceGetRunningProcessDetailList(device, 1 << 24 | 24, mode)
    return [[row.pid, row.usedGpuMemory] for row in rows]
result = [list_of(mode) for mode in (0, 1, 2, 3)]
"""
        )
    assert result == [[[own.pid, CHARGED_BYTES]], [], [], [[own.pid, CHARGED_BYTES]]]


COMPUTE_PIDS = "result = [row.pid for row in nvml.nvmlDeviceGetComputeRunningProcesses(device)]"


def test_process_that_the_driver_does_not_list_is_known_from_its_slot(region: TenantRegion) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as own:
        region.register(0, own.pid, CHARGED_BYTES)
        assert region.nvml(COMPUTE_PIDS) == [own.pid]
        assert own.stdin
        own.stdin.close()
        own.wait()
        assert region.nvml(COMPUTE_PIDS) == []


def test_zombie_and_reused_pid_are_not_listed(region: TenantRegion) -> None:
    with region.machine.hold() as own:
        region.register(0, own.pid, CHARGED_BYTES)
        usage = region.usage()
        usage.slot[0].header.start_ticks += 1  # of a process that had the pid before
        (region.folder / "usage").write_bytes(bytes(usage))
        assert region.nvml(COMPUTE_PIDS) == []
        region.register(0, own.pid, CHARGED_BYTES)
        assert region.nvml(COMPUTE_PIDS) == [own.pid]
        own.process.kill()
        os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until waited for
        assert region.nvml(COMPUTE_PIDS) == []


def test_process_of_a_namespace_below_is_known_by_the_callers_pid(region: TenantRegion) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True).returncode != 0:
        pytest.skip("no right to make a PID namespace here")
    command = [unshare, "--pid", "--fork", "--kill-child", str(region.machine.holder), "0", "0"]
    with subprocess.Popen(
        command, env=region.machine.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as inside:
        assert inside.stdout
        assert inside.stdout.readline() == "ready\n"
        pid = int(Path(f"/proc/{inside.pid}/task/{inside.pid}/children").read_text())
        region.register(0, pid, CHARGED_BYTES, inner_pid=1)
        with region.machine.hold():
            assert region.nvml(COMPUTE_PIDS) == [pid]
        assert inside.stdin
        inside.stdin.close()


def test_utilisation_is_the_tenants(region: TenantRegion) -> None:
    region.measure(0, UTILISATION_PERCENT)
    with region.machine.hold() as other:
        other.keep_busy()
        result = region.nvml(
            """
pstates = nvml.nvmlDeviceGetDynamicPstatesInfo(device)
samples = nvml.nvmlDeviceGetSamples(device, nvml.NVML_GPU_UTILIZATION_SAMPLES, 0)[1]
result = [nvml.nvmlDeviceGetUtilizationRates(device).gpu, nvml.nvmlDeviceGetUtilizationRates(device).memory,
          pstates.utilization[0].percentage,
          [sample.sampleValue.uiVal for sample in samples]]
"""
        )
    assert result == [UTILISATION_PERCENT, 0, UTILISATION_PERCENT, [UTILISATION_PERCENT]]


def test_utilisation_by_process_is_of_own_processes(region: TenantRegion) -> None:
    script = """
import ctypes
def old():
    return [sample.pid for sample in nvml.nvmlDeviceGetProcessUtilization(device, 0)]
def new():
    rows = (nvml.c_nvmlProcessUtilizationInfo_v1_t * 8)()
    info = nvml.c_nvmlProcessesUtilizationInfo_v1_t(nvml.ProcessesUtilizationInfo_v1, 8, 0, rows)
    nvml._nvmlCheckReturn(nvml.nvmlLib.nvmlDeviceGetProcessesUtilizationInfo(device, ctypes.byref(info)))
    return [row.pid for row in rows[: info.processSamplesCount]]
result = [error(old) or old(), error(new) or new()]
"""
    with region.machine.hold() as own, region.machine.hold() as other:
        region.register(0, own.pid, CHARGED_BYTES)
        other.keep_busy()
        assert region.nvml(script) == ["NotFound", "NotFound"]
        own.keep_busy()
        assert region.nvml(script) == [[own.pid], [own.pid]]


def test_what_tells_of_the_card_or_changes_limits_is_refused(region: TenantRegion) -> None:
    assert region.nvml(
        """
import ctypes
memory = nvml.c_nvmlMemory_t()
result = [nvml.nvmlLib.nvmlDeviceSetMemoryLimits_v1(device, None), nvml.nvmlLib.nvmlGpmSampleGet(device, None),
          nvml.nvmlLib.nvmlDeviceGetConfComputeProtectedMemoryUsage(device, ctypes.byref(memory)),
          nvml.nvmlLib.nvmlDeviceGetAccountingStats(device, 1, None)]
""",
        CGPU_SIM_DRIVER="615.71.09",
    ) == [
        pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NOT_FOUND,
    ]  # fmt: skip


def nvml_rows() -> list[str]:
    """The functions of nvml_hooks.def."""
    text = (build.NATIVE / "include" / "nvml_hooks.def").read_text()
    return re.findall(r"^CG_NVML\(\s*\d+,\s*(\w+)", text, flags=re.MULTILINE)


def test_every_row_is_exported_and_fails_closed_without_a_usable_region(region: TenantRegion) -> None:
    (region.folder / "grants").write_bytes(b"not a region")
    names = nvml_rows()
    assert len(names) == len(set(names)) > 20
    answers = region.nvml(
        f"result = {{name: getattr(nvml.nvmlLib, name)(device, *[None] * 6) for name in {names!r}}}\n"
        "result['name'] = nvml.nvmlDeviceGetName(device)"
    )
    assert answers.pop("name") == "Tesla T4"
    assert answers == dict.fromkeys(names, pynvml.NVML_ERROR_UNKNOWN)


def test_the_cause_is_said_once(region: TenantRegion) -> None:
    (region.folder / "grants").write_bytes(b"not a region")
    ask = "nvml.nvmlLib.nvmlDeviceGetMemoryInfo(device, None)\n" * 3
    done = region.machine.run(sys.executable, "-c", PROLOGUE + ask, **region.environment())
    assert done.stdout == ""
    assert len(re.findall(r"^cgpu: .*grants", done.stderr, re.MULTILINE)) == 1


def test_looking_on_takes_no_slot(region: TenantRegion) -> None:
    assert region.nvml(MEMORY)[0][0] == QUOTA_BYTES
    assert region.usage().header.slots_seen == 0


def test_a_directly_linked_program_sees_the_share(region: TenantRegion, c_program: Any) -> None:
    program = c_program(
        "linked",
        """
#include <stdio.h>
#include <nvml.h>
int main(void) {
  nvmlDevice_t device;
  nvmlMemory_t memory;
  if (nvmlInit() || nvmlDeviceGetHandleByIndex(0, &device) || nvmlDeviceGetMemoryInfo(device, &memory)) return 1;
  printf("%llu\\n", memory.total);
  return 0;
}
""",
        libraries=[f"-L{region.machine.libraries}", "-l:libnvidia-ml.so.1"],
    )
    assert region.machine.run(program, **region.environment()).stdout == f"{QUOTA_BYTES}\n"


def test_what_a_cuda_program_allocates_shows_in_its_own_view(region: TenantRegion) -> None:
    memory, processes, over = region.nvml(
        f"""
from cuda.bindings import driver as cuda
def ok(answer):
    assert answer[0] == cuda.CUresult.CUDA_SUCCESS, answer
    return answer[1] if len(answer) == 2 else answer[1:]
ok(cuda.cuInit(0))
ok(cuda.cuCtxSetCurrent(ok(cuda.cuDevicePrimaryCtxRetain(ok(cuda.cuDeviceGet(0))))))
ok(cuda.cuMemAlloc({CHARGED_BYTES}))
memory = nvml.nvmlDeviceGetMemoryInfo(device)
rows = nvml.nvmlDeviceGetComputeRunningProcesses(device)
result = [[memory.used, memory.free, ok(cuda.cuMemGetInfo())[0]],
          [[row.pid == os.getpid(), row.usedGpuMemory] for row in rows],
          int(cuda.cuMemAlloc({QUOTA_BYTES})[0])]
"""
    )
    used = CONTEXT_BYTES + CHARGED_BYTES
    assert memory == [used, QUOTA_BYTES - used, QUOTA_BYTES - used]
    assert processes == [[True, used]]
    assert over == 2  # CUDA_ERROR_OUT_OF_MEMORY


@pytest.fixture(params=debian_nvidia.SUITES)
def nvidia_smi(request: pytest.FixtureRequest) -> Path:
    root = debian_nvidia.fetch(request.param)
    if root is None:
        pytest.skip(f"nvidia-smi of Debian {request.param} is not to be had here (archive changed, or no network)")
    return debian_nvidia.nvidia_smi(root)


def test_nvidia_smi_shows_the_share_by_the_public_functions(region: TenantRegion, nvidia_smi: Path) -> None:
    region.measure(0, UTILISATION_PERCENT)
    with region.machine.hold(CHARGED_BYTES) as own, region.machine.hold(CHARGED_BYTES):
        region.register(0, own.pid, CHARGED_BYTES)
        query = region.machine.run(
            nvidia_smi, "-i", "0", "--query-gpu=memory.total,memory.used,memory.free,utilization.gpu",
            "--format=csv,noheader,nounits", **region.environment(),
        )  # fmt: skip
        assert query.returncode == 0, query.stdout
        mib = [size // MIB for size in (QUOTA_BYTES, CHARGED_BYTES, QUOTA_BYTES - CHARGED_BYTES)]
        assert [int(word) for word in query.stdout.split(",")] == [*mib, UTILISATION_PERCENT]
        view = region.machine.run(nvidia_smi, **region.environment())
        assert re.search(rf"\b{mib[1]}MiB /\s+{mib[0]}MiB \|\s+{UTILISATION_PERCENT}%", view.stdout)


def test_nvitop_shows_the_share(region: TenantRegion) -> None:
    with region.machine.hold() as own, region.machine.hold() as other:
        region.register(0, own.pid, CHARGED_BYTES)
        report = region.machine.run(
            sys.executable, "-m", "nvitop", "--once", "--ascii", "--only", "0", COLUMNS="120", **region.environment()
        )
    assert report.returncode == 0, report.stderr
    assert f"{CHARGED_BYTES / MIB:.1f}MiB / {QUOTA_BYTES // MIB}MiB" in report.stdout
    assert re.search(rf"\s{own.pid} C\s", report.stdout)
    assert not re.search(rf"\s{other.pid} C\s", report.stdout)


def test_the_rows_of_the_list_are_functions_of_the_library(machine: Machine) -> None:
    library = ctypes.CDLL(str(machine.libraries / "libnvidia-ml.so.1"))
    assert [name for name in nvml_rows() if not hasattr(library, name)] == []

"""The simulated libnvidia-ml: what it exports, and what it says about cards that are used by exact amounts."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from native import build
from tests.native.sim_machine import (
    CONTEXT_BYTES,
    MIB,
    POWER_LIMIT_MW,
    PROFILE,
    PROLOGUE,
    RESERVED_BYTES,
    TOTAL_BYTES,
    Machine,
    build_holder,
    make_machine,
)

HELD_BYTES = 500 * MIB


@pytest.fixture(scope="session")
def holder_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_holder(tmp_path_factory.mktemp("holder"))


@pytest.fixture
def machine(holder_program: Path, tmp_path: Path) -> Machine:
    return make_machine(tmp_path, holder_program)


def header_names() -> list[str]:
    """Every function of nvml.h."""
    text = (build.nvidia_include() / "nvml.h").read_text()
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    return sorted({*re.findall(r"DECLDIR\s+(nvml\w+)\s*\(", text), "nvmlErrorString", "nvmlInternalGetExportTable"})


def binding_names() -> list[str]:
    """Every function that nvidia-ml-py looks up."""
    return sorted(set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', Path(pynvml.__file__).read_text())))


@pytest.mark.parametrize("names", [header_names(), binding_names()], ids=["nvml.h", "nvidia-ml-py"])
def test_exports_every_name(names: list[str], native: Path) -> None:
    library = ctypes.CDLL(str(native / "sim" / "libnvidia-ml.so.1"))
    assert len(names) > 300
    assert [name for name in names if not hasattr(library, name)] == []


def test_every_name_answers_uninitialized_before_init(native: Path) -> None:
    library = ctypes.CDLL(str(native / "sim" / "libnvidia-ml.so.1"))
    no_state = {"nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags", "nvmlErrorString", "nvmlInternalGetExportTable"}
    answers = {name: getattr(library, name)(*[None] * 6) for name in header_names() if name not in no_state}
    allowed = {pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_INVALID_ARGUMENT}
    assert {name: answer for name, answer in answers.items() if answer not in allowed} == {}


def test_null_for_every_pointer_is_refused(machine: Machine) -> None:
    """Functions of a device get one, all others nothing but zeros; none may crash or claim success."""
    names = [name for name in header_names() if not name.startswith(("nvmlInit", "nvmlShutdown", "nvmlErrorString"))]
    succeeded = machine.nvml(
        f"""
result = []
for name in {names!r}:
    first = device if name.startswith("nvmlDevice") and "GetCount" not in name else None
    if getattr(nvml.nvmlLib, name)(first, None, None, None, None, None) == 0:
        result.append(name)
"""
    )
    assert succeeded == []


def test_identity_is_the_profiles(machine: Machine) -> None:
    result = machine.nvml(
        """
pci = nvml.nvmlDeviceGetPciInfo(device)
result = [nvml.nvmlDeviceGetCount(), nvml.nvmlDeviceGetName(device), nvml.nvmlDeviceGetIndex(device),
          nvml.nvmlSystemGetDriverVersion(), nvml.nvmlSystemGetCudaDriverVersion(), nvml.nvmlSystemGetNVMLVersion(),
          list(nvml.nvmlDeviceGetCudaComputeCapability(device)), nvml.nvmlDeviceGetArchitecture(device),
          nvml.nvmlDeviceGetNumGpuCores(device), nvml.nvmlDeviceGetMemoryBusWidth(device), pci.busId]
"""
    )
    assert result == [
        2, "Tesla T4", 0, "550.163.01", 12040, "12.550.163.01", [7, 5], pynvml.NVML_DEVICE_ARCH_TURING, 2560, 256,
        "00000000:3B:00.0",
    ]  # fmt: skip


def test_each_handle_is_found_again_by_each_of_its_names(machine: Machine) -> None:
    result = machine.nvml(
        """
result = []
for index in range(nvml.nvmlDeviceGetCount()):
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, serial = nvml.nvmlDeviceGetUUID(device), nvml.nvmlDeviceGetSerial(device)
    bus = nvml.nvmlDeviceGetPciInfo(device).busId
    again = [nvml.nvmlDeviceGetHandleByUUID(uuid), nvml.nvmlDeviceGetHandleBySerial(serial),
             nvml.nvmlDeviceGetHandleByPciBusId(bus), nvml.nvmlDeviceGetHandleByPciBusId(bus[4:])]
    result.append([uuid, [nvml.nvmlDeviceGetIndex(found) for found in again]])
"""
    )
    uuids = [uuid for uuid, _ in result]
    assert [found for _, found in result] == [[0] * 4, [1] * 4]
    assert len(set(uuids)) == len(uuids)
    assert all(re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid) for uuid in uuids)


def test_unknown_devices_are_refused(machine: Machine) -> None:
    assert machine.nvml(
        """
result = [error(nvml.nvmlDeviceGetHandleByIndex, 2), error(nvml.nvmlDeviceGetHandleByUUID, "GPU-0"),
          error(nvml.nvmlDeviceGetHandleByPciBusId, "0000:ff:00.0"), error(nvml.nvmlDeviceGetName, None)]
"""
    ) == ["InvalidArgument", "NotFound", "NotFound", "InvalidArgument"]


def test_init_is_counted(machine: Machine) -> None:
    assert machine.nvml(
        """
nvml.nvmlInit()
nvml.nvmlShutdown()
result = [nvml.nvmlDeviceGetIndex(device)]
nvml.nvmlShutdown()
result += [error(nvml.nvmlDeviceGetIndex, device), error(nvml.nvmlShutdown)]
"""
    ) == [0, "Uninitialized", "Uninitialized"]


def test_without_a_machine_the_driver_is_not_loaded(machine: Machine) -> None:
    done = machine.run(
        "python3", "-c", "import ctypes; print(ctypes.CDLL('libnvidia-ml.so.1').nvmlInit_v2())", CGPU_SIM_STATE=""
    )
    assert done.stdout == f"{pynvml.NVML_ERROR_DRIVER_NOT_LOADED}\n"


def test_memory_is_what_processes_hold(machine: Machine) -> None:
    script = """
one, two = nvml.nvmlDeviceGetMemoryInfo(device), nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
result = [one.total, one.used, one.free, two.total, two.reserved, two.used, two.free]
"""
    empty = [TOTAL_BYTES, RESERVED_BYTES, TOTAL_BYTES - RESERVED_BYTES]
    assert machine.nvml(script) == [*empty, TOTAL_BYTES, RESERVED_BYTES, 0, TOTAL_BYTES - RESERVED_BYTES]
    with machine.hold(HELD_BYTES):
        held = CONTEXT_BYTES + HELD_BYTES
        free = TOTAL_BYTES - RESERVED_BYTES - held
        assert machine.nvml(script) == [
            TOTAL_BYTES, RESERVED_BYTES + held, free, TOTAL_BYTES, RESERVED_BYTES, held, free,
        ]  # fmt: skip
    assert machine.nvml(script)[1] == RESERVED_BYTES


@pytest.mark.parametrize("version", ["", "_v2", "_v3"])
def test_compute_processes_are_listed_with_their_memory(machine: Machine, version: str) -> None:
    script = f"""
rows = nvml.nvmlDeviceGetComputeRunningProcesses{version}(device)
result = [[[row.pid, row.usedGpuMemory] for row in rows],
          [len(nvml.nvmlDeviceGetGraphicsRunningProcesses{version}(device)),
           len(nvml.nvmlDeviceGetMPSComputeRunningProcesses{version}(device))]]
"""
    assert machine.nvml(script) == [[], [0, 0]]
    with machine.hold() as first, machine.hold(HELD_BYTES) as second, machine.hold(card=1):
        expected = sorted([[first.pid, CONTEXT_BYTES], [second.pid, CONTEXT_BYTES + HELD_BYTES]])
        assert machine.nvml(script) == [expected, [0, 0]]
    assert machine.nvml(script)[0] == []


def test_detail_list_has_the_modes(machine: Machine) -> None:
    with machine.hold(HELD_BYTES) as holder:
        result = machine.nvml(
            """
def list_of(mode):
    rows = nvml.nvmlDeviceGetRunningProcessDetailList(device, 1 << 24 | 24, mode)
    return [[row.pid, row.usedGpuMemory] for row in rows]
result = [list_of(mode) for mode in (0, 1, 2, 3)]
"""
        )
    row = [holder.pid, CONTEXT_BYTES + HELD_BYTES]
    assert result == [[row], [], [], [row]]


def test_list_tells_the_number_when_the_room_is_too_small(machine: Machine) -> None:
    with machine.hold(), machine.hold():
        assert machine.nvml(
            """
import ctypes
count, rows = ctypes.c_uint(1), (nvml.c_nvmlProcessInfo_v2_t * 1)()
code = nvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), rows)
result = [code, count.value]
"""
        ) == [pynvml.NVML_ERROR_INSUFFICIENT_SIZE, 2]


def test_killed_process_is_gone_from_the_list(machine: Machine) -> None:
    with machine.hold(HELD_BYTES) as holder:
        holder.process.kill()
        holder.process.wait()
        assert machine.nvml(
            """
result = [len(nvml.nvmlDeviceGetComputeRunningProcesses(device)), nvml.nvmlDeviceGetMemoryInfo(device).used]
"""
        ) == [0, RESERVED_BYTES]


def test_load_follows_the_work(machine: Machine) -> None:
    script = """
result = [nvml.nvmlDeviceGetUtilizationRates(device).gpu, nvml.nvmlDeviceGetPowerUsage(device),
          nvml.nvmlDeviceGetTemperature(device, 0), nvml.nvmlDeviceGetPerformanceState(device),
          nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)]
"""
    limit_mw = machine.nvml("result = nvml.nvmlDeviceGetPowerManagementLimit(device)")
    idle = machine.nvml(script)
    assert [idle[0], idle[3]] == [0, pynvml.NVML_PSTATE_8]
    with machine.hold() as holder:
        holder.order("kernel 1100")  # longer than the window over which NVML looks back
        holder.keep_busy()
        busy = machine.nvml(script)
    assert busy[0] > 50
    assert idle[1] < busy[1] <= limit_mw == POWER_LIMIT_MW
    assert idle[2] < busy[2]
    assert [busy[3], busy[4]] == [pynvml.NVML_PSTATE_0, 1590]
    assert idle[4] < busy[4]


def test_each_process_has_its_own_utilisation(machine: Machine) -> None:
    with machine.hold() as busy, machine.hold():
        busy.keep_busy()
        pids, unseen = machine.nvml(
            """
samples = nvml.nvmlDeviceGetProcessUtilization(device, 0)
now = samples[0].timeStamp
result = [[[sample.pid, sample.smUtil > 0] for sample in samples],
          error(nvml.nvmlDeviceGetProcessUtilization, device, now + 3600_000_000)]
"""
        )
    assert pids == [[busy.pid, True]]
    assert unseen == "NotFound"


@pytest.fixture
def unshare() -> list[str]:
    """The words that start a program in a PID namespace of its own."""
    words = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        pytest.skip("no right to make a PID namespace here")
    return words


def test_processes_outside_the_callers_pid_namespace_are_not_listed(machine: Machine, unshare: list[str]) -> None:
    ask = f"""{PROLOGUE}
print(len(nvml.nvmlDeviceGetComputeRunningProcesses(device)), nvml.nvmlDeviceGetMemoryInfo(device).used)
"""
    with machine.hold(HELD_BYTES):
        inside = machine.run(*unshare, sys.executable, "-c", ask)
    assert inside.stdout.split() == ["0", str(RESERVED_BYTES + CONTEXT_BYTES + HELD_BYTES)]


def test_equal_pids_of_two_namespaces_are_two_processes(machine: Machine, unshare: list[str]) -> None:
    with machine.hold(wrapper=unshare) as busy, machine.hold(wrapper=unshare) as idle:
        busy.keep_busy()
        pids = {
            holder: int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()) for holder in (busy, idle)
        }
        listed, sampled = machine.nvml(
            """
result = [[row.pid for row in nvml.nvmlDeviceGetComputeRunningProcesses(device)],
          [sample.pid for sample in nvml.nvmlDeviceGetProcessUtilization(device, 0)]]
"""
        )
    assert listed == sorted(pids.values())
    assert sampled == [pids[busy]]


def test_idle_card_has_no_samples(machine: Machine) -> None:
    assert machine.nvml("result = error(nvml.nvmlDeviceGetProcessUtilization, device, 0)") == "NotFound"


def test_energy_grows_with_work(machine: Machine) -> None:
    script = "result = nvml.nvmlDeviceGetTotalEnergyConsumption(device)"
    before = machine.nvml(script)
    with machine.hold() as holder:
        holder.order("kernel 200")
        assert machine.nvml(script) - before > 0.2 * POWER_LIMIT_MW * 0.85


def test_modes_of_a_card_as_delivered(machine: Machine) -> None:
    assert machine.nvml(
        """
result = [nvml.nvmlDeviceGetPersistenceMode(device), nvml.nvmlDeviceGetComputeMode(device),
          nvml.nvmlDeviceGetEccMode(device), nvml.nvmlDeviceGetDisplayActive(device),
          nvml.nvmlDeviceGetTotalEccErrors(device, 1, 0), nvml.nvmlDeviceGetMaxPcieLinkGeneration(device),
          nvml.nvmlDeviceGetCurrPcieLinkWidth(device), error(nvml.nvmlDeviceGetMigMode, device),
          error(nvml.nvmlDeviceGetFanSpeed, device), error(nvml.nvmlDeviceSetPersistenceMode, device, 0)]
"""
    ) == [1, 0, [1, 1], 0, 0, 3, 16, "NotSupported", "NotSupported", "NotSupported"]


def test_modes_depend_on_the_kind_of_card(holder_program: Path, tmp_path: Path) -> None:
    script = "result = [error(nvml.nvmlDeviceGetEccMode, device), nvml.nvmlDeviceGetBrand(device)]"
    consumer = make_machine(tmp_path, holder_program, PROFILE.replace("Tesla T4", "NVIDIA GeForce RTX 2080"))
    assert consumer.nvml(script) == ["NotSupported", pynvml.NVML_BRAND_GEFORCE_RTX]
    (tmp_path / "other").mkdir()
    hopper = PROFILE.replace("Tesla T4", "NVIDIA H100 PCIe").replace(
        "cc_major = 7\ncc_minor = 5", "cc_major = 9\ncc_minor = 0"
    )
    hopper = hopper.replace("pcie_bytes_per_s = 12_", "pcie_bytes_per_s = 50_")
    data_centre = make_machine(tmp_path / "other", holder_program, hopper)
    assert data_centre.nvml(script) == [None, pynvml.NVML_BRAND_NVIDIA]
    assert data_centre.nvml(
        """
result = [nvml.nvmlDeviceGetMigMode(device), nvml.nvmlDeviceGetArchitecture(device),
          nvml.nvmlDeviceGetMaxPcieLinkGeneration(device)]
"""
    ) == [[0, 0], pynvml.NVML_DEVICE_ARCH_HOPPER, 5]


def test_slow_driver_makes_queries_slow(machine: Machine) -> None:
    with machine.hold() as holder:
        holder.order("slow 200000000")
        assert (
            machine.nvml(
                """
import time
start = time.monotonic()
nvml.nvmlDeviceGetName(device)
result = time.monotonic() - start
"""
            )
            >= 0.2
        )


def test_fields_answer_one_by_one(machine: Machine) -> None:
    assert machine.nvml(
        """
wanted = [nvml.NVML_FI_DEV_ECC_CURRENT, nvml.NVML_FI_DEV_POWER_CURRENT_LIMIT, nvml.NVML_FI_DEV_MEMORY_TEMP]
fields = nvml.nvmlDeviceGetFieldValues(device, wanted)
result = [[field.fieldId, field.nvmlReturn, field.value.uiVal] for field in fields]
"""
    ) == [[1, 0, 1], [190, 0, POWER_LIMIT_MW], [82, pynvml.NVML_ERROR_NOT_SUPPORTED, 0]]


def test_xid_reaches_the_event_set_of_its_card(machine: Machine) -> None:
    with machine.hold(card=1) as holder:
        holder.order("xid 13")
        assert machine.nvml(
            f"""
import subprocess
other = nvml.nvmlDeviceGetHandleByIndex(1)
events = nvml.nvmlEventSetCreate()
for each in (device, other):
    nvml.nvmlDeviceRegisterEvents(each, nvml.nvmlEventTypeXidCriticalError, events)
early = error(nvml.nvmlEventSetWait_v2, events, 0)
holder = [{str(machine.holder)!r}, "1", "0"]
subprocess.run(holder, input="xid 31\\nxid 94\\n", text=True, stdout=subprocess.DEVNULL, check=True)
seen = [nvml.nvmlEventSetWait_v2(events, 5000) for _ in range(2)]
result = [early, [[nvml.nvmlDeviceGetIndex(event.device), event.eventType, event.eventData] for event in seen],
          error(nvml.nvmlEventSetWait_v2, events, 1)]
nvml.nvmlEventSetFree(events)
"""
        ) == ["Timeout", [[1, 8, 31], [1, 8, 94]], "Timeout"]


def test_lost_card_says_so_and_its_neighbour_does_not(machine: Machine) -> None:
    script = "result = [error(nvml.nvmlDeviceGetHandleByIndex, 1), error(nvml.nvmlDeviceGetMemoryInfo, device)]"
    with machine.hold(card=1) as holder:
        holder.order("lost 1")
        assert machine.nvml(script) == ["GpuIsLost", None]
        holder.order("lost 0")
        assert machine.nvml(script) == [None, None]


def test_memory_limits_do_not_exist_before_driver_615(machine: Machine) -> None:
    assert (
        machine.nvml(
            """
import ctypes
class Limits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("soft", ctypes.c_ulonglong), ("hard", ctypes.c_ulonglong)]
result = nvml.nvmlLib.nvmlDeviceSetMemoryLimits_v1(device, ctypes.byref(Limits(b"/tenant", 0, 1 << 30)))
"""
        )
        == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    )


LIMITS = """
import ctypes
class SetLimits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("soft", ctypes.c_ulonglong), ("hard", ctypes.c_ulonglong)]
class GetLimits(ctypes.Structure):
    _fields_ = [*SetLimits._fields_, ("used", ctypes.c_ulonglong)]
def set_limits(name, soft, hard):
    return nvml.nvmlLib.nvmlDeviceSetMemoryLimits_v1(device, ctypes.byref(SetLimits(name, soft, hard)))
def get_limits(name):
    limits = GetLimits(name)
    code = nvml.nvmlLib.nvmlDeviceGetMemoryLimits_v1(device, ctypes.byref(limits))
    return [code, limits.soft, limits.hard, limits.used]
"""
NO_LIMIT = 2**64 - 1


def test_memory_limit_is_the_size_of_the_card_inside_its_cgroup(machine: Machine) -> None:
    limit, held = 1024 * MIB, CONTEXT_BYTES + HELD_BYTES
    driver = {"CGPU_SIM_DRIVER": "615.71.09"}
    inside = {**driver, "CGPU_SIM_CGROUP": "/tenant-7"}
    see = """
memory = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
result = [memory.total, memory.reserved, memory.used, memory.free]
"""
    setting = (
        f"{LIMITS}\nresult = [set_limits(b'/tenant-7', 0, {limit}), get_limits(b'/tenant-7'), get_limits(b'/other')]"
    )
    assert machine.nvml(setting, **driver) == [0, [0, 0, limit, 0], [0, 0, NO_LIMIT, 0]]
    with machine.hold(HELD_BYTES, environment=inside), machine.hold(environment=driver):
        assert machine.nvml(see, **inside) == [limit, 0, held, limit - held]
        assert machine.nvml(see, **driver)[0] == TOTAL_BYTES
        assert machine.nvml(f"{LIMITS}\nresult = get_limits(b'/tenant-7')", **driver) == [0, 0, limit, held]
    clear = f"{LIMITS}\nresult = [set_limits(b'/tenant-7', 0, {NO_LIMIT}), get_limits(b'/tenant-7')[2]]"
    assert machine.nvml(clear, **driver) == [0, NO_LIMIT]
    assert machine.nvml(see, **inside)[0] == TOTAL_BYTES


def test_wrong_memory_limits_are_refused(machine: Machine) -> None:
    invalid, system = pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_OPERATING_SYSTEM
    script = f"""{LIMITS}
result = [set_limits(b"/t", 2, 1), set_limits(b"/t", 0, {TOTAL_BYTES + 1}), set_limits(None, 0, 1),
          set_limits(b"/sys/fs/cgroup/is-not-there", 0, 1)]
"""
    assert machine.nvml(script, CGPU_SIM_DRIVER="615.71.09") == [invalid, invalid, invalid, system]


def test_forked_child_goes_on_asking(machine: Machine) -> None:
    assert (
        machine.nvml(
            """
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, nvml.nvmlDeviceGetName(device).encode())
    os._exit(0)
os.wait()
result = os.read(reader, 100).decode()
"""
        )
        == "Tesla T4"
    )

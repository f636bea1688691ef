"""Real clients under sanitizers: the shim and the simulated driver in one process with a program that uses them hard.

The thread sanitizer watches a C client of many threads, valgrind one that runs short and long, the address sanitizer
a Python client. Each is first shown to see a fault that is made for it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cgpu.region import layout
from tests.native.c_compiler import compile_c
from tests.native.call_count import valgrind
from tests.native.memory_tenant import MIB, SimulatedHost, TenantRegion
from tests.native.sanitized import Sanitized, build_sanitized
from tests.native.sim_machine import CONTEXT_BYTES
from tests.native.test_c_units import fixed_addresses

CLIENT = Path(__file__).with_name("clients") / "busy.c"
SUPPRESSIONS = Path(__file__).with_name("data") / "valgrind.supp"
QUOTA = 8192 * MIB
NEVER_NS = 1 << 62
SECONDS = 100
REPORT = 66  # the exit status of a sanitizer that has found something
ROUNDS = (6, 24)

PYTHON_CLIENT = """
import ctypes, sys, threading
ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
cu = ctypes.CDLL(None)
def check(result):
    assert result == 0, result
context, module, spin = (ctypes.c_void_p() for _ in range(3))
check(cu.cuInit(0))
check(cu.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
check(cu.cuCtxSetCurrent(context))
check(cu.cuModuleLoadData(ctypes.byref(module), b"cgpu-sim-module 1\\nspin\\n"))
check(cu.cuModuleGetFunction(ctypes.byref(spin), module, b"spin"))
host = (ctypes.c_char * 4096)()
def use():
    check(cu.cuCtxSetCurrent(context))
    for size in (8192, 1 << 20, 5 << 20) * 5:
        block, stream = ctypes.c_uint64(), ctypes.c_void_p()
        check(cu.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(size)))
        check(cu.cuMemcpyHtoD_v2(block, host, ctypes.c_size_t(int(sys.argv[1]))))
        check(cu.cuMemcpyDtoH_v2(host, block, ctypes.c_size_t(4096)))
        check(cu.cuStreamCreate(ctypes.byref(stream), 1))
        nanoseconds = ctypes.c_uint64(10000)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(nanoseconds))
        check(cu.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, arguments, None))
        check(cu.cuStreamSynchronize(stream))
        check(cu.cuStreamDestroy_v2(stream))
        check(cu.cuMemFree_v2(block))
threads = [threading.Thread(target=use) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("done")
"""


@pytest.fixture
def tenant(host: SimulatedHost) -> TenantRegion:
    return host.tenant("a", QUOTA)


def open_slot(tenant: TenantRegion) -> None:
    """An agent lives, and it is the tenant's turn for ever."""
    row = tenant.grants.gpu[0]
    row.policy, row.quantum_ns, row.grant_deadline_ns = 1, 10_000_000, NEVER_NS
    tenant.grants.header.heartbeat_ns = NEVER_NS
    row.grant = 1 << 2 | layout.CGPU_GRANT_OPEN


def run(
    host: SimulatedHost, tenant: TenantRegion, libraries: Path, *command: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = host.environment(tenant.folder, LD_LIBRARY_PATH=str(libraries / "sim"), **variables)
    return subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=SECONDS
    )


# ---- threads ----


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sanitized, Path]:
    folder = tmp_path_factory.mktemp("tsan")
    sanitized = build_sanitized(folder, "thread")
    driver = str(folder / "sim" / "libcuda.so.1")
    client = compile_c(
        folder / "busy", [CLIENT], flags=sanitized.flags, libraries=[driver], compiler=sanitized.compiler
    )
    return sanitized, client


def run_threads(
    host: SimulatedHost, tenant: TenantRegion, threads: tuple[Sanitized, Path], *words: str
) -> subprocess.CompletedProcess[str]:
    sanitized, client = threads
    return run(
        host, tenant, sanitized.folder, *fixed_addresses(), client, *words, LD_PRELOAD=sanitized.preload,
        TSAN_OPTIONS=f"exitcode={REPORT} halt_on_error=1 atexit_sleep_ms=0",
    )  # fmt: skip


def test_threads_do_not_race(host: SimulatedHost, tenant: TenantRegion, threads: tuple[Sanitized, Path]) -> None:
    result = run_threads(host, tenant, threads, "4", "4")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert tenant.usage()[0].peak_bytes > CONTEXT_BYTES, "it was no tenant"


def test_nor_do_they_in_a_slot(host: SimulatedHost, tenant: TenantRegion, threads: tuple[Sanitized, Path]) -> None:
    open_slot(tenant)
    result = run_threads(host, tenant, threads, "4", "4")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert tenant.usage()[1][0].gpus[0].launches > 0, "it had no gate"


def test_a_race_of_threads_would_be_seen(
    host: SimulatedHost, tenant: TenantRegion, threads: tuple[Sanitized, Path]
) -> None:
    result = run_threads(host, tenant, threads, "race", "0")
    assert result.returncode == REPORT, result.stderr
    assert "data race" in result.stderr
    assert "cuMemGetInfo" in result.stderr


# ---- memory of C clients ----


def memcheck(host: SimulatedHost, tenant: TenantRegion, client: Path, rounds: int) -> tuple[int, str]:
    """Bytes that are still reachable in the end, and valgrind's report; it must have found nothing."""
    result = run(
        host, tenant, host.native, valgrind(), "--leak-check=full", "--show-leak-kinds=all",
        "--errors-for-leak-kinds=definite", f"--suppressions={SUPPRESSIONS}", f"--error-exitcode={REPORT}",
        client, "1", str(rounds),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = re.search(r"still reachable: ([\d,]+) bytes", result.stderr)
    assert found, result.stderr
    return int(found[1].replace(",", "")), result.stderr


@pytest.mark.parametrize("gated", [False, True], ids=["free", "in a slot"])
def test_memory_is_in_order_and_does_not_grow(
    host: SimulatedHost, tenant: TenantRegion, native: Path, tmp_path: Path, gated: bool
) -> None:
    client = compile_c(tmp_path / "busy", [CLIENT], libraries=[str(native / "sim" / "libcuda.so.1")])
    if gated:
        open_slot(tenant)
    (short, _), (long, report) = (memcheck(host, tenant, client, rounds) for rounds in ROUNDS)
    # Records of streams are used again; with a gate, when one is free depends on the watcher's thread.
    assert (long - short) / (ROUNDS[1] - ROUNDS[0]) < (1024 if gated else 16), report


# ---- memory of Python clients ----


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Sanitized:
    return build_sanitized(tmp_path_factory.mktemp("asan"), "address")


def run_python(
    host: SimulatedHost, tenant: TenantRegion, addresses: Sanitized, copied_bytes: int
) -> subprocess.CompletedProcess[str]:
    return run(
        host, tenant, addresses.folder, sys.executable, "-c", PYTHON_CLIENT, str(copied_bytes),
        LD_PRELOAD=addresses.preload, PYTHONMALLOC="malloc",
        ASAN_OPTIONS=f"detect_leaks=0:exitcode={REPORT}",  # Python itself leaves much behind
    )  # fmt: skip


@pytest.mark.parametrize("gated", [False, True], ids=["free", "in a slot"])
def test_a_python_client_touches_nothing_foreign(
    host: SimulatedHost, tenant: TenantRegion, addresses: Sanitized, gated: bool
) -> None:
    if gated:
        open_slot(tenant)
    result = run_python(host, tenant, addresses, 4096)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", ""), result.stderr
    assert tenant.usage()[0].peak_bytes > CONTEXT_BYTES, "it was no tenant"


def test_a_copy_from_behind_its_buffer_would_be_seen(
    host: SimulatedHost, tenant: TenantRegion, addresses: Sanitized
) -> None:
    result = run_python(host, tenant, addresses, 4097)
    assert result.returncode == REPORT, result.stderr
    assert "heap-buffer-overflow" in result.stderr

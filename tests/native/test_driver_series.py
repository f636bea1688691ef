"""Every driver series from 460 to 620: a tenant is held to its share, and finds what the driver has, no more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from native import build
from tests.native import debian_nvidia, driver_series
from tests.native.c_compiler import compile_c
from tests.native.elf import SharedLibrary
from tests.native.memory_tenant import MIB, OUT_OF_MEMORY, SimulatedHost

CLIENT = Path(__file__).parent / "clients" / "series.c"
QUOTA_BYTES, OVER_BYTES, WITHIN_BYTES = 512 * MIB, 1024 * MIB, 256 * MIB
TIMEOUT_S = 60
SERIES = tuple(driver_series.series())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client series.c."""
    return compile_c(tmp_path_factory.mktemp("client") / "series", [CLIENT])


def run(command: Sequence[str], names: Sequence[str], environment: dict[str, str]) -> tuple[list[str], dict[str, int]]:
    """What the client found of the names, and its values."""
    done = subprocess.run(
        command, input="\n".join(names), env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    values = (line.rpartition(" ") for line in lines[len(names) :])
    return lines[: len(names)], {key: int(value) for key, _, value in values}


def exported(branch: int) -> set[str]:
    """What the libraries of a series are to export, of the names that the simulated driver has."""
    cuda, nvml, version = driver_series.cuda_since(), driver_series.nvml_since(), driver_series.series()[branch]
    of_cuda = set(SharedLibrary.read(build.DEFAULT_OUT / "sim" / "libcuda.so.1").exports)
    of_nvml = set(SharedLibrary.read(build.DEFAULT_OUT / "sim" / "libnvidia-ml.so.1").exports)
    return {name for name in of_cuda if cuda.get(name, 0) <= version} | {
        name for name in of_nvml if nvml.get(name, 0) <= branch
    }


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[SimulatedHost]]:
    """Machines that end with the test."""
    made: list[SimulatedHost] = []
    yield made
    for host in made:
        host.close()


@pytest.mark.parametrize("branch", SERIES)
def test_tenant_on_a_series(
    branch: int, tmp_path: Path, native: Path, client: Path, hosts: list[SimulatedHost]
) -> None:
    own = driver_series.make_native(tmp_path / "native", native, branch)
    host = SimulatedHost.create(tmp_path / "host", own, f"{branch}.10.01")
    hosts.append(host)
    tenant = host.tenant("a", QUOTA_BYTES)
    names = sorted({*driver_series.cuda_since(), *driver_series.nvml_since(), *build.hook_names(), "cuNoSuchName"})
    command = [str(client), str(OVER_BYTES), str(WITHIN_BYTES)]
    bare = host.environment(None)
    del bare["LD_PRELOAD"]

    alone, unlimited = run(command, names, bare)
    assert {line.split()[0] for line in alone if line.split()[1] == "1"} == exported(branch) & set(names)
    assert unlimited["over cuMemAlloc_v2"] == 0

    found, values = run(command, names, host.environment(tenant.folder))
    assert [pair for pair in zip(alone, found, strict=True) if pair[0] != pair[1]] == []
    assert values["over cuMemAlloc_v2"] == OUT_OF_MEMORY
    assert (values["total"], values["nvml_total"], values["nvml_processes"]) == (QUOTA_BYTES, QUOTA_BYTES, 1)
    assert WITHIN_BYTES < values["nvml_used"] <= QUOTA_BYTES
    results = {
        key: value for key, value in values.items() if key.startswith(("cu", "nvmlDevice", "nvmlInit", "within"))
    }
    # The last asks how many processes there are, and gives no room for them.
    assert {key: value for key, value in results.items() if value} == {"nvmlDeviceGetComputeRunningProcesses_v2": 7}


@pytest.mark.parametrize("suite", debian_nvidia.SUITES)
def test_names_of_a_series_are_the_drivers(suite: str) -> None:
    """Of the names that the simulated driver has, NVIDIA's own libraries export what their series is given here."""
    root = debian_nvidia.fetch(suite, ("libcuda1", "libnvidia-ml1"))
    if root is None:
        pytest.skip(f"NVIDIA's libraries of Debian {suite} are not to be had here (archive changed, or no network)")
    branch = int(debian_nvidia.version(root).split(".")[0])
    theirs = {
        name
        for library in (debian_nvidia.libcuda(root), debian_nvidia.libnvidia_ml(root))
        for name in SharedLibrary.read(library).exports
    }
    simulated = {
        name
        for library in ("libcuda.so.1", "libnvidia-ml.so.1")
        for name in SharedLibrary.read(build.DEFAULT_OUT / "sim" / library).exports
    }
    assert exported(branch) == theirs & simulated

"""Whose a process is when its variables are gone, and that a namespace of the loader's own is no way out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native.c_compiler import compile_c
from tests.native.memory_tenant import MIB, SimulatedHost

QUOTA = 400 * MIB
ASKED = 600 * MIB
OUT_OF_MEMORY, NOT_OPENED = 2, -1


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).parents[2] / "bench" / "clients" / "escapes.c"
    return compile_c(tmp_path_factory.mktemp("client") / "client", [source], libraries=["-pthread"])


def answer(client: Path, way: str, environment: dict[str, str]) -> tuple[int, str]:
    """The driver's answer, and standard error."""
    result = subprocess.run(
        [client, way, str(ASKED)], env=environment, capture_output=True, text=True, timeout=60, check=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return int(result.stdout), result.stderr


@pytest.fixture
def through(host: SimulatedHost, native: Path) -> dict[str, str]:
    """The environment of a tenant that only the library's path names."""
    (host.folder / "lib").mkdir()
    shutil.copy(native / "libcgpu.so", host.folder / "lib")
    folder = host.tenant("a", QUOTA).folder
    return host.environment(None, LD_PRELOAD=f"{folder}/../../lib/libcgpu.so")


@pytest.mark.parametrize("variables", [{}, {"CGPU_REGION": "/tmp"}, {"CGPU_REGION": ""}])
def test_the_path_of_the_library_names_the_tenant(
    client: Path, through: dict[str, str], variables: dict[str, str]
) -> None:
    assert answer(client, "plain", through | variables) == (OUT_OF_MEMORY, "")


def test_a_library_elsewhere_leaves_it_to_the_variable(client: Path, host: SimulatedHost) -> None:
    assert answer(client, "plain", host.environment(None)) == (0, "")
    region = host.tenant("b", QUOTA).folder
    assert answer(client, "plain", host.environment(region)) == (OUT_OF_MEMORY, "")


@pytest.mark.parametrize("folder", ["tenant", "broken"])
def test_a_tenant_opens_no_namespace_and_is_told(client: Path, host: SimulatedHost, folder: str) -> None:
    region = host.tenant("a", QUOTA).folder if folder == "tenant" else host.folder / "none"
    result, said = answer(client, "dlmopen", host.environment(region))
    assert result == NOT_OPENED
    assert said.count("[CGPU-SHIM-NAMESPACE]") == 1


def test_others_open_what_they_like(client: Path, host: SimulatedHost) -> None:
    assert answer(client, "dlmopen", host.environment(None)) == (0, "")

"""NVIDIA's libcudart 11, 12 and 13 over NVIDIA's libcuda 535, 550 and 555, with the shim between and without.

No GPU is needed: libcudart resolves all its driver functions before it finds that there is none, or that the driver
is too old for it. Over the simulated driver, which none of them accepts, it does the same.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cgpu.adapters.native import SIMULATED_CUDA, native_library
from cgpu.sim.machine import SimMachine
from native import build
from tests.native import debian_nvidia, pypi_nvidia
from tests.native.elf import SharedLibrary

ASK = Path(__file__).with_name("ask_cudart.py")
RELEASES = ("11", "12", "13")
DRIVERS = (*debian_nvidia.SUITES, "simulated")


def libcudart(release: str) -> Path:
    """That of a CUDA release; 13's is installed, the others are fetched."""
    if release == "13":
        return next((build.nvidia_include().parent / "lib").glob("libcudart.so.13*"))
    folder = pypi_nvidia.fetch(pypi_nvidia.RUNTIMES[release])
    if folder is None:
        pytest.skip(f"NVIDIA's libcudart {release} is not to be had here (index changed, or no network)")
    return next(folder.rglob("libcudart.so.1*"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> SimMachine:
    """A machine with a driver as new as the newest libcudart."""
    return SimMachine.create(tmp_path_factory.mktemp("sim") / "machine", driver="595.45.04")


def libcuda(driver: str) -> Path:
    """The simulated driver, or NVIDIA's from a Debian suite."""
    if driver == "simulated":
        return native_library(SIMULATED_CUDA)
    root = debian_nvidia.fetch(driver)
    if root is None:
        pytest.skip(f"NVIDIA's libcuda of Debian {driver} is not to be had here (archive changed, or no network)")
    return debian_nvidia.libcuda(root)


@functools.cache
def ask(runtime: Path, driver: Path, machine: SimMachine, shim: Path | None) -> tuple[list[str], dict[str, str]]:
    """Its answers, and what it keeps by offset in its data."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CGPU_")}
    environment |= machine.environment(environment) | {"PYTHONPATH": str(build.ROOT)}
    if shim:
        environment["LD_PRELOAD"] = str(shim)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "libcuda.so.1").symlink_to(driver)
        environment["LD_LIBRARY_PATH"] = folder
        result = subprocess.run(
            [sys.executable, str(ASK), str(runtime)], env=environment, capture_output=True, text=True, timeout=120
        )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    kept = ((text.split()[0], text.split()[1]) for kind, text in lines if kind == "kept")
    return [text for kind, text in lines if kind == "answer"], dict(kept)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_function_that_it_resolves_and_we_hook_is_ours(
    release: str, driver: str, simulated: SimMachine, shim: Path
) -> None:
    runtime, library = libcudart(release), libcuda(driver)
    plain, shimmed = (ask(runtime, library, simulated, preload)[1] for preload in (None, shim))
    hooked, ours = set(build.hook_names()), SharedLibrary.read(shim).exports
    place = {
        f"{library.name}+{offset:#x}": name
        for name, offset in SharedLibrary.read(library).exports.items()
        if name.startswith("cu")
    }
    expected = {offset: where for offset, where in plain.items() if where.startswith(library.name)}
    replaced = {offset: place[where] for offset, where in expected.items() if place.get(where) in hooked}
    expected |= {offset: f"{shim.name}+{ours[name]:#x}" for offset, name in replaced.items()}
    loader = {f"{shim.name}+{ours[name]:#x}" for name in build.ENTRY_NAMES}  # dlsym, as the dynamic linker binds it
    found = {offset: where for offset, where in shimmed.items() if where.startswith((library.name, shim.name))}
    assert {offset: where for offset, where in found.items() if where not in loader} == expected
    assert len(set(replaced.values())) > 100


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("release", RELEASES)
def test_it_answers_what_it_answers_without_us(release: str, driver: str, simulated: SimMachine, shim: Path) -> None:
    runtime, library = libcudart(release), libcuda(driver)
    answers = ask(runtime, library, simulated, None)[0]
    assert len(answers) > 5
    assert ask(runtime, library, simulated, shim)[0] == answers

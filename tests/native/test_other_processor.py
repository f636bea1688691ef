"""The build for aarch64 on this machine, on a processor that qemu emulates: the C unit tests, and the libraries load.

The short tests are run here; run as a program it runs all that an emulated processor can, and says how long each took:

    python -m tests.native.test_other_processor
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from native import build
from tests.native import debian_archive
from tests.native.c_compiler import compile_c
from tests.native.memory_tenant import SimulatedHost
from tests.native.release_builds import releases
from tests.native.test_c_units import TESTS, Unit
from tests.native.test_exports import BUILD_TIMEOUT_S
from tests.native.zig_programs import compile_for

TARGET: Final = f"aarch64-linux-gnu.{build.GLIBC}"
ZIG: Final = (sys.executable, "-m", "ziglang", "cc", "-target", TARGET, "-fno-sanitize=undefined")
CLIENT: Final = Path(__file__).parent / "clients" / "series.c"
EMULATED: Final = {test.stem: test for test in TESTS if Unit.read(test).emulated}
LONG: Final = {"test_account", "test_arbiter_turns", "test_programs"}  # 3 to 8 s each
SHORT: Final = sorted(EMULATED.keys() - LONG)
RUN_TIMEOUT_S: Final = 120
HOST: Final = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]

pytestmark = [
    pytest.mark.timeout(BUILD_TIMEOUT_S, func_only=False),
    pytest.mark.skipif(os.uname().machine == "aarch64", reason="this is that processor: the other tests run on it"),
]


def emulator() -> tuple[str, ...]:
    """The words before a program of aarch64: qemu, and where it finds the C library."""
    qemu, name = debian_archive.CACHE / f"qemu-{HOST}", "usr/bin/qemu-aarch64-static"
    qemu = debian_archive.needed(
        debian_archive.fetch(qemu, "bookworm", ("qemu-user-static",), architecture=HOST, only=name), "qemu"
    )
    glibc = debian_archive.needed(
        debian_archive.fetch(debian_archive.CACHE / "sid-arm64", "sid", ("libc6",), architecture="arm64"),
        "glibc for arm64",
    )
    return str(qemu / name), "-L", str(glibc)


def run(test: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build a unit test and run it."""
    program = compile_c(folder / test.stem, Unit.read(test).sources, compiler=ZIG)
    return subprocess.run(
        [*emulator(), str(program)], cwd=folder, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )


@pytest.mark.parametrize("name", SHORT)
def test_unit(name: str, tmp_path: Path) -> None:
    done = run(EMULATED[name], tmp_path)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def test_the_libraries_load_and_answer_for_the_driver(native: Path, tmp_path: Path) -> None:
    """All of them, with every symbol that they need; and with the shim no name more or less is found."""
    folder = releases("aarch64") / "aarch64"
    client = compile_for(TARGET, CLIENT, "-ldl")
    host = SimulatedHost.create(tmp_path / "host", native)
    names = [*build.hook_names(), "cuDeviceGetName", "nvmlDeviceGetName", "cuNoSuchName"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CGPU_")}
    environment["CGPU_SIM_STATE"] = str(host.folder / "state")
    answers = []
    for preload in ([], ["-E", f"LD_PRELOAD={folder / 'libcgpu.so'}"]):
        words = ["-E", f"LD_LIBRARY_PATH={folder / 'sim'}", *preload, str(client), "0", "0"]
        done = subprocess.run(
            [*emulator(), *words, *(str(folder / library.output) for library in build.LIBRARIES)],
            env=environment, input="\n".join(names), capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        answers.append(done.stdout.splitlines())
    assert answers[0] == answers[1]
    found = {line.split()[0] for line in answers[0] if line.split()[1:2] == ["1"]}
    assert found == {*names} - {"cuNoSuchName"}


def main() -> None:
    """Run all of them."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, test in sorted(EMULATED.items()):
            begin = time.monotonic()
            done = run(test, Path(folder))
            failed += done.returncode != 0
            print(f"{name}: exit {done.returncode}, {time.monotonic() - begin:.1f} s", flush=True)
            if done.returncode:
                print(done.stdout + done.stderr)
    raise SystemExit(failed != 0)


if __name__ == "__main__":
    main()

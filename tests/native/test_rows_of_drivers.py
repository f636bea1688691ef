"""clients/rows.c starts on drivers that lack functions, and says which: those that bench.escapes cannot try there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.escape_places import Programs
from tests.native import debian_nvidia
from tests.native.elf import SharedLibrary


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Programs.make(tmp_path_factory.mktemp("programs"), simulated=False).folder / "rows"


@pytest.mark.parametrize("suite", debian_nvidia.SUITES)
def test_nvidias_own_driver_lacks_what_the_client_says(suite: str, program: Path, tmp_path: Path):
    root = debian_nvidia.fetch(suite)
    if root is None:
        pytest.skip(f"no libcuda of Debian's {suite}")
    (tmp_path / "libcuda.so.1").symlink_to(debian_nvidia.libcuda(root))

    def ask(question: str) -> list[str]:
        environment = {"LD_LIBRARY_PATH": str(tmp_path)}
        done = subprocess.run([program, question], env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    exported = set(SharedLibrary.read(debian_nvidia.libcuda(root)).exports)
    labels = [line.split()[0] for line in ask("list")]
    assert ask("missing") == [label for label in labels if label.partition("/")[0] not in exported]
    by_address = {line.split()[0] for line in ask("versions")}
    assert {label.partition("/")[0] for label in labels} & exported == by_address

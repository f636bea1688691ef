"""The simulated libcuda from C: each check of sim_cuda/ on a machine of its own, also under the sanitizers.

The checks are linked with the library's sources, so that they can ask the card for its truth (used
memory) and inject faults, and so that sanitizers see the library, too.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from native import build
from tests.native.c_compiler import compile_c, sanitizer_compiler
from tests.native.sim_machine import PROFILE

CHECKS = Path(__file__).with_name("sim_cuda")
NAMES = re.findall(r"X\((\w+)\)", (CHECKS / "check.h").read_text())
VARIANTS = {"plain": "", "asan+ubsan": "address,undefined", "tsan": "thread"}
RUN_TIMEOUT_S = 60


def compiler_of(variant: str) -> tuple[list[str], tuple[str, ...] | None]:
    """Flags and compiler of a variant; skips where there is none."""
    sanitizer = VARIANTS[variant]
    if not sanitizer:
        return ["-O0"], None
    compiler = sanitizer_compiler(sanitizer)
    if compiler is None:
        reason = f"no compiler with -fsanitize={sanitizer} (Debian: apt-get install gcc libc6-dev)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return ["-O0", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"], compiler


@pytest.fixture(scope="session")
def build_checks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the program of a variant, which the first test that needs it builds for all test processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    library = [path for kind in ("card*.c", "cuda*.c") for path in sorted((build.NATIVE / "simgpu").glob(kind))]

    def program(variant: str) -> Path:
        flags, compiler = compiler_of(variant)
        path = folder / f"sim_cuda_{variant}"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                compile_c(path, [*sorted(CHECKS.glob("*.c")), *library], flags=flags, compiler=compiler)
        return path

    return program


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("check", NAMES)
def test_check(check: str, variant: str, build_checks: Callable[[str], Path], tmp_path: Path) -> None:
    program = build_checks(variant)
    (tmp_path / "state").mkdir()
    (tmp_path / "profile.toml").write_text(PROFILE)
    # Older run-time libraries of TSan know a smaller address space than kernels randomise over.
    setarch = shutil.which("setarch") if variant == "tsan" else None
    result = subprocess.run(
        [*([setarch, "-R"] if setarch else []), str(program), check],
        env=os.environ
        | {
            "CGPU_SIM_STATE": str(tmp_path / "state"),
            "CGPU_SIM_PROFILE": str(tmp_path / "profile.toml"),
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": "halt_on_error=1 atexit_sleep_ms=0",
        },
        capture_output=True, text=True, timeout=RUN_TIMEOUT_S,
    )  # fmt: skip
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}{result.stderr}"


def test_there_are_checks() -> None:
    defined = set()
    for source in CHECKS.glob("*.c"):
        defined |= set(re.findall(r"^void check_(\w+)\(void\) \{", source.read_text(), re.MULTILINE))
    assert defined == set(NAMES)
    assert len(NAMES) > 40

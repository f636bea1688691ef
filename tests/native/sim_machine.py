"""A simulated machine for tests of its NVML: made from a profile of the test's own, below libcuda.

Memory and time of its cards are used by processes of sim_holder.c, so that these tests depend on no
CUDA, and by exact amounts.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from native import build
from tests.native.c_compiler import compile_c

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MIB = 1 << 20
TIMEOUT_S = 60

TOTAL_BYTES = 15079 * MIB
RESERVED_BYTES = 455 * MIB
CONTEXT_BYTES = 100 * MIB
POWER_LIMIT_MW = 70_000
PROFILE = f"""
name = "Tesla T4"
driver_version = "550.163.01"
cards = 2
total_bytes = {TOTAL_BYTES}
reserved_bytes = {RESERVED_BYTES}
context_bytes = {CONTEXT_BYTES}
sm_count = 40
cc_major = 7
cc_minor = 5
max_threads_per_sm = 1024
clock_khz = 1_590_000
memory_clock_khz = 5_001_000
bus_width_bits = 256
l2_bytes = 4_194_304
power_limit_mw = {POWER_LIMIT_MW}
pci_bus = 59
pci_device = 0
pci_domain = 0
pci_device_id = 515379422
memory_bytes_per_s = 320_000_000_000
pcie_bytes_per_s = 12_000_000_000
timeslice_ns = 1_000_000
context_switch_ns = 50_000
launch_floor_ns = 3_000
block_ns = 100_000
"""

HOLDER = Path(__file__).with_name("sim_holder.c")
PROLOGUE = """
import json, os, sys
import pynvml as nvml
nvml.nvmlInit()
device = nvml.nvmlDeviceGetHandleByIndex(0)
def error(function, *arguments):
    try:
        function(*arguments)
    except nvml.NVMLError as problem:
        return type(problem).__name__.removeprefix("NVMLError_")
    return None
"""


def build_holder(folder: Path) -> Path:
    """Compile sim_holder.c with the card's own sources."""
    return compile_c(folder / "sim_holder", [HOLDER, *sorted((build.NATIVE / "simgpu").glob("card*.c"))])


def make_machine(folder: Path, holder: Path, profile: str = PROFILE) -> Machine:
    """An unused machine with its state below `folder`; its libraries are those of the `native` fixture."""
    libraries = Path(os.environ.get("CGPU_TEST_NATIVE", build.DEFAULT_OUT)) / "sim"
    (folder / "state").mkdir()
    (folder / "profile.toml").write_text(profile)
    return Machine(libraries, holder, folder / "state", folder / "profile.toml")


@dataclass(frozen=True)
class Holder:
    """A running sim_holder: it holds a context and memory, and does what it is told."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def begin(self, line: str) -> None:
        """Send one line; it is under way when this returns, or soon after."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def order(self, line: str) -> None:
        """Send one line and wait until it is done."""
        self.begin(line)
        assert self.process.stdout
        assert self.process.stdout.readline() == "done\n"

    def keep_busy(self) -> None:
        """Have the card busy with this process from now, for more than NVML's window, until it is killed."""
        self.order("kernel 100")
        self.begin("kernel 600000")


@dataclass(frozen=True)
class Machine:
    """One simulated machine: a state folder, a profile, the libraries."""

    libraries: Path
    holder: Path
    state: Path
    profile: Path

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {
            "LD_LIBRARY_PATH": str(self.libraries),
            "CGPU_SIM_STATE": str(self.state),
            "CGPU_SIM_PROFILE": str(self.profile),
            **more,
        }

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program on the machine; `more` is added to its environment."""
        return subprocess.run(
            [str(word) for word in command],
            env=self.environment(**more), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

    def nvml(self, script: str, **more: str) -> Any:
        """What a Python script sets `result` to, as JSON tells it. It finds `nvml` initialised and `device`."""
        done = self.run(sys.executable, "-c", f"{PROLOGUE}\n{script}\nprint(json.dumps(result))", **more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def hold(
        self,
        size_bytes: int = 0,
        card: int = 0,
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> Iterator[Holder]:
        """A process with a context on a card and `size_bytes` of its memory; `wrapper` words start it."""
        process = subprocess.Popen(
            [*wrapper, str(self.holder), str(card), str(size_bytes)],
            env=self.environment(**(environment or {})), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            try:
                assert process.stdout
                assert process.stdout.readline() == "ready\n"
                yield Holder(process)
            finally:
                process.kill()

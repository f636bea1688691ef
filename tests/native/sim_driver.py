"""Python functions as clients of the simulated libcuda, each in a process of its own.

A test's client is a function of the test module that uses cuda-bindings, an unmodified client of NVIDIA's
driver API. `SimulatedMachine.call` runs it in a fresh process on a machine of the test's own and gives
back what it returns, through JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda.bindings import driver as cu

from native import build
from tests.native.sim_machine import PROFILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
TIMEOUT_S = 120
SUCCESS = cu.CUresult.CUDA_SUCCESS


class CudaError(Exception):
    """A driver function that did not succeed; its text is the name of the result."""


def ok(answer: tuple[Any, ...]) -> Any:
    """The values of a call that succeeds: none, the one, or the tuple of them."""
    result, *values = answer
    if result != SUCCESS:
        raise CudaError(result.name)
    if len(values) > 1:
        return tuple(values)
    return values[0] if values else None


def result_of(answer: tuple[Any, ...]) -> str:
    """The name of a call's result without its prefix: "SUCCESS", "INVALID_VALUE"."""
    return str(answer[0].name).removeprefix("CUDA_").removeprefix("ERROR_")


def use_device(ordinal: int = 0) -> Any:
    """Initialise the driver, and make the primary context of a device current."""
    ok(cu.cuInit(0))
    context = ok(cu.cuDevicePrimaryCtxRetain(ok(cu.cuDeviceGet(ordinal))))
    ok(cu.cuCtxSetCurrent(context))
    return context


def free_bytes() -> int:
    """What is free on the current card: the truth, as nothing stands between this client and the driver."""
    return int(ok(cu.cuMemGetInfo())[0])


def read_words(address: Any, count: int) -> list[int]:
    """Copy 32-bit words from the device."""
    data = bytearray(4 * count)
    ok(cu.cuMemcpyDtoH(data, address, len(data)))
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def on_device(ordinal: int = 0) -> Any:
    """The location of a device's memory."""
    location = cu.CUmemLocation()
    location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    location.id = ordinal
    return location


def access_to(ordinal: int, flags: Any) -> Any:
    """A row of cuMemSetAccess and cuMemPoolSetAccess."""
    row = cu.CUmemAccessDesc()
    row.location = on_device(ordinal)
    row.flags = flags
    return row


@dataclass
class Client:
    """A client that is under way: it reads lines, and writes one for each of its steps."""

    process: subprocess.Popen[str]

    def send(self, value: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the client has ended"
        return json.loads(line)


@dataclass(frozen=True)
class SimulatedMachine:
    """One simulated machine: libraries, a state folder, a profile."""

    libraries: Path
    state: Path
    profile: Path

    @classmethod
    def make(cls, native: Path, folder: Path, **changes: object) -> SimulatedMachine:
        """An unused machine below `folder`; `changes` are lines of the profile (cards=1)."""
        (folder / "state").mkdir()
        lines = [line for line in PROFILE.splitlines() if line.partition(" =")[0] not in changes]
        lines += [f"{key} = {json.dumps(value)}" for key, value in changes.items()]
        (folder / "profile.toml").write_text("\n".join(lines) + "\n")
        return cls(native / "sim", folder / "state", folder / "profile.toml")

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "LD_LIBRARY_PATH": str(self.libraries),
            "CGPU_SIM_STATE": str(self.state),
            "CGPU_SIM_PROFILE": str(self.profile),
        }

    def _command(self, client: Callable[..., Any], arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", __name__, client.__module__, client.__name__, json.dumps(arguments)]

    def call(self, client: Callable[..., Any], *arguments: object) -> Any:
        """What the client returns, as JSON tells it; its failure is the caller's."""
        done = subprocess.run(
            self._command(client, arguments),
            env=self.environment(), cwd=build.ROOT, capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{client.__name__} ends with {done.returncode}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    @contextlib.contextmanager
    def start(self, client: Callable[..., Any], *arguments: object) -> Iterator[Client]:
        """A client that talks with the test (`tell`, `listen`) until the block ends; then it is killed."""
        process = subprocess.Popen(
            self._command(client, arguments),
            env=self.environment(), cwd=build.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            try:
                yield Client(process)
            finally:
                process.kill()


def tell(value: object) -> None:
    """In a client: a line for the test."""
    print(json.dumps(value), flush=True)


def listen() -> Any:
    """In a client: the next line from the test."""
    return json.loads(sys.stdin.readline())


if __name__ == "__main__":
    module, name, arguments = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(arguments))))

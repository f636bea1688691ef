"""What a start costs: of a process that uses the GPU, of one that never does, of `cgpu run`."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.calls import Figure
from bench.machine import CGPU, compile_client
from cgpu.adapters.native import SHIM, native_library

START_MS, RUN_MS, UNUSED_MS = 5.0, 150.0, 1.0
UNUSED_ROUNDS: Final = 20


@contextlib.contextmanager
def a_tenant_that_waits(env: dict[str, str]) -> Iterator[None]:
    """Keeps an agent running: the simulated driver's calls cost more with every process on the machine."""
    command = [*CGPU, "run", "--memory", "256MiB", "--", "sh", "-c", "echo ready; read line"]
    with subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiting:
        if waiting.stdout is None or waiting.stdout.readline() != "ready\n":
            raise SystemExit("overhead.py: no tenant could be started")
        yield
        waiting.communicate("\n")


def measure(folder: Path, env: dict[str, str], init_ns: tuple[float, float], rounds: int) -> list[Figure]:
    """The starts, with an agent running; `init_ns`: of a client's first calls, bare and as a tenant."""
    first = [str(compile_client("first", folder))]
    run_ms = statistics.median(
        _first_instruction_ms([*CGPU, "run", "--memory", "256MiB", "--", *first], env) for _ in range(rounds)
    )
    return [
        Figure("load the driver, cuInit, first context", init_ns[0] / 1e6, init_ns[1] / 1e6, START_MS, "ms"),
        Figure("cgpu run to the first instruction", 0.0, run_ms, RUN_MS, "ms"),
        _unused(first, env, rounds * UNUSED_ROUNDS),
    ]


def _first_instruction_ms(command: list[str], env: dict[str, str]) -> float:
    began_ns = time.monotonic_ns()
    said = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    at_ns, regions = map(int, said.split())
    if regions:
        raise SystemExit("overhead.py: a program that never touched CUDA has a region mapped")
    return (at_ns - began_ns) / 1e6


def _unused(command: list[str], env: dict[str, str], rounds: int) -> Figure:
    """A program that never touches CUDA, without the shim and with it."""
    preloaded = env | {"LD_PRELOAD": str(native_library(SHIM))}
    pairs = [(_first_instruction_ms(command, env), _first_instruction_ms(command, preloaded)) for _ in range(rounds)]
    bare, tenant = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Figure("start of a program that never touches CUDA", bare, tenant, UNUSED_MS, "ms")

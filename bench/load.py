"""One process of clients/load.c: a client of the driver that is told what to run, bare or as a tenant."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

END_SECONDS: Final = 60.0


class LoadError(Exception):
    """The client has ended, or has not understood."""


class Load:
    """A running client. Its pid is that of the command, which ``cgpu run`` becomes."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Start it; ``wait_ready`` when several have been started at once."""
        self._process = subprocess.Popen(
            [str(word) for word in command],
            env=dict(environment), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Under which the card's status knows it."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until it has its context."""
        if self._answer() != "ready":
            raise LoadError(f"process {self.pid}: not ready")

    def run(self, kind: str, kernel_ns: int, sync: int) -> None:
        """Launch work of that kind from now on, and wait for the card after so many launches (0: never)."""
        self._obey(f"run {kind} {kernel_ns} {sync}")

    def end(self) -> None:
        """Launch no more; ``launches`` waits for the answer."""
        self._tell("stop")

    def launches(self) -> int:
        """Wait until the card has done the work; how often it was launched."""
        return int(self._answer())

    def first(self, kernel_ns: int, count: int, gap_us: int) -> list[int]:
        """Be idle, launch one kernel and wait for it, so many times; the ns that each took beyond the kernel."""
        self._tell(f"first {kernel_ns} {count} {gap_us}")
        return [int(word) for word in self._answer().split()]

    def streams(self, where: str, threads: int = 1, contexts: int = 1) -> None:
        """Which stream work goes to (null, legacy, per-thread, own), from how many threads, in how many contexts."""
        self._obey(f"stream {where}")
        self._obey(f"threads {threads}")
        self._obey(f"contexts {contexts}")

    def close(self) -> None:
        """End it, and wait for that."""
        try:
            self._process.communicate("quit\n", timeout=END_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    def _obey(self, command: str) -> None:
        self._tell(command)
        answer = self._answer()
        if answer != "ok":
            raise LoadError(f"process {self.pid}: {command}: {answer}")

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadError(f"process {self.pid} ended: exit code {self._process.wait()}")
        return line.strip()

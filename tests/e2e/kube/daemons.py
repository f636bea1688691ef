"""Programs of a cluster that run until they are ended, known by their names."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.e2e.host import Host, Process, eventually

_START_S: Final = 90.0


@dataclass
class Daemons:
    """Of one host, with their logs in a folder."""

    host: Host
    folder: Path
    path: str
    """What they find other programs by."""
    processes: dict[str, Process] = field(default_factory=dict)

    def start(self, name: str, program: Path, options: list[str], ready: Callable[[], bool] | None = None) -> None:
        """Start a program, and wait until it is ready, where that can be asked. Fails with its log when it ends."""
        log = self.folder / f"{name}.log"
        process = self.host.start(str(program), *options, log=log, env={"PATH": self.path})
        self.processes[name] = process
        if ready is not None:
            eventually(lambda: process.poll() is not None or ready(), f"{name} is ready", _START_S)
        assert process.poll() is None, log.read_text()[-3000:]

    def ended(self) -> Iterator[str]:
        """Of each that was not to end and has: how, and its last words."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                words = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                yield f"{name} has ended with {process.returncode}: {words}"

    def kill(self, name: str) -> None:
        """End a program without a word."""
        process = self.processes.pop(name)
        self.host.signal(process, signal.SIGKILL)
        process.wait()

    def stop(self, *names: str) -> None:
        """End those that run, in this order."""
        for name in names:
            if name in self.processes:
                self.host.stop(self.processes.pop(name))

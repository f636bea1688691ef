"""Versions that only a command tells: which commands, how they are run, and where their outputs lie elsewhere.

Each only prints something about itself or its packages. On the node itself ``HostCommands`` runs
them; a probe on another machine writes what they print to ``.cgpu-probe/<name>`` below the root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cgpu.doctor.probes.files import LIMITS, RECORDED
from cgpu.doctor.probes.tree import Tree, UnknownError, reason
from cgpu.readable import readable

OUTPUTS: Final = RECORDED.removesuffix("/*")
"""The folder below the root with the commands' outputs."""

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are looked for: the system's own folders, not the caller's."""

PACKAGES: Final = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "docker-ce",
    "docker.io",
    "moby-engine",
    "docker",
    "containerd.io",
    "containerd",
    "podman",
    "runc",
    "crun",
    "kubelet",
    "libc6",
    "glibc",
)
"""Packages of dpkg's and rpm's worlds that tell a version."""


@dataclass(frozen=True, slots=True)
class Command:
    """A read-only command."""

    name: str
    """Of its output's file."""

    argv: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.argv[:2])


COMMANDS: Final[Mapping[str, Command]] = {
    command.name: command
    for command in (
        Command("nvidia-ctk", ("nvidia-ctk", "--version")),
        Command("nvidia-container-toolkit", ("nvidia-container-toolkit", "--version")),
        Command("dockerd", ("dockerd", "--version")),
        Command("docker", ("docker", "--version")),
        Command("containerd", ("containerd", "--version")),
        Command("podman", ("podman", "--version")),
        Command("runc", ("runc", "--version")),
        Command("crun", ("crun", "--version")),
        Command("kubelet", ("kubelet", "--version")),
        Command("ldd", ("ldd", "--version")),
        # Without the epoch, which nobody names.
        Command("rpm", ("rpm", "-q", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n", *PACKAGES)),
    )
}


class CommandRunner(Protocol):
    """Something that knows what the commands print."""

    def output(self, command: Command) -> str:
        """What it prints, to either stream, whatever its exit status. Raises UnknownError with the reason."""

    def how(self, command: Command) -> str:
        """Where that comes from, for people."""


class RecordedOutputs:
    """Outputs that a probe has brought along with the files."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def output(self, command: Command) -> str:
        """As CommandRunner has it."""
        return self._tree.read(f"{OUTPUTS}/{command.name}", LIMITS[RECORDED]).decode(errors="replace")

    def how(self, command: Command) -> str:
        """As CommandRunner has it."""
        return f"/{OUTPUTS}/{command.name}"


class HostCommands:
    """Runs the commands on this machine, with hardly an environment, for at most some seconds each."""

    def __init__(self, path: str = PATH, seconds: float = 3.0, limit: int = LIMITS[RECORDED]) -> None:
        """``path`` is where they are looked for; output of more than ``limit`` bytes is refused."""
        self._path = path
        self._seconds = seconds
        self._limit = limit

    def output(self, command: Command) -> str:
        """As CommandRunner has it."""
        program = shutil.which(command.argv[0], path=self._path)
        if program is None:
            raise UnknownError(f"{self.how(command)}: no such command", absent=True)
        try:
            process = subprocess.Popen(
                command.argv,
                executable=program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # musl's ldd prints there
                env={"PATH": self._path, "LC_ALL": "C", "HOME": "/"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise UnknownError(f"{self.how(command)}: {reason(error)}") from error
        try:
            return self._read(process, command).decode(errors="replace")
        finally:
            _end(process)

    def how(self, command: Command) -> str:
        """As CommandRunner has it."""
        return f"`{command}`"

    def _read(self, process: subprocess.Popen[bytes], command: Command) -> bytes:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        deadline = time.monotonic() + self._seconds
        data = b""
        while readable(descriptor, deadline - time.monotonic()):
            part = os.read(descriptor, 1 << 14)
            if not part:
                return data
            data += part
            if len(data) > self._limit:
                raise UnknownError(f"{self.how(command)}: more than {self._limit} bytes of output")
        raise UnknownError(f"{self.how(command)}: no end within {self._seconds:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started: it has not been waited for, so its group is still its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None
    process.stdout.close()
    process.wait()

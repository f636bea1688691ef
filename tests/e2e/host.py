"""A host of one's own: namespaces in which the engines' mounts, sockets and cgroups harm nobody.

The mount namespace has an empty /run and, unless told otherwise, cgroup v2 alone on /sys/fs/cgroup, as a
current distribution has; the network namespace has a loopback device and nothing else. All of it goes with
its processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

SECONDS: Final = 60.0
_STOP_S: Final = 20.0
# The first process of the namespaces ignores the end of its children, so that none stays a zombie: a dockerd takes a
# zombie for the containerd that it waits for. (A shell's trap does not do it.)
_PREPARE: Final = """
set -e
{cgroups}
mount -t tmpfs tmpfs /run
ip link set lo up
{more}
echo ready
exec env --ignore-signal=CHLD cat
"""
_ONLY_V2: Final = "mount -t cgroup2 none /sys/fs/cgroup"
_ONLY_V1: Final = "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi"
_UNSHARE: Final = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_CGROUPS: Final = ("docker", "libpod_parent", "cgpu-e2e", "default")


def eventually(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait for what another process is about to do; fail when it does not."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        assert began < deadline, f"it did not happen: {what}"
        time.sleep(max(0.02, time.monotonic() - began))  # looking takes time from what is waited for


Process = subprocess.Popen[str]


@dataclass
class Host:
    """Namespaces, a folder, and the processes that were started in them. A context manager."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cgpu-e2e-")))
    only_v2: bool = True
    """Whether cgroup v2 alone is there; else what this machine has of v1."""
    prepare: tuple[str, ...] = ()
    """Commands that are run in the namespaces before anything else; the variable FOLDER is the host's folder."""
    _holder: subprocess.Popen[str] | None = None
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        more = "\n".join(self.prepare)
        script = _PREPARE.format(cgroups=_ONLY_V2 if self.only_v2 else _ONLY_V1, more=more)
        self._holder = subprocess.Popen(
            [*_UNSHARE, "--propagation", "private", "sh", "-c", script],
            env={**os.environ, "FOLDER": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            self.stop(process)
        self.run("rmdir", *self._left_cgroups())  # with a process in it, one stays
        assert self._holder is not None
        self._holder.communicate()  # the first process ends, and with it everything in the namespaces
        shutil.rmtree(self.folder)

    @property
    def first(self) -> int:
        """The first process of the namespaces, which has pid 1 there."""
        assert self._holder is not None
        return _child(self._holder.pid)

    def inside(self, command: tuple[str, ...]) -> list[str]:
        """The command that runs a command in the namespaces (`ip netns exec` would hide the cgroups)."""
        return ["nsenter", f"--target={self.first}", "--mount", "--net", "--pid", "--", *command]

    def run(
        self, *command: str, check: bool = False, env: Mapping[str, str] | None = None, text_in: str = "",
        seconds: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command to its end, for so many seconds at most. With ``check``, one that fails fails the test."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:  # a pipe is kept by a daemon
            ended = subprocess.run(
                self.inside(command), env=env, input=text_in, stdout=out, stderr=error, text=True, timeout=seconds,
                check=False,
            )  # fmt: skip
            for file in (out, error):
                file.seek(0)
            result = subprocess.CompletedProcess(command, ended.returncode, out.read(), error.read())
        assert not check or result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
        return result

    def start(self, *command: str, log: Path | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Start a command: with pipes, or with its output in a file."""
        output = subprocess.PIPE if log is None else log.open("a")
        process = subprocess.Popen(
            self.inside(command), env=env, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True
        )
        if not isinstance(output, int):
            output.close()
        self._started.append(process)
        return process

    def cgroups(self) -> set[str]:
        """The folders of all cgroups there are; it shows the whole machine's."""
        found = self.run("find", "/sys/fs/cgroup", "-type", "d").stdout
        return set(found.splitlines())

    def engines_cgroups(self) -> set[str]:
        """Those below the places where these engines make them."""
        return set(self._left_cgroups())

    def _left_cgroups(self) -> list[str]:
        mine = re.compile(f"/sys/fs/cgroup/([^/]+/)?({'|'.join(_CGROUPS)})(/|$)")  # v1 has a hierarchy per controller
        return sorted((path for path in self.cgroups() if mine.match(path)), reverse=True)

    def child(self, process: Process) -> int:
        """The pid, outside the namespaces, of a started command itself."""
        return _child(process.pid)

    def signal(self, process: Process, number: signal.Signals) -> None:
        """Send a signal to a started command, not to the nsenter around it."""
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(_child(process.pid), number)

    def kill(self, *pids: int) -> None:
        """Kill processes by the pids that they have here, one right after the other: an engine is as quick as that."""
        self.run("kill", "-KILL", *map(str, pids), check=True)

    def parent_of(self, pid: int) -> int:
        """The parent of a process, both as they are called here."""
        status = self.run("cat", f"/proc/{pid}/status", check=True).stdout
        return int(next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1])

    def stop(self, process: Process) -> None:
        """End a started command in order, or, after a while, at once; close its pipes."""
        self.signal(process, signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.signal(process, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _child(pid: int) -> int:
    """The one child of a process. Raises ProcessLookupError when it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if not children:
        raise ProcessLookupError(pid)
    return int(children[0])

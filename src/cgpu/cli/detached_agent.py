"""Starting an agent in the background, without a trace in the caller's process tree, and waiting for its word."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from cgpu.adapters.agent_client import error_from
from cgpu.errors import AgentError
from cgpu.readable import readable

READY: Final = "ready"
# A tenant's, and a service's: the agent is neither the one nor the other.
_NOT_INHERITED: Final = ("LD_PRELOAD", "CGPU_REGION", "CUDA_VISIBLE_DEVICES", "NOTIFY_SOCKET")


def start_detached(command: Sequence[str], environment: Mapping[str, str], log: Path, seconds: float) -> None:
    """Start ``command``, an agent that takes ``--ready-fd``, and return once it answers.

    Raises what kept it from starting, or AgentError after so many seconds.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _become_agent(command, environment, log, writing)
    os.close(writing)
    os.waitpid(child, 0)
    try:
        answer = _read(reading, seconds, log)
    finally:
        os.close(reading)
    if answer == READY:
        return
    if answer == "":
        raise AgentError("the agent ended at once", f"see {log}")
    raise error_from(json.loads(answer))


def _become_agent(command: Sequence[str], environment: Mapping[str, str], log: Path, ready: int) -> NoReturn:
    # Forked twice: the agent must not be a child of the command that this process is going to become.
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((null, 0), (null, 1), (output, 2)):
            os.dup2(source, target)
        for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
            if descriptor not in (0, 1, 2, ready):
                with contextlib.suppress(OSError):  # the one that listed them is closed already
                    os.close(descriptor)
        os.set_inheritable(ready, True)
        inherited = {name: value for name, value in environment.items() if name not in _NOT_INHERITED}
        os.execve(command[0], [*command, "--ready-fd", str(ready)], inherited)
    finally:
        os._exit(1)


def _read(descriptor: int, seconds: float, log: Path) -> str:
    """All that comes until the other end closes."""
    data = b""
    while readable(descriptor, seconds):
        part = os.read(descriptor, 65536)
        if not part:
            return data.decode()
        data += part
    raise AgentError(f"the agent did not start within {seconds:.0f} s", f"see {log}")

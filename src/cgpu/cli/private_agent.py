"""Starting a private agent: in the background, one per user, without a trace in the caller's process tree."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import sys
from pathlib import Path
from typing import Final, NoReturn

from cgpu.adapters.agent_client import AgentClient, NoAgentError, error_from
from cgpu.errors import AgentError, StateError
from cgpu.settings import Settings

READY: Final = "ready"
_NOT_INHERITED: Final = ("LD_PRELOAD", "CGPU_REGION", "CUDA_VISIBLE_DEVICES")  # a tenant's; the agent is none


def agent_or_private(settings: Settings) -> AgentClient:
    """The agent that runs, or else a private one, started now. Raises what kept it from starting."""
    client = AgentClient.of(settings)
    if _answers(client):
        return client
    client = AgentClient(settings.agent_socket, settings.agent_answer_seconds)
    try:
        settings.runtime_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(settings.runtime_dir / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{settings.runtime_dir}: {error.strerror}", "set CGPU_RUNTIME_DIR") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two that start at once the second finds the first's agent
        if not _answers(client):
            _start(settings)
    finally:
        os.close(lock)
    return client


def _answers(client: AgentClient) -> bool:
    try:
        client.get("/v1/info")
    except NoAgentError:
        return False
    return True


def _start(settings: Settings) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _become_agent(settings.runtime_dir / "agent.log", writing)
    os.close(writing)
    os.waitpid(child, 0)
    try:
        answer = _read(reading, settings.agent_start_seconds)
    finally:
        os.close(reading)
    if answer == READY:
        return
    if answer == "":
        raise AgentError("the private agent ended at once", f"see {settings.runtime_dir / 'agent.log'}")
    raise error_from(json.loads(answer))


def _become_agent(log: Path, ready: int) -> NoReturn:
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
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        arguments = [sys.executable, "-m", "cgpu", "agent", "--private", "--ready-fd", str(ready)]
        os.execve(sys.executable, arguments, environment)
    finally:
        os._exit(1)


def _read(descriptor: int, seconds: float) -> str:
    """All that comes until the other end closes."""
    data = b""
    while select.select([descriptor], [], [], seconds)[0]:
        part = os.read(descriptor, 65536)
        if not part:
            return data.decode()
        data += part
    raise AgentError(f"the private agent did not start within {seconds:.0f} s", "see its log, agent.log")

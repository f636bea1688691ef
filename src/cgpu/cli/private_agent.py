"""Starting a private agent: one per user, in the background."""

from __future__ import annotations

import fcntl
import os
import sys

from cgpu.adapters.agent_client import AgentClient, NoAgentError
from cgpu.cli.detached_agent import start_detached
from cgpu.errors import StateError
from cgpu.settings import Settings


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
    command = [sys.executable, "-m", "cgpu", "agent", "--private"]
    start_detached(command, os.environ, settings.runtime_dir / "agent.log", settings.agent_start_seconds)

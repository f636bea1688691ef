"""An agent of a benchmark's own, in a folder of its own: it and its tenants see nothing of the caller's cgpu."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.machine import CGPU
from cgpu.adapters.agent_client import AgentClient
from cgpu.errors import AgentError
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine

START_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02


def own_environment(folder: Path, machine: SimMachine | None, runtime_dir: Path | None = None) -> dict[str, str]:
    """The environment of the agent and of its tenants; ``machine`` None: the real cards.

    ``runtime_dir``: where the agent works, if not below the folder. Short paths: they hold a socket.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
    if machine is not None:
        environment |= {"CGPU_LOCK_DIR": str(folder), **machine.environment(environment)}
    return {**environment, "CGPU_RUNTIME_DIR": str(runtime_dir or folder / "run")}


def start_agent(environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start it, and wait until it answers. Ends the program with what the log says when it does not."""
    client = AgentClient(Settings.from_environment(environment).agent_socket, START_SECONDS)
    with log.open("a") as file:
        agent = subprocess.Popen([*CGPU, "agent"], env=dict(environment), stdin=subprocess.DEVNULL, stderr=file)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.get("/v1/info")
        except AgentError:
            if agent.poll() is not None or time.monotonic() > deadline:
                agent.kill()
                agent.wait()
                raise SystemExit(f"bench: the agent did not start: {log.read_text()}") from None
            time.sleep(_POLL_SECONDS)
        else:
            return agent

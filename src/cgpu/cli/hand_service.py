"""An agent that no service manager looks after: ended and started again as it was, with another program."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

from cgpu.cli.detached_agent import start_detached
from cgpu.errors import AgentError, StateError
from cgpu.readable import readable
from cgpu.settings import Settings

_END_SECONDS: Final = 30.0


class HandService:
    """The running agent with this pid. It goes on with the same environment, in the background."""

    def __init__(self, pid: int, settings: Settings) -> None:
        """Remember how it was started. Raises StateError where that may not be read."""
        folder = Path(f"/proc/{pid}")
        try:
            self._command = _without_ready(_words(folder / "cmdline"))
            pairs = (row.partition("=") for row in _words(folder / "environ"))
            self._environment = {name: value for name, _, value in pairs}
        except OSError as error:
            raise StateError(f"the agent's process {pid}: {error.strerror}", "run this as its user") from error
        self._pid = pid
        self._settings = settings

    @property
    def program(self) -> str:
        """The path by which its interpreter was started."""
        return self._command[0] if self._command else ""

    def restart(self, command: Path) -> None:
        """End it, and start the agent of another `cgpu`. Raises what kept that from starting."""
        end_process(self._pid)
        self._start((str(command), "agent"))

    def go_back(self, pid: int | None) -> None:
        """Start it again as it was. ``pid``: of an agent that runs in its place."""
        if pid is not None:
            end_process(pid)
        self._start(self._command)

    def _start(self, command: tuple[str, ...]) -> None:
        log = self._settings.runtime_dir / "agent.log"
        start_detached(command, self._environment, log, self._settings.agent_start_seconds)


def end_process(pid: int) -> None:
    """SIGTERM, and wait for the end. Raises AgentError where it does not come; a process that has ended is fine."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not readable(descriptor, _END_SECONDS):
            raise AgentError(f"the agent (pid {pid}) does not end", "see its log; the tenants run on")
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def program_of(pid: int) -> Path | None:
    """The path by which a process was started; None when it is gone, or may not be looked at."""
    try:
        words = _words(Path(f"/proc/{pid}/cmdline"))
    except OSError:
        return None
    return Path(words[0]) if words else None


def _words(path: Path) -> tuple[str, ...]:
    return tuple(os.fsdecode(word) for word in path.read_bytes().split(b"\0")[:-1])


def _without_ready(command: tuple[str, ...]) -> tuple[str, ...]:
    """Its descriptor is long closed."""
    if "--ready-fd" not in command:
        return command
    at = command.index("--ready-fd")
    return command[:at] + command[at + 2 :]

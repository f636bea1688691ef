"""The service under systemd, by way of systemctl(1)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from cgpu.adapters.host.unit import UNIT
from cgpu.errors import AgentError, StateError

_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)
_SECONDS: Final = 150.0  # more than systemd itself waits for a service to start
_LOG_LINES: Final = 5


def runs_here() -> bool:
    """Whether this host was booted with systemd."""
    return _BOOTED.is_dir() and shutil.which("systemctl") is not None


class SystemdService:
    """The agent's unit. Raises StateError where systemctl fails."""

    def main_pid(self) -> int | None:
        """The agent's process, as systemd knows it; None while it does not run."""
        return int(self._property("MainPID") or 0) or None

    def is_wanted(self) -> bool:
        """Whether it runs, starts, has failed to, or is about to start again: not whether somebody has stopped it.

        A restart whose systemctl was killed goes on by itself; its state is for a moment that of one that was stopped.
        """
        job = self._job()  # before the state, which a job that ends meanwhile has already made
        if job is not None:
            return job != "stop"
        return self._property("ActiveState") != "inactive"

    def start(self) -> None:
        """Have systemd read the unit, and start it; returns once the agent answers. Raises AgentError."""
        self._bring_up("start")

    def restart(self) -> None:
        """The same, with an end to the agent that runs."""
        self._bring_up("restart")

    def stop(self) -> None:
        """End it, if it runs. Its cgroup has nobody else in it."""
        if self._property("LoadState") == "loaded":
            self._call("stop", UNIT)

    def forget(self) -> None:
        """After the unit's file has gone."""
        self._call("daemon-reload")
        subprocess.run(["systemctl", "reset-failed", UNIT], capture_output=True, timeout=_SECONDS, check=False)

    def _bring_up(self, verb: str) -> None:
        self._call("daemon-reload")
        try:
            self._call(verb, UNIT)
        except StateError as error:
            raise AgentError(f"{UNIT} did not start: {self._last_words() or error.message}") from error

    def _last_words(self) -> str:
        """What the agent has told systemd, or else the log."""
        told = self._property("StatusText")
        if told:
            return told
        command = ["journalctl", "--unit", UNIT, "--lines", str(_LOG_LINES), "--output", "cat", "--no-pager", "--quiet"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError):
            return ""
        lines = [line.strip() for line in answer.stdout.splitlines()]
        return next((line for line in reversed(lines) if line.startswith("cgpu: ")), lines[-1] if lines else "")

    def _job(self) -> str | None:
        """The kind of what systemd still has to do with it, such as ``restart``; None where there is nothing."""
        rows = self._call("list-jobs", "--no-legend", "--plain", UNIT).splitlines()
        return next((row.split()[2] for row in rows), None)

    def _property(self, name: str) -> str:
        return self._call("show", "--property", name, "--value", UNIT).strip()

    def _call(self, *arguments: str) -> str:
        command = ["systemctl", "--no-ask-password", *arguments]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise StateError(f"{' '.join(command)}: {error}", "see systemctl status") from error
        if answer.returncode != 0:
            raise StateError(f"{' '.join(command)}: {answer.stderr.strip()}", "see systemctl status and journalctl -xe")
        return answer.stdout

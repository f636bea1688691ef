"""One tenant of the demo: a client program under ``cgpu run``, and what it tells."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

from cgpu.errors import StateError


class DemoTenant:
    """Runs ``cgpu.sim.demo_client``; its lines arrive on a thread."""

    def __init__(self, name: str, quota_bytes: int, weight: int, environment: dict[str, str]) -> None:
        self.name = name
        self.quota_bytes = quota_bytes
        self.weight = weight
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._news = threading.Condition()
        self._told: dict[str, dict[str, Any]] = {}
        self._ended = False

    @property
    def pid(self) -> int:
        """Of the client: ``cgpu run`` becomes it."""
        return self._running().pid

    def start(self, *, hold_bytes: int = 0, fill: bool = False) -> None:
        """Start the client: it fills its quota, or holds memory and keeps the card busy."""
        what = ["fill"] if fill else ["spin", "--hold", str(hold_bytes)]
        share = ["--memory", f"{self.quota_bytes}B", "--weight", str(self.weight), "--name", self.name]
        command = [
            sys.executable,
            "-m",
            "cgpu",
            "run",
            *share,
            "--",
            sys.executable,
            "-m",
            "cgpu.sim.demo_client",
            *what,
        ]
        self._process = subprocess.Popen(
            command, env=self._environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_for(self, event: str, seconds: float) -> dict[str, Any]:
        """What the client tells with that event. Raises StateError when it fails or tells nothing in time."""
        with self._news:
            self._news.wait_for(lambda: event in self._told or self._ended, seconds)
            if event in self._told:
                return self._told[event]
            cause = self._told.get("failed", {}).get("error", "it told nothing")
        raise StateError(f"the demo's tenant {self.name} did not come to {event!r}: {cause}")

    def seen(self, event: str) -> dict[str, Any]:
        """What the client told with an event that has come."""
        return self._told[event]

    def done_ns(self) -> int:
        """Time of the kernels that have run, by the card's clock."""
        return int(self._told.get("progress", {}).get("done_ns", 0))

    def kill(self) -> None:
        """Kill -9."""
        self._running().kill()
        self._running().wait()

    def end(self, seconds: float) -> None:
        """Tell the client to end, and wait for it."""
        process = self._running()
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise StateError(f"the demo's tenant {self.name} was not started")
        return self._process

    def _listen(self) -> None:
        output = self._running().stdout
        for line in output or ():
            told = json.loads(line)
            with self._news:
                self._told[told["event"]] = told
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

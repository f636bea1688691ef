"""``cgpu top``: a live picture of the node in the terminal."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from queue import Empty, SimpleQueue

from cgpu.adapters.agent_client import AgentClient
from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.cli.terminal import ENDING, FullScreen, Signals
from cgpu.cli.top_picture import screen
from cgpu.cli.top_view import Look, View
from cgpu.cli.watch import INTERVAL_SECONDS, parse_interval
from cgpu.errors import CgpuError, UsageError
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu top
  cgpu top --interval 5

Keys: q quit, s sort by the next column, p pause, ? help. It waits for an agent that does not answer.
For a file or a pipe: cgpu ps --watch, or cgpu ps --watch --json.
"""

Looks = SimpleQueue[Look | Exception]


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "top", run, "watch GPUs and tenants live", EXAMPLES)
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=parse_interval,
        default=INTERVAL_SECONDS,
        help="time between two looks; 1 second when not given",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Draw until a key or a signal ends it."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        raise UsageError(
            "cgpu top draws on a terminal, and its output is none", "use `cgpu ps --watch`, with --json for a program"
        )
    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    try:
        with (
            Signals() as signals,
            FullScreen(keys, sys.stdout.fileno()) as full,
            _looking(settings, options.interval, signals) as looks,
        ):
            _draw(View(options.interval), keys, signals, full, looks)
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal has gone: an end like another
            raise
    return 0


def _draw(view: View, keys: int | None, signals: Signals, full: FullScreen, looks: Looks) -> None:
    while True:
        width, height = full.size()
        full.draw(screen(view, width, height), width, height)
        numbers, pressed = signals.wait(keys)
        if numbers & ENDING or pressed is None or "q" in pressed.lower():
            return
        if signal.SIGTSTP in numbers:
            full.leave()
            signals.stop()
            full.enter()
        if signal.SIGCONT in numbers:  # the shell had the terminal in between
            full.enter()
        for key in pressed:
            view = view.pressed(key)
        view = _told(view, looks)


def _told(view: View, looks: Looks) -> View:
    while True:
        try:
            answer = looks.get_nowait()
        except Empty:
            return view
        if isinstance(answer, Look):
            view = view.answered(answer)
        elif isinstance(answer, CgpuError):
            view = view.failed(answer.message, answer.remedy)
        else:
            raise answer


@contextmanager
def _looking(settings: Settings, interval_seconds: float, signals: Signals) -> Iterator[Looks]:
    """What the agent answers, in a thread: keys and signals do not wait for an agent that hangs."""
    looks: Looks = SimpleQueue()
    ended = threading.Event()

    def look_on() -> None:
        while not ended.is_set():
            began = time.monotonic()
            try:
                looks.put(_look(settings))
            except Exception as error:  # noqa: BLE001 - raised again by who draws, once the terminal is given back
                looks.put(error)
            signals.wake()
            ended.wait(max(0.0, began + interval_seconds - time.monotonic()))

    threading.Thread(target=look_on, daemon=True).start()
    try:
        yield looks
    finally:
        ended.set()


def _look(settings: Settings) -> Look:
    client = AgentClient.of(settings)  # each time: which agent is this user's may change
    gpus, tenants = client.get("/v1/gpus"), client.get("/v1/tenants")
    return Look(gpus, tenants, time.monotonic_ns(), datetime.now().astimezone().strftime("%H:%M:%S"))

"""Where ``cgpu doctor`` has its facts from: this node, files, or a cluster."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from cgpu.cli.small_files import STDIN, called, read_text
from cgpu.doctor.facts import Facts

_PROGRESS_SECONDS: Final = 0.2
_NODE: Final = Path("/")

Progress = Callable[[int, int | None], None]


def facts_of(options: argparse.Namespace) -> Generator[tuple[str, Facts], None, None]:
    """What each node is called if its facts do not name it, and its facts.

    Close it when you leave it early: what probes a cluster has something to put away.
    """
    if options.cluster:
        with closing(_of_cluster(options)) as cluster:
            for facts in cluster:
                yield "", facts
    elif options.facts:
        yield from _of_files(options.facts)
    else:
        yield "", _of_node(options)


def _of_node(options: argparse.Namespace) -> Facts:
    from cgpu.doctor.probes import HostCommands, probe_node

    if options.root is None:
        return probe_node(_NODE, runner=HostCommands(), metadata=options.metadata)
    return probe_node(options.root, runner=None, metadata=options.metadata)


def _of_files(paths: list[str]) -> Iterator[tuple[str, Facts]]:
    from cgpu.doctor.facts_file import parse_facts

    read = []
    for path in paths:  # all of them before the first is examined: a mistake in the last is told at once
        node = called(path) if path == STDIN else Path(path).name
        read.append((node, parse_facts(read_text(path), called(path))))
    yield from read


def _of_cluster(options: argparse.Namespace) -> Generator[Facts, None, None]:
    from cgpu.adapters.cluster_facts import ProbeOptions, facts_of_cluster

    probe = None
    if options.probe:
        probe = ProbeOptions() if options.probe_image is None else ProbeOptions(image=options.probe_image)
    with _progress() as tell:
        yield from facts_of_cluster(options.kubeconfig, options.context, options.selector, probe, tell)


class _progress:  # noqa: N801 - used as a context manager's function
    """A line on the terminal that says how far it is; nothing where stderr is none."""

    def __init__(self) -> None:
        self._shown = False
        self._next = 0.0

    def __enter__(self) -> Progress:
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _tell(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now < self._next or not sys.stderr.isatty():
            return
        self._next, self._shown = now + _PROGRESS_SECONDS, True
        of = "" if total is None else f" of {total}"
        sys.stderr.write(f"\r\x1b[Kcgpu doctor: {done}{of} nodes")
        sys.stderr.flush()

"""What is to be seen of a cluster in which a test has failed: who has ended, what is not ready, where agents stand."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.e2e.kube.cluster import Cluster
from tests.e2e.kube.worker import Worker

_LINES: Final = 40
_AGENTS_LINES: Final = 400  # each of its threads has some ten
_STACKS_S: Final = 1.0  # an agent's threads are written down at once


def signs_of(cluster: Cluster) -> str:
    """For a person to read; what the API server cannot be asked any more is shown by its refusal."""
    parts = [*cluster.control_plane.ended()]
    for worker in cluster.workers:
        parts += worker.ended()
    parts += [_listed(cluster, kind) for kind in ("nodes", "pods")]
    for worker in cluster.workers:
        worker.host.run("pkill", "-QUIT", "-f", "cgpu agent --kubernetes")
    time.sleep(_STACKS_S)
    for worker in cluster.workers:
        parts += _logs(worker)
    return "\n\n".join(parts)


def _listed(cluster: Cluster, kind: str) -> str:
    try:
        return cluster.control_plane.kubectl("get", kind, "-A", "-o=wide")
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return str(error)


def _logs(worker: Worker) -> Iterator[str]:
    for path in sorted((worker.folder / "pod-logs").glob("*/agent/*.log")):
        yield _last_lines(path, _AGENTS_LINES)
    for name in ("kubelet", "containerd"):
        yield _last_lines(worker.folder / f"{name}.log", _LINES)


def _last_lines(path: Path, most: int) -> str:
    with contextlib.suppress(OSError):  # it has been taken away meanwhile
        return "\n".join([f"{path}:", *path.read_text(errors="replace").splitlines()[-most:]])
    return f"{path} is gone"

"""Probing the nodes of a cluster: a pod on each, a few at once, and none left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.kube import Cluster
from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.process import ProcessTable
from cgpu.doctor.cluster import with_probe, without_probe
from cgpu.doctor.facts import Facts
from cgpu.doctor.probe_pod import (
    CONTAINER,
    NAME,
    NAME_LABEL,
    OWNER_LABEL,
    RUN_LABEL,
    ProbeError,
    ProbeList,
    ProbeOptions,
    archive_of,
    has_ended,
    is_leftover,
    manifest,
    pod_name,
    unpack,
)
from cgpu.errors import ClusterError

_FIRST_LOOK_S: Final = 0.2
_LOOK_S: Final = 1.0
_NOT_FOUND: Final = 404
_FORBIDDEN: Final = 403


def probed(
    cluster: Cluster,
    nodes: Iterable[Facts],
    options: ProbeOptions,
    wanted: ProbeList,
    read: Callable[[Path], Facts],
) -> Iterator[Facts]:
    """Each node's facts with those that its probe brought, as the probes end; at most ``at_once`` at a time.

    ``read`` makes facts of an unpacked folder. A node whose probe fails keeps its other facts, and
    each fact that is missing says why. However the iteration ends (also by SIGINT and SIGTERM, which
    raise KeyboardInterrupt within it), every pod that it created is deleted. What a killed run left
    behind is deleted at the beginning. Raises ClusterError when the pods may not be listed.
    """
    run = _Run(cluster, options, wanted, read)
    with _terminated_as_interrupted():
        run.remove_leftovers()
        yield from run.each(nodes)


class _Run:
    """One run of the doctor, which its pods are labelled with."""

    def __init__(
        self, cluster: Cluster, options: ProbeOptions, wanted: ProbeList, read: Callable[[Path], Facts]
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._wanted = wanted
        self._read = read
        self._namespace = options.namespace or cluster.namespace
        self._run = secrets.token_hex(4)
        self._owner = owner_of(os.getpid())
        self._stopped = threading.Event()

    def remove_leftovers(self) -> None:
        pods = list(self._cluster.pods(self._namespace, f"{NAME_LABEL}={NAME},{RUN_LABEL}!={self._run}"))
        for pod in pods:
            metadata = pod.get("metadata") or {}
            ended = has_owner_ended(str((metadata.get("labels") or {}).get(OWNER_LABEL) or ""))
            if is_leftover(pod, self._cluster.time, self._options.seconds, ended):
                self._delete(str(metadata["name"]))

    def each(self, nodes: Iterable[Facts]) -> Iterator[Facts]:
        running: set[Future[Facts]] = set()
        pool = ThreadPoolExecutor(self._options.at_once, thread_name_prefix="probe")
        try:
            for facts in nodes:
                running.add(pool.submit(self._facts, facts))
                if len(running) >= self._options.at_once:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            # Each thread deletes its own pod, at once when it sees that the run is over.
            self._stopped.set()
            self._cluster.hurry()
            pool.shutdown(wait=True, cancel_futures=True)

    def _facts(self, facts: Facts) -> Facts:
        try:
            return with_probe(facts, self._probe(facts.value("node")))
        except (ProbeError, ClusterError) as error:
            return without_probe(facts, error.message if isinstance(error, ClusterError) else str(error))

    def _probe(self, node: str) -> Facts:
        if self._stopped.is_set():
            raise ProbeError("the doctor was interrupted")
        name = pod_name(self._run, node)
        pod = manifest(node, self._run, self._owner, self._options, self._wanted)
        try:
            self._create(pod)
            self._wait(name)
            archive = archive_of(self._cluster.log(self._namespace, name, CONTAINER))
        finally:
            # Also when its creation failed: the answer may be what was lost.
            self._delete(name)
        try:
            folder = tempfile.TemporaryDirectory(prefix="cgpu-probe-")
        except OSError as error:
            raise ProbeError(f"there is no room for what it read: {error}") from error
        with folder as path:
            unpack(archive, Path(path))
            return self._read(Path(path))

    def _create(self, pod: Mapping[str, Any]) -> None:
        try:
            self._cluster.create_pod(self._namespace, pod)
        except ApiRefusedError as error:
            if error.status != _FORBIDDEN:
                raise
            allowed = f"pods with a hostPath volume must be allowed in the namespace {self._namespace}"
            raise ProbeError(f"{error.message}; {allowed}") from error

    def _wait(self, name: str) -> None:
        pause_s, waited_s = _FIRST_LOOK_S, 0.0
        while not self._stopped.wait(pause_s):
            try:
                if has_ended(self._cluster.pod(self._namespace, name)):
                    return
            except ApiRefusedError as error:
                if error.status == _NOT_FOUND:
                    raise ProbeError("somebody deleted its pod") from error
                raise
            waited_s += pause_s
            if waited_s > self._options.seconds:
                raise ProbeError(f"its pod did not end in {self._options.seconds} s: is the kubelet well?")
            pause_s = min(2 * pause_s, _LOOK_S)
        raise ProbeError("the doctor was interrupted")

    def _delete(self, name: str) -> None:
        # A pod that can't be deleted ends by its own deadline, and the next run removes it.
        with contextlib.suppress(ClusterError):
            self._cluster.delete_pod(self._namespace, name)


def owner_of(pid: int, table: ProcessTable | None = None) -> str:
    """A label value that tells a process of this machine from every other; ``unknown`` where /proc can't tell."""
    table = table or ProcessTable()
    identity = table.identity(pid)
    if identity is None:
        return "unknown"
    return f"{_machine(identity.pid_namespace)}-{pid}-{identity.start_ticks}"


def has_owner_ended(owner: str, table: ProcessTable | None = None) -> bool:
    """Whether a label value of ``owner_of`` names a process of this machine that runs no more."""
    machine, _, rest = owner.partition("-")
    pid, _, ticks = rest.partition("-")
    if not pid.isdecimal() or not ticks.isdecimal():
        return False
    table = table or ProcessTable()
    here = table.identity(os.getpid())
    return here is not None and machine == _machine(here.pid_namespace) and table.start_ticks(int(pid)) != int(ticks)


def _machine(pid_namespace: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = ""
    return hashlib.sha256(f"{boot}{pid_namespace}".encode()).hexdigest()[:12]


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt, so that what must be cleaned up is."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change what a signal does
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

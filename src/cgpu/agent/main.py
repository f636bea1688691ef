"""The agent's life: one process per node (or per user, when private), from its locks to its last tick."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Final

from cgpu.adapters.alibaba import sign_of_cgpu
from cgpu.adapters.allocator import limit_arenas
from cgpu.adapters.arbiter import NativeArbiter
from cgpu.adapters.cdi.driver_files import CUDA, NVML, driver_tree
from cgpu.adapters.cgroup import CgroupTree
from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.adapters.context_probe import measure_context
from cgpu.adapters.notify import READY, STOPPING, notify
from cgpu.adapters.nvml import NvmlNode
from cgpu.adapters.process import ProcessTable, ProcessWatch, pidfd_error
from cgpu.adapters.vigil import Ending, Vigil
from cgpu.agent.api import Api
from cgpu.agent.fitness import check_node
from cgpu.agent.folder import RuntimeFolder
from cgpu.agent.ledger import Ledger
from cgpu.agent.locks import GpuLocks
from cgpu.agent.ports import ArbiterControl, GpuNode
from cgpu.agent.reconcile import Reconciler
from cgpu.agent.rounds import Rounds
from cgpu.agent.server import ApiServer
from cgpu.agent.state import NodeState
from cgpu.agent.views import Views
from cgpu.errors import DriverError, RefusedError, StateError
from cgpu.settings import Settings

_LOG: Final = logging.getLogger(__name__)
_NS_PER_S: Final = 10**9
_CHORES_NS: Final = 10**9
_PREDECESSOR_SECONDS: Final = 5.0
_FIRST_TENANT_SECONDS: Final = 30.0  # how long a private agent waits for the tenant it was started for

_LEAVES_SECONDS: Final = 2.0  # how long a private agent waits at its end for processes that are ending

Beside = Callable[[NodeState, GpuNode], AbstractContextManager[object]]


def _nothing_beside(_: NodeState, __: GpuNode) -> AbstractContextManager[object]:
    return nullcontext()


class Agent:
    """Everything that runs in the daemon, put together."""

    def __init__(
        self,
        settings: Settings,
        arbiter: ArbiterControl,
        node: GpuNode,
        *,
        private: bool,
    ) -> None:
        """Take the folder and its lock, and recover. Raises AgentError when another agent has them.

        Where Alibaba's cGPU becomes active later, who has a share keeps it, and nobody else gets one.
        """
        self._settings = settings
        self._node = node
        self._private = private
        self._arbiter = arbiter
        self._cleanup = ExitStack()
        with ExitStack() as undo:
            # A private agent may be started in the moment in which the one before it ends.
            patience = _PREDECESSOR_SECONDS if private else 0.0
            self._folder = RuntimeFolder(settings.runtime_dir, settings.agent_lock, patience)
            undo.callback(self._folder.close)
            self._watch = ProcessWatch()
            undo.callback(self._watch.close)
            processes, cgroups = ProcessTable(watch=self._watch), CgroupTree()
            driver = driver_tree(settings)
            cuda = None if driver is None else driver.library_here(CUDA)
            locks = GpuLocks(settings.lock_dir)
            undo.callback(locks.release)
            if not private:
                for gpu in node.gpus():
                    locks.acquire(gpu)
            self.state = NodeState(
                tenants_dir=settings.tenants_dir,
                node=node,
                store=CheckpointStore(settings.checkpoint),
                arbiter=arbiter,
                cgroups=cgroups,
                processes=processes,
                locks=locks,
                ledger=Ledger(settings.account),
                measure_context=lambda gpu: measure_context(gpu, node.processes, settings.sim_state, cuda),
                check_node=lambda: _refuse_beside_alibaba(settings),
            )
            undo.callback(self.state.close)
            arbiter.start()
            undo.callback(arbiter.stop)
            self.state.recover()
            self._reconciler = Reconciler(self.state, node)
            views = Views(self.state, node, private=private, runtime_dir=str(settings.runtime_dir))
            self._api = Api(self.state, views, os.geteuid(), self._watch.wake)
            self._server = ApiServer(settings.agent_socket, self._api)
            self._cleanup = undo.pop_all()
        self._stopping = threading.Event()
        self._said: set[str] = set()

    def stop(self) -> None:
        """End ``run`` soon; may be called from a signal handler."""
        self._stopping.set()
        self._watch.wake()

    def run(self, ready: Callable[[], None] = lambda: None, beside: Beside = _nothing_beside) -> None:
        """Serve until stopped, or, for a private agent, until the last tenant has gone."""
        self._serve()
        try:
            with beside(self.state, self._node):
                ready()
                self._loop()
        finally:
            notify(STOPPING)
            self._end_server()
            self._cleanup.close()

    def _serve(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="api", daemon=True).start()

    def _end_server(self) -> None:
        self._server.withdraw()
        self._server.shutdown()
        self._server.server_close()

    def _make_folder_again(self) -> None:
        """Bring back what somebody has cleared: the tenants go on, and nothing of them is forgotten.

        Raises AgentError when another agent has taken the folder or a GPU meanwhile.
        """
        try:
            if self._folder.was_cleared():
                _LOG.warning("%s was cleared under this agent: it is made again", self._settings.runtime_dir)
                self._folder.make_again()
                self.state.write_again()
            if not self._server.is_reachable():
                new = ApiServer(self._settings.agent_socket, self._api)
                self._end_server()
                self._server = new
                self._serve()
        except StateError as error:
            if error.message not in self._said:
                _LOG.warning("%s", error)
            self._said.add(error.message)

    def _keep_vigil(self) -> Ending | None:
        """Until something happens on a node on which nothing does; None: the next tick may find something to do."""
        if not self._reconciler.is_idle():
            return None
        names = (self._settings.runtime_dir, self._settings.agent_lock, self._settings.agent_socket)
        try:
            questions = [self._node.questions(gpu) for gpu in self._node.gpus()]
        except DriverError:
            return None  # a look says what is wrong
        vigil = Vigil(self.state.region_files(), questions, names)
        until_ns = self._reconciler.rests_until_ns()  # of what the vigil has seen before, or newer
        if until_ns is None:
            return None
        left_ns = max(0, until_ns - time.monotonic_ns())
        return vigil.wait(self._watch.fileno(), self._settings.reconcile_seconds * 2, left_ns / _NS_PER_S)

    def _loop(self) -> None:
        had_tenant = False
        started = time.monotonic()
        rounds = Rounds(round(self._settings.reconcile_seconds * _NS_PER_S), _CHORES_NS)
        all_cards = touched = frozenset(gpu.uuid for gpu in self.state.gpus())
        woken = first_ended = True
        while not self._stopping.is_set():
            now_ns = time.monotonic_ns()
            turn = rounds.turn(now_ns, self.state.card_groups(), touched, woken=woken)
            if turn.chores:
                self._make_folder_again()
            watched = self._reconciler.tick(now_ns, turn.groups, chores=turn.chores, ended=first_ended)
            had_tenant |= watched.tenants_left > 0
            waited_long = time.monotonic() - started > _FIRST_TENANT_SECONDS
            if (
                self._private
                and watched.tenants_left == 0
                and (had_tenant or waited_long)
                and self.state.close_if_empty()
            ):
                _LOG.info("the last tenant has gone")
                self.state.remove_leaves(_LEAVES_SECONDS)
                return
            self._watch.watch_only(watched.host_pids)
            wait_ns = rounds.wait_ns(now_ns, watched.stirred, rests=watched.rests)
            ending = self._keep_vigil() if watched.rests else None
            ended = self._watch.wait(wait_ns / _NS_PER_S if ending is None else 0)
            touched = self._reconciler.cards_of(ended) if ending in (None, Ending.CALLED) else all_cards
            is_early = time.monotonic_ns() - now_ns < wait_ns if ending is None else ending is Ending.CALLED
            first_ended = not ended.isdisjoint(watched.firsts)
            woken = first_ended or (not ended and is_early)


def run_agent(
    settings: Settings,
    *,
    private: bool = False,
    ready: Callable[[], None] = lambda: None,
    beside: Beside | None = None,
) -> None:
    """Be the agent until SIGTERM or SIGINT. ``ready`` is called once the socket answers.

    SIGQUIT writes to stderr where each thread is, and changes nothing.

    ``beside`` makes what runs while it serves, such as Kubernetes' node driver; it is also there where
    Alibaba's cGPU is active, since it has to tell the cluster and to serve the pods that run.

    Raises AgentError when another agent has the folder or a GPU, DriverError without NVML or with a driver that is too
    old, RefusedError where Alibaba's cGPU is active or the kernel lacks what is needed, StateError when the folder or
    the checkpoint cannot be used.
    """
    if beside is None:
        _refuse_beside_alibaba(settings)
    limit_arenas(1)  # with 20 callers at a time the others held 30 MiB
    driver = driver_tree(settings)
    node = NvmlNode(settings.sim_state, None if driver is None else driver.library_here(NVML))
    for words in check_node(node.driver_version(), os.uname().release, pidfd_error()):
        _LOG.warning("%s", words)
    agent = Agent(settings, NativeArbiter(), node, private=private)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    faulthandler.register(signal.SIGQUIT)  # from C: also where a thread that has a lock stands still
    _LOG.info(
        "agent of %d GPUs on %s%s",
        len(node.gpus()),
        settings.agent_socket,
        " (simulated)" if settings.sim_state else "",
    )

    def tell_ready() -> None:
        gc.freeze()  # what was imported stays: it is not gone over each time, which stops all threads
        notify(READY, f"STATUS=serving {len(node.gpus())} GPUs, {len(agent.state.records())} tenants taken over")
        ready()

    agent.run(tell_ready, beside or _nothing_beside)
    node.close()


def _refuse_beside_alibaba(settings: Settings) -> None:
    """Two that share one card would promise its memory and time twice. A simulated card is nobody's."""
    sign = sign_of_cgpu(settings.host_root) if settings.sim_state is None else ""
    if sign:
        raise RefusedError(
            f"Alibaba's cGPU is active on this node ({sign}): its GPUs cannot be shared by two systems",
            "take the node out of its sharing (label ack.node.gpu.schedule=default), uninstall it and reboot;"
            " `cgpu doctor` shows the node",
        )

"""The settings of this process: one frozen object, read once at the edge from the environment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cgpu.model import container


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are and how often they are looked at. Tests make their own."""

    runtime_dir: Path
    """Folder of the agent: socket, checkpoint, log, regions. ``CGPU_RUNTIME_DIR``; by default
    /run/cgpu for root, $XDG_RUNTIME_DIR/cgpu for a user who has one, else /tmp/cgpu-<uid>. It goes
    with a reboot, as the tenants do."""

    agent_socket: Path
    """The agent's Unix socket. ``CGPU_AGENT_SOCKET``; by default ``agent.sock`` in the runtime folder."""

    lock_dir: Path
    """Folder of the lock files that keep two agents from one GPU. ``CGPU_LOCK_DIR``; by default
    /run/lock, or /tmp where that is not: the same for all users of the machine. A simulated
    machine's are in its state folder, and go with it."""

    sim_state: Path | None = None
    """State folder of the simulated machine that this process is on. ``CGPU_SIM_STATE``; None: the
    real one."""

    region: Path | None = None
    """The region that this process is a tenant of. In a container the one that is mounted there, whatever
    the environment says, as for the shim; else ``CGPU_REGION``. None: not a tenant."""

    host_root: Path = Path("/")
    """Root folder of the node's files, for an agent that has them mounted elsewhere. ``CGPU_HOST_ROOT``;
    by default /. Only what tells whether Alibaba's cGPU is active, and the cards' NUMA nodes, is read below it."""

    driver_root: Path | None = None
    """Folder of the node below which NVIDIA's driver is, such as / or /run/nvidia/driver, for the containers of
    Kubernetes' claims. ``CGPU_DRIVER_ROOT``; None: NVIDIA's container runtime brings it to them."""

    driver_tree: Path | None = None
    """Where that folder is for the agent, which may have it mounted elsewhere. ``CGPU_DRIVER_TREE``; None: there."""

    reconcile_seconds: float = 0.4
    """The longest time between two comparisons with NVML. A dead process's charge has to go within
    1 s of the card's releasing its memory, and an estimate, which has to be seen twice, is corrected
    within 1 s: so less than half of that."""

    agent_start_seconds: float = 20.0
    """How long ``cgpu run`` waits for a private agent to answer. NVML alone may take several
    seconds to start on a machine with many cards."""

    agent_answer_seconds: float = 10.0
    """How long a client waits for an answer of the agent. No request waits for a tenant."""

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] = os.environ,
        uid: int | None = None,
        mounted_region: Path = Path(container.REGION),
    ) -> Settings:
        """Read once, at the start of a program."""
        runtime = _runtime_dir(environment, os.geteuid() if uid is None else uid)
        sim_state = _path(environment, "CGPU_SIM_STATE")
        if sim_state is not None:
            runtime = runtime / simulated_node(sim_state)
        return cls(
            runtime_dir=runtime,
            agent_socket=_path(environment, "CGPU_AGENT_SOCKET") or runtime / "agent.sock",
            lock_dir=_path(environment, "CGPU_LOCK_DIR") or sim_state or _lock_dir(),
            sim_state=sim_state,
            region=mounted_region if mounted_region.exists() else _path(environment, "CGPU_REGION"),
            host_root=_path(environment, "CGPU_HOST_ROOT") or Path("/"),
            driver_root=_path(environment, "CGPU_DRIVER_ROOT"),
            driver_tree=_path(environment, "CGPU_DRIVER_TREE"),
        )

    @property
    def tenants_dir(self) -> Path:
        """Folder with one region per tenant."""
        return self.runtime_dir / "tenants"

    @property
    def agent_lock(self) -> Path:
        """The file that an agent keeps locked until it has let go of everything in the runtime folder."""
        return self.runtime_dir / "agent.lock"

    @property
    def checkpoint(self) -> Path:
        """The agent's checkpoint."""
        return self.runtime_dir / "checkpoint.json"

    @property
    def account(self) -> Path:
        """The agent's ledger of time."""
        return self.runtime_dir / "account.sqlite3"


def simulated_node(sim_state: Path) -> str:
    """The name of the folder of a simulated machine's agent: one agent per machine, whatever its path."""
    return "sim-" + hashlib.sha256(str(sim_state.resolve()).encode()).hexdigest()[:12]


def _runtime_dir(environment: Mapping[str, str], uid: int) -> Path:
    given = _path(environment, "CGPU_RUNTIME_DIR")
    if given is not None:
        return given
    if uid == 0:
        return Path("/run/cgpu")
    user = _path(environment, "XDG_RUNTIME_DIR")
    return user / "cgpu" if user is not None else _temporary() / f"cgpu-{uid}"


def _lock_dir() -> Path:
    lock = Path("/run/lock")
    return lock if lock.is_dir() else _temporary()


def _temporary() -> Path:
    import tempfile  # seldom needed, and a tenth of the time in which `cgpu run` starts

    return Path(tempfile.gettempdir())


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(name, "")
    return Path(text).absolute() if text else None

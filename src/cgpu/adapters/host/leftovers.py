"""What agents leave in their folder and beside it, for the end of an installation."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cgpu.adapters.host_files import Change, Remove, RemoveIfEmpty
from cgpu.settings import Settings

_OF_TENANTS = ("tenants", "lib", "cdi", "checkpoint.json*")
_LEDGER = "account.sqlite3*"
_OF_AGENT = ("agent.sock", ".agent.sock.new", "agent.lock", "start.lock", "agent.log")


def leftovers(settings: Settings, *, tenants: bool, ledger: bool) -> list[Change]:
    """What to take away once no agent runs. ``tenants``: also what living ones would need.

    Other agents' folders in it, of simulated machines, stay.
    """
    folder = settings.runtime_dir
    patterns = (*_OF_AGENT, *(_OF_TENANTS if tenants else ()), *((_LEDGER,) if ledger else ()))
    changes: list[Change] = [Remove(path, tree=True) for pattern in patterns for path in sorted(folder.glob(pattern))]
    if settings.agent_socket.parent != folder:
        changes.append(Remove(settings.agent_socket))
    changes += [Remove(path) for path in sorted(_free_locks(settings.lock_dir))]
    changes.append(RemoveIfEmpty(folder))
    # The folder of a simulated machine's agent lies in the one that the node's would have.
    return changes if settings.sim_state is None else [*changes, RemoveIfEmpty(folder.parent)]


def _free_locks(folder: Path) -> Iterator[Path]:
    """Files of locks of GPUs that no agent holds."""
    for path in folder.glob("cgpu-GPU-*.lock"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path
            finally:
                os.close(descriptor)

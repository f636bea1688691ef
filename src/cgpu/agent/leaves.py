"""The leaves of tenants that have ended: a cgroup can be removed only once the last process in it is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from cgpu.adapters.cgroup import is_leaf_of
from cgpu.agent.documents import Record
from cgpu.agent.ports import Cgroups

_LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 150  # one a tick: about a minute


def leaves_of(records: Iterable[Record]) -> frozenset[str]:
    """The cgroups that were made for these tenants. One that a tenant came with, or a container's, is not ours."""
    return frozenset(
        record.tenant.cgroup
        for record in records
        if not record.tenant.container and is_leaf_of(record.tenant.cgroup, record.tenant.id)
    )


class Leaves:
    """Those that are to be removed. The caller holds the state's lock."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._tries: dict[str, int] = {}

    @property
    def paths(self) -> frozenset[str]:
        """Those that may still be there."""
        return frozenset(self._tries)

    def keep_only(self, paths: frozenset[str]) -> None:
        """These and no others are to be removed."""
        self._tries = {path: self._tries.get(path, 0) for path in paths}

    def remove(self) -> None:
        """Try once; what stays is tried again at the next call, for about a minute."""
        for path, tries in list(self._tries.items()):
            if self._cgroups.remove_leaf(path):
                del self._tries[path]
            elif tries + 1 < _TRIES:
                self._tries[path] = tries + 1
            else:
                del self._tries[path]
                _LOG.warning("cgroup %s stays: it cannot be removed", path)

    def remove_at_end(self, seconds: float) -> None:
        """Nobody tries again: wait for the last processes in them to be gone, at most so long for all of them."""
        deadline = time.monotonic() + seconds
        self.remove()
        for path in self._tries:
            self._cgroups.wait_until_empty(path, max(0.0, deadline - time.monotonic()))
        self.remove()

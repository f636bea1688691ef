"""Whether a container's first user may use the simulated machine, whose state its driver writes.

On a real card the driver's device nodes are there for everybody.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cgpu.errors import RefusedError

_READ_WRITE: Final = stat.S_IROTH | stat.S_IWOTH
_NOBODY: Final = 65534  # the kernel's overflow user


def check_access(state: Path, config: Mapping[str, Any]) -> None:
    """Raises RefusedError where the state folder's modes keep the container's user out, as the driver would find."""
    mappings = (config.get("linux") or {}).get("uidMappings") or []
    user = host_user(((config.get("process") or {}).get("user") or {}).get("uid", 0), mappings)
    if user == 0:
        return  # root, and in no user namespace
    for path, wanted in ((state, stat.S_IXOTH), *((file, _READ_WRITE) for file in state.iterdir())):
        status = path.stat()
        given = status.st_mode >> 6 if status.st_uid == user else status.st_mode
        if given & wanted != wanted:
            raise RefusedError(
                f"{path} is closed to the container's user, on the host {user}",
                f"chmod -R a+rwX {state}: a simulated machine has nothing to protect",
            )


def host_user(user: int, mappings: Iterable[Mapping[str, int]]) -> int:
    """A container's user as the host sees it; the overflow user where nothing maps it."""
    rows = list(mappings)
    for row in rows:
        offset = user - row["containerID"]
        if 0 <= offset < row["size"]:
            return row["hostID"] + offset
    return _NOBODY if rows else user

"""Control groups: which one a process is in, and a leaf of its own for a tenant where that may be made."""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


class CgroupTree:
    """The cgroup v2 hierarchy of this host, if one is mounted (also beside v1)."""

    def __init__(self, mounts: tuple[Path, ...] = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))) -> None:
        # cgroup.procs is in the root of a v2 hierarchy and, with v1, only inside the controllers' own.
        self.root = next((mount for mount in mounts if (mount / "cgroup.controllers").is_file()), None)
        self._only_v2 = self.root == mounts[0]

    def of(self, host_pid: int, proc: Path = _PROC) -> str:
        """Path of the process's cgroup: v2's, or v1's first when v2 says no more than ``/``; "" when it is gone."""
        try:
            lines = (proc / str(host_pid) / "cgroup").read_text().splitlines()
        except OSError:
            return ""
        paths = {line.split(":", 2)[0]: line.split(":", 2)[2] for line in lines if line.count(":") >= 2}
        unified = paths.get("0", "")
        if unified not in ("", "/"):
            return unified
        return next((path for path in paths.values() if path != "/"), unified)

    def unified_of(self, host_pid: int, proc: Path = _PROC) -> str | None:
        """Path of the process's v2 cgroup, None when there is none."""
        try:
            lines = (proc / str(host_pid) / "cgroup").read_text().splitlines()
        except OSError:
            return None
        return next((line[3:] for line in lines if line.startswith("0::")), None)

    def plan_leaf(self, tenant_id: str, host_pid: int) -> str:
        """Where a leaf for the tenant would be: below the process's own cgroup, so that its limits keep holding.

        "" where none can be made: an ordinary user, or no cgroup v2.
        """
        parent = self.unified_of(host_pid)
        if self.root is None or parent is None or os.geteuid() != 0:
            return ""
        return parent if is_leaf_of(parent, tenant_id) else str(Path(parent) / _leaf(tenant_id))

    def enter_leaf(self, path: str, host_pid: int) -> bool:
        """Make the leaf and move the process into it; False where that is refused. Idempotent."""
        if self.root is None or not path:
            return False
        folder = self.root / path.lstrip("/")
        try:
            folder.mkdir(exist_ok=True)
            (folder / "cgroup.procs").write_text(str(host_pid))
        except OSError:
            self.remove_leaf(path)
            return False
        return True

    def folder(self, path: str) -> Path | None:
        """Folder of a cgroup that exists in a hierarchy of v2 alone, as the driver's memory limits need it."""
        if self.root is None or not self._only_v2 or not path.startswith("/") or ".." in Path(path).parts:
            return None
        folder = self.root / path.lstrip("/")
        return folder if folder.is_dir() else None

    def populated(self, path: str, proc: Path = _PROC) -> bool:
        """Whether a process lives in the cgroup or below it; False when it is gone.

        One of v1 does not say so itself: there every process is asked.
        """
        if path in ("", "/"):
            return False
        if self.root is not None:
            with contextlib.suppress(OSError):
                return "populated 1" in (self.root / path.lstrip("/") / "cgroup.events").read_text()
            if self._only_v2:
                return False
        return any(
            is_within(self.of(int(entry.name), proc), path) for entry in proc.iterdir() if entry.name.isdecimal()
        )

    def wait_until_empty(self, path: str, seconds: float) -> None:
        """Return once no process lives in the cgroup of v2 or below it, or after so long.

        A process that is ending is in no list any more, and keeps its cgroup all the same: the kernel tells when
        it is gone.
        """
        if self.root is None:
            return
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError), (self.root / path.lstrip("/") / "cgroup.events").open("rb") as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)
            while b"populated 1" in os.pread(file.fileno(), 4096, 0):
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return

    def remove_leaf(self, path: str) -> bool:
        """Remove a leaf made here; what still runs in it goes back to where it came from.

        False when that fails, as it does while a process in it is ending.
        """
        if self.root is None or not path:
            return True
        folder = self.root / path.lstrip("/")
        try:
            for host_pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    (folder.parent / "cgroup.procs").write_text(host_pid)
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def _leaf(tenant_id: str) -> str:
    return f"cgpu-{tenant_id}"


def is_leaf_of(cgroup: str, tenant_id: str) -> bool:
    """Whether the cgroup is one that ``plan_leaf`` has named for the tenant."""
    return Path(cgroup).name == _leaf(tenant_id)


def is_within(cgroup: str, ancestor: str) -> bool:
    """Whether a cgroup is ``ancestor`` or below it. The root and "" tell nobody apart."""
    return ancestor not in ("", "/") and (cgroup == ancestor or cgroup.startswith(ancestor.rstrip("/") + "/"))

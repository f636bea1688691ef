"""OCI configurations, as an engine writes them: namespaces, a cgroup, the usual mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.e2e import image
from tests.e2e.wanted import Wanted

_CAPABILITIES: Final = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_SETGID",
    "CAP_SETUID", "CAP_SYS_CHROOT",
]  # fmt: skip
_MOUNTS: Final = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "mode=755")),
    ("/dev/pts", "devpts", "devpts", ("newinstance",)),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "nodev", "mode=1777")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)


def config(name: str, rootfs: Path, wanted: Wanted, cgroup_namespace: bool) -> dict[str, Any]:
    """The configuration of a container on that root file system."""
    mounts = [
        {"destination": where, "type": kind, "source": source, "options": list(options)}
        for where, kind, source, options in _MOUNTS
    ]
    for volume in wanted.volumes:
        access = "rw" if volume.writable else "ro"
        mounts.append(
            {
                "destination": volume.destination,
                "type": "bind",
                "source": str(volume.source),
                "options": ["rbind", access],
            }
        )
    env = [f"{key}={value}" for key, value in {"PATH": image.PATH, **wanted.env}.items()]
    rights = dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES)
    kinds = ("pid", "mount", "ipc", "uts", "network", *(("cgroup",) if cgroup_namespace else ()))
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": wanted.user, "gid": wanted.user},
            "args": list(wanted.command),
            "env": env,
            "cwd": "/",
            "capabilities": rights,
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs)},
        "mounts": mounts,
        "annotations": dict(wanted.annotations),
        "linux": {
            "cgroupsPath": f"/cgpu-e2e/{name}",
            "resources": {} if wanted.memory_bytes is None else {"memory": {"limit": wanted.memory_bytes}},
            "namespaces": [{"type": kind} for kind in kinds],
        },
    }


def add_user_namespace(made: dict[str, Any], first_user: int) -> None:
    """Give the configuration a user namespace whose root is that user of the host."""
    made["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        made["linux"][kind] = [{"containerID": 0, "hostID": first_user, "size": 65536}]

"""The files that the probes read: one list for the probes, for bundles and for a probe on another machine."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cgpu.doctor.probes.tree import Tree, UnknownError

_SHORT: Final = 4096
_MIB: Final = 1 << 20

AGENT_SOCKET: Final = "run/cgpu/agent.sock"
CDI_FOLDERS: Final = ("etc/cdi", "var/run/cdi")  # the defaults of the CDI specification
CGROUP_1_MEMORY: Final = "sys/fs/cgroup/memory/memory.limit_in_bytes"
CGROUP_2: Final = "sys/fs/cgroup/cgroup.controllers"
CGPU_VERSION: Final = "proc/cgpu_km/version"
CHECKPOINT: Final = "run/cgpu/checkpoint.json"
CPU_MANAGER_STATE: Final = "var/lib/kubelet/cpu_manager_state"
DPKG_STATUS: Final = "var/lib/dpkg/status"
DRIVER_MODULE: Final = "sys/module/nvidia/version"
DRIVER_VERSION: Final = "proc/driver/nvidia/version"
GPU_INFORMATION: Final = "proc/driver/nvidia/gpus/*/information"
HOSTNAME: Final = "etc/hostname"
KERNEL: Final = "proc/sys/kernel/osrelease"
KUBELET_CONFIG: Final = "var/lib/kubelet/config.yaml"
MODULES: Final = "proc/modules"
MOUNTS: Final = "proc/self/mountinfo"
MUSL: Final = "lib/ld-musl-*.so.1"
OS_RELEASE: Final = ("etc/os-release", "usr/lib/os-release")  # the order of os-release(5)
PCI_CLASS: Final = "sys/bus/pci/devices/*/class"
PCI_VENDOR: Final = "sys/bus/pci/devices/*/vendor"
SECCOMP_ACTIONS: Final = "proc/sys/kernel/seccomp/actions_avail"
LIBC: Final = tuple(f"{folder}/libc.so.6" for folder in ("usr/lib/*", "usr/lib64", "usr/lib", "lib/*", "lib64", "lib"))
RECORDED: Final = ".cgpu-probe/*"

LIMITS: Final[Mapping[str, int]] = {
    AGENT_SOCKET: 0,
    **{f"{folder}/": 0 for folder in CDI_FOLDERS},
    CGROUP_1_MEMORY: _SHORT,
    CGROUP_2: _SHORT,
    CGPU_VERSION: _SHORT,
    CHECKPOINT: 4 * _MIB,  # 20 tenants on each of 16 GPUs are 0.1 MB
    CPU_MANAGER_STATE: _MIB,
    DPKG_STATUS: 32 * _MIB,  # 5,000 packages are 5 MB
    DRIVER_MODULE: _SHORT,
    DRIVER_VERSION: _SHORT,
    GPU_INFORMATION: _SHORT,
    HOSTNAME: _SHORT,
    KERNEL: _SHORT,
    KUBELET_CONFIG: _MIB,
    MODULES: _MIB,
    MOUNTS: 16 * _MIB,  # some lines a container
    MUSL: 0,
    **dict.fromkeys(OS_RELEASE, 1 << 16),
    PCI_CLASS: _SHORT,
    PCI_VENDOR: _SHORT,
    SECCOMP_ACTIONS: _SHORT,
    **dict.fromkeys(LIBC, 8 * _MIB),  # 2 MB without debug information
    RECORDED: 1 << 16,
}
"""The most bytes that are read of each; 0: only whether it is there counts. Nothing else is read."""

PROBE_FILES: Final = tuple(LIMITS)
"""Paths and globs (``*`` within a name) below the root of a node. One with a slash at its end is a folder
of which only the existence counts, not what is in it."""


@dataclass(frozen=True, slots=True)
class Collected:
    """One of the files as it was found: whoever writes ``data`` to ``path`` has what the probes need of it."""

    path: str
    """Below the root; with a slash at its end a folder."""

    data: bytes


def collected(tree: Tree) -> Iterator[Collected]:
    """All of them that can be read; what cannot is left out, and a socket comes as an empty file.

    Of the C library's copies (``lib`` is often a link to ``usr/lib``) there is one of each content.
    """
    libraries = set()
    for pattern, limit in LIMITS.items():
        for path in _found(tree, pattern):
            try:
                data = tree.read(path, limit) if limit else b""
            except UnknownError:
                continue
            if pattern in LIBC:
                if data in libraries:
                    continue
                libraries.add(data)
            yield Collected(path, data)


def _found(tree: Tree, pattern: str) -> list[str]:
    try:
        if pattern.endswith("/"):
            return [pattern] if tree.is_folder(pattern) else []
        return [path for path in tree.glob(pattern) if not stat.S_ISDIR(tree.mode(path) or 0)]
    except UnknownError:
        return []

"""Facts of the operating system: kernel, distribution, control groups, seccomp, C library, name."""

from __future__ import annotations

import re
import shlex
from typing import Final

from cgpu.doctor import container_os as container_os_names
from cgpu.doctor.facts import ABSENT, Fact
from cgpu.doctor.probes import files
from cgpu.doctor.probes.node import Node, first_known, quoted, version_fact
from cgpu.doctor.probes.tree import UnknownError

_OS_NAMES: Final = ("ID", "NAME", "PRETTY_NAME", "VARIANT", "VARIANT_ID", "VERSION")

_CGROUP_1_CONTROLLERS: Final = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "net_cls", "net_prio", "blkio", "perf_event", "pids"}
    | {"hugetlb", "rdma", "misc"}
)  # cgroups(7)
_LDD: Final = re.compile(r"^ldd \(.{1,200}\) ([0-9.]+)$", re.MULTILINE)
_LIBC: Final = re.compile(
    rb"GNU C Library \([^)\0]{1,200}\) (?:stable|development) release version ([0-9]+(?:\.[0-9]+)+)"
)


def kernel(node: Node) -> Fact:
    """The running kernel: in a container too it is the node's."""
    return version_fact("kernel", node.text(files.KERNEL), f"/{files.KERNEL}")


def distribution(node: Node) -> Fact:
    """PRETTY_NAME, or what stands for it (os-release(5))."""
    values, how = _os_release(node)
    name = values.get("PRETTY_NAME") or " ".join(filter(None, (values.get("NAME"), values.get("VERSION"))))
    if not name:
        raise UnknownError(f"{how}: it names no distribution")
    return Fact(name, how)


def container_os(node: Node) -> Fact:
    """Whether it is Alibaba Cloud's container-optimized OS.

    The kernel's name decides before os-release does: in a container only the kernel is the node's.
    """
    return first_known((lambda: _lifsea_kernel(node), lambda: _container_os_release(node)))


def _lifsea_kernel(node: Node) -> Fact:
    if not container_os_names.is_kernel(node.text(files.KERNEL)):
        raise UnknownError(f"/{files.KERNEL}: not a kernel of ContainerOS")
    return Fact(value=True, how=f"/{files.KERNEL}: a kernel of ContainerOS")


def _container_os_release(node: Node) -> Fact:
    values, how = _os_release(node)
    names = [values.get(name, "") for name in _OS_NAMES]
    if any(map(container_os_names.is_name, names)):
        return Fact(value=True, how=f"{how}: ContainerOS")
    if not values.get("ID") and not values.get("PRETTY_NAME"):
        raise UnknownError(f"{how}: it names no distribution")
    if values.get("ID") != "alinux":
        return Fact(value=False, how=f"{how}: {values.get('ID') or values['PRETTY_NAME']}")
    if any(map(container_os_names.is_edition, names)):
        return Fact(value=True, how=f"{how}: Alibaba Cloud Linux, container-optimized edition")
    return Fact(value=False, how=f"{how}: Alibaba Cloud Linux that does not call itself container-optimized")


def _os_release(node: Node) -> tuple[dict[str, str], str]:
    reasons = []
    for path in files.OS_RELEASE:
        try:
            return os_release_values(node.text(path)), f"/{path}"
        except UnknownError as error:
            reasons.append(str(error))
    raise UnknownError("; ".join(reasons))


def os_release_values(text: str) -> dict[str, str]:
    """The assignments of an os-release file; lines that are none are left out (os-release(5))."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or not name.isidentifier():
            continue
        try:
            words = shlex.split(value)
        except ValueError:  # a quote that is not closed
            continue
        values[name] = words[0] if words else ""
    return values


def cgroup(node: Node) -> Fact:
    """1 where any controller is of version 1, as in a hybrid hierarchy; 2 where all are of version 2."""
    return first_known((lambda: _cgroup_of_mounts(node), lambda: _cgroup_of_files(node)))


def _cgroup_of_mounts(node: Node) -> Fact:
    version = cgroup_version(node.text(files.MOUNTS))
    if version is None:
        raise UnknownError(f"/{files.MOUNTS}: no control groups are mounted")
    return Fact(version, f"/{files.MOUNTS}")


def cgroup_version(mounts: str) -> int | None:
    """By the lines of mountinfo: ``... - TYPE SOURCE OPTIONS`` (proc_pid_mountinfo(5)). None: none is mounted."""
    second = False
    for line in mounts.splitlines():
        kind, _, rest = line.partition(" - ")[2].partition(" ")
        if kind == "cgroup" and _CGROUP_1_CONTROLLERS & set(rest.rpartition(" ")[2].split(",")):
            return 1
        second |= kind == "cgroup2"
    return 2 if second else None


def _cgroup_of_files(node: Node) -> Fact:
    for version, path in ((2, files.CGROUP_2), (1, files.CGROUP_1_MEMORY)):
        if node.tree.exists(path):
            return Fact(version, f"/{path}")
    raise UnknownError(f"/{files.CGROUP_2}: no such file", absent=True)


def seccomp(node: Node) -> Fact:
    """Whether filters can notify a process: ``user_notif`` is there since Linux 5.0 (seccomp(2))."""
    actions = node.text(files.SECCOMP_ACTIONS).split()
    if "allow" not in actions:
        raise UnknownError(f"/{files.SECCOMP_ACTIONS}: not a list of actions: {quoted(' '.join(actions))}")
    return Fact("user_notif" in actions, f"/{files.SECCOMP_ACTIONS}")


def glibc(node: Node) -> Fact:
    """The C library: by ldd, by its own file, or by its package. ``none`` where it is musl."""
    return first_known(
        (
            lambda: _glibc_of_ldd(node),
            lambda: _glibc_of_file(node),
            lambda: node.package("glibc", ("libc6", "glibc")),
            lambda: _musl(node),
        )
    )


def _glibc_of_ldd(node: Node) -> Fact:
    text, how = node.output("ldd")
    if text.lstrip().startswith("musl libc"):
        return Fact(ABSENT, f"{how}: musl")
    match = _LDD.search(text)
    if match is None:
        raise UnknownError(f"{how}: not understood: {quoted(text)}")
    return version_fact("glibc", match[1], how)


def _glibc_of_file(node: Node) -> Fact:
    reasons = []
    for pattern in files.LIBC:
        for path in node.tree.glob(pattern):
            try:
                match = _LIBC.search(node.data(path, pattern))
            except UnknownError as error:
                reasons.append(str(error))
                continue
            if match is not None:
                return version_fact("glibc", match[1].decode(), f"/{path}")
            reasons.append(f"/{path}: it does not tell its version")
    raise UnknownError("; ".join(reasons) or "libc.so.6: no such file", absent=not reasons)


def _musl(node: Node) -> Fact:
    found = node.tree.glob(files.MUSL)
    if not found:
        raise UnknownError(f"/{files.MUSL}: no such file", absent=True)
    return Fact(ABSENT, f"/{found[0]}: musl")


def hostname(node: Node) -> Fact:
    """The node's name: the first line of its file that is no comment."""
    lines = (line.strip() for line in node.text(files.HOSTNAME).splitlines())
    name = next((line for line in lines if line and not line.startswith("#")), "")
    if not name:
        raise UnknownError(f"/{files.HOSTNAME}: empty")
    return Fact(name, f"/{files.HOSTNAME}")

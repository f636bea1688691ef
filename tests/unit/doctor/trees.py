"""Constructed trees of nodes: the files that the probes read, as a node has them.

``build`` writes one below a folder and returns its root. What only a command tells is in
``.cgpu-probe``, as a probe on another machine would have brought it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cgpu.doctor.facts import ABSENT

T4_PANIC: Final = "t4-cgpu-1.5.7"
A10_OLD: Final = "a10-cgpu-1.5.2"
CONTAINER_OS: Final = "container-os-cgpu-1.5.18"
UBUNTU: Final = "ubuntu-580"
NO_GPU: Final = "no-gpu"

_ALINUX_3 = """\
NAME="Alibaba Cloud Linux"
VERSION="3 (OpenAnolis Edition)"
ID="alinux"
ID_LIKE="rhel fedora centos anolis"
VERSION_ID="3"
VARIANT="OpenAnolis Edition"
VARIANT_ID="openanolis"
PRETTY_NAME="Alibaba Cloud Linux 3.2104 U10 (OpenAnolis Edition)"
ANSI_COLOR="0;31"
HOME_URL="https://www.aliyun.com/"
"""
_ALINUX_2 = """\
NAME="Alibaba Cloud Linux (Aliyun Linux)"
VERSION="2.1903 LTS (Hunting Beagle)"
ID="alinux"
ID_LIKE="rhel fedora centos anolis"
VERSION_ID="2.1903"
PRETTY_NAME="Alibaba Cloud Linux (Aliyun Linux) 2.1903 LTS (Hunting Beagle)"
"""
_LIFSEA = """\
NAME="Alibaba Cloud Linux Lifsea (ContainerOS)"
VERSION="3"
ID="lifsea"
ID_LIKE="rhel fedora centos anolis alinux"
VERSION_ID="3"
PRETTY_NAME="Alibaba Cloud Linux Lifsea (ContainerOS) 3"
"""
_UBUNTU_24 = """\
PRETTY_NAME="Ubuntu 24.04.2 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.2 LTS (Noble Numbat)"
ID=ubuntu
ID_LIKE=debian
"""
_DEBIAN_12 = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
ID=debian
"""
_CGROUP_1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
_CGROUP_2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
_SECCOMP_OLD = "kill_process kill_thread trap errno trace log allow\n"
_SECCOMP = "kill_process kill_thread trap errno user_notif trace log allow\n"
_STATIC_NVIDIA = "nvidia_uvm 1540096 2 - Live 0x0000000000000000 (POE)\nnvidia 56774656 88 nvidia_uvm, Live 0x0 (POE)\n"
_CGPU_MODULES = "km 77824 3 - Live 0x0000000000000000 (OE)\ncgpu_procfs 45056 1 km, Live 0x0000000000000000 (OE)\n"


@dataclass(frozen=True, slots=True)
class _Tree:
    files: Mapping[str, str]
    facts: Mapping[str, object]
    """Every fact that the probes find in the tree."""

    links: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """The trees that there are."""
    return tuple(_TREES)


def build(name: str, folder: Path) -> Path:
    """Write the tree of that name into a new folder below ``folder``; returns the root."""
    tree = _TREES[name]
    root = folder / name
    for below in ("etc", "proc", "sys", "run", *tree.folders):
        (root / below).mkdir(parents=True, exist_ok=True)
    for path, text in tree.files.items():
        put(root, path, text)
    for path, target in tree.links.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    return root


def expected(name: str) -> dict[str, object]:
    """The facts of the tree, without those that are not known."""
    return dict(_TREES[name].facts)


def texts(name: str) -> tuple[str, ...]:
    """What is in the tree's files."""
    return tuple(_TREES[name].files.values())


def put(root: Path, path: str, text: str | bytes) -> Path:
    """Write one file of a tree."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def _driver(version: str, module: str = "NVIDIA UNIX x86_64 Kernel Module ") -> dict[str, str]:
    return {
        "proc/driver/nvidia/version": (
            f"NVRM version: {module} {version}  Thu Oct 19 18:56:32 UTC 2023\n"
            "GCC version:  gcc version 10.2.1 20200825 (Alibaba 10.2.1-3.8 2.32) (GCC)\n"
        ),
        "sys/module/nvidia/version": f"{version}\n",
    }


def _gpu(bus: str, model: str, uuid: str, minor: int = 0) -> dict[str, str]:
    return {
        f"proc/driver/nvidia/gpus/{bus}/information": (
            f"Model: \t\t {model}\nIRQ:   \t\t 42\nGPU UUID: \t {uuid}\nVideo BIOS: \t 94.02.5c.00.04\n"
            f"Bus Type: \t PCIe\nBus Location: \t {bus}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
        ),
        **_pci(bus, "0x10de", "0x030200"),
    }


def _pci(bus: str, vendor: str, kind: str) -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{bus}"
    return {f"{folder}/vendor": f"{vendor}\n", f"{folder}/class": f"{kind}\n"}


def _kubelet(policy: str) -> dict[str, str]:
    return {
        "var/lib/kubelet/config.yaml": "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n",
        "var/lib/kubelet/cpu_manager_state": f'{{"policyName":"{policy}","defaultCpuSet":"","checksum":1353318690}}',
    }


def _outputs(**texts: str) -> dict[str, str]:
    return {f".cgpu-probe/{name.replace('_', '-')}": f"{text}\n" for name, text in texts.items()}


def _package(name: str, version: str, status: str = "install ok installed") -> str:
    return (
        f"Package: {name}\nStatus: {status}\nPriority: optional\nSection: misc\nArchitecture: amd64\n"
        f"Version: {version}\nDescription: one of the packages\n that a node has\n"
    )


_T4 = "GPU-7c1a2c4e-93b5-0b11-8d66-6d2c1ad1c4f0"
_A10 = "GPU-2b0f6d51-1f7c-4d0e-8b52-1b8d9c6e7a10"

_TREES: Final[Mapping[str, _Tree]] = {
    T4_PANIC: _Tree(
        files={
            "etc/hostname": "cn-hangzhou.192.168.2.167\n",
            "etc/os-release": _ALINUX_3,
            "proc/sys/kernel/osrelease": "5.10.134-16.3.al8.x86_64\n",
            "proc/sys/kernel/seccomp/actions_avail": _SECCOMP,
            "proc/self/mountinfo": _CGROUP_1,
            "proc/modules": _CGPU_MODULES + _STATIC_NVIDIA,
            "proc/cgpu_km/version": "1.5.7\n",
            **_driver("535.129.03"),
            **_gpu("0000:00:07.0", "Tesla T4", _T4),
            **_pci("0000:00:01.1", "0x8086", "0x010180"),
            **_kubelet("none"),
            **_outputs(
                nvidia_ctk="NVIDIA Container Toolkit CLI version 1.13.5\ncommit: 6b8589d",
                containerd="containerd containerd.io 1.6.28 ae07eda36dd25f8a1b98dfbf587313b99c0190bb",
                runc="runc version 1.1.12\ncommit: v1.1.12-0-g51d5e94\nspec: 1.0.2-dev",
                kubelet="Kubernetes v1.28.9-aliyun.1",
                ldd="ldd (GNU libc) 2.32\nCopyright (C) 2020 Free Software Foundation, Inc.",
                rpm="nvidia-container-toolkit 1.13.5-1\npackage docker-ce is not installed",
            ),
        },
        facts={
            "node": "cn-hangzhou.192.168.2.167",
            "driver": "535.129.03",
            "kernel": "5.10.134-16.3.al8.x86_64",
            "os": "Alibaba Cloud Linux 3.2104 U10 (OpenAnolis Edition)",
            "container_os": False,
            "toolkit": "1.13.5",
            "cgpu": "1.5.7",
            "modules": ["km", "cgpu_procfs"],
            "kubernetes": "1.28.9-aliyun.1",
            "cpu_manager": "none",
            "gpus": 1,
            "cgroup": 1,
            "seccomp": True,
            "containerd": "1.6.28",
            "runc": "1.1.12",
            "glibc": "2.32",
            "cdi_dirs": [],
            "agent": False,
            "tenants_per_gpu": {},
        },
    ),
    A10_OLD: _Tree(
        files={
            "etc/hostname": "cn-beijing.10.0.3.21\n",
            "etc/os-release": _ALINUX_2,
            "proc/sys/kernel/osrelease": "4.19.91-27.6.al7.x86_64\n",
            "proc/sys/kernel/seccomp/actions_avail": _SECCOMP_OLD,
            "proc/self/mountinfo": _CGROUP_1,
            "proc/modules": _CGPU_MODULES + _STATIC_NVIDIA,
            "proc/cgpu_km/version": "1.5.2\n",
            **_driver("535.129.03"),
            **_gpu("0000:00:08.0", "NVIDIA A10", _A10),
            **_gpu("0000:00:09.0", "NVIDIA A10", _A10.replace("10", "11"), 1),
            **_kubelet("static"),
            **_outputs(
                nvidia_container_toolkit="NVIDIA Container Runtime Hook version 1.10.0\ncommit: 7cfd3bd",
                dockerd="Docker version 19.03.15, build 99e3ed8919",
                runc="runc version 1.0.0-rc93\nspec: 1.0.2-dev",
                kubelet="Kubernetes v1.20.11-aliyun.1",
                ldd="ldd (GNU libc) 2.17",
            ),
        },
        facts={
            "node": "cn-beijing.10.0.3.21",
            "driver": "535.129.03",
            "kernel": "4.19.91-27.6.al7.x86_64",
            "os": "Alibaba Cloud Linux (Aliyun Linux) 2.1903 LTS (Hunting Beagle)",
            "container_os": False,
            "toolkit": "1.10.0",
            "cgpu": "1.5.2",
            "modules": ["km", "cgpu_procfs"],
            "kubernetes": "1.20.11-aliyun.1",
            "cpu_manager": "static",
            "gpus": 2,
            "cgroup": 1,
            "seccomp": False,
            "docker": "19.03.15",
            "runc": "1.0.0-rc93",
            "glibc": "2.17",
            "cdi_dirs": [],
            "agent": False,
            "tenants_per_gpu": {},
        },
    ),
    CONTAINER_OS: _Tree(
        files={
            "etc/hostname": "cn-shanghai.10.1.0.7\n",
            "usr/lib/os-release": _LIFSEA,
            "proc/sys/kernel/osrelease": "5.10.134-19.1.1.lifsea8.x86_64\n",
            "proc/sys/kernel/seccomp/actions_avail": _SECCOMP,
            "proc/self/mountinfo": _CGROUP_2,
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
            "proc/modules": _CGPU_MODULES + _STATIC_NVIDIA,
            "proc/cgpu_km/version": "1.5.18\n",
            **_driver("550.144.03"),
            **_gpu("0000:00:07.0", "NVIDIA A10", _A10),
            **_kubelet("none"),
            **_outputs(
                containerd="containerd github.com/containerd/containerd/v2 v2.1.3 c787fb9",
                kubelet="Kubernetes v1.32.1-aliyun.1",
                rpm=(
                    "nvidia-container-toolkit 1.17.5-1\nglibc 2.32-1.21.al8.lifsea8\nrunc 1.2.5-1\n"
                    "package podman is not installed"
                ),
            ),
        },
        links={"etc/os-release": "../usr/lib/os-release", "var/run": "/run"},
        folders=("run/cdi",),
        facts={
            "node": "cn-shanghai.10.1.0.7",
            "driver": "550.144.03",
            "kernel": "5.10.134-19.1.1.lifsea8.x86_64",
            "os": "Alibaba Cloud Linux Lifsea (ContainerOS) 3",
            "container_os": True,
            "toolkit": "1.17.5-1",
            "cgpu": "1.5.18",
            "modules": ["km", "cgpu_procfs"],
            "kubernetes": "1.32.1-aliyun.1",
            "cpu_manager": "none",
            "gpus": 1,
            "cgroup": 2,
            "seccomp": True,
            "containerd": "2.1.3",
            "runc": "1.2.5-1",
            "glibc": "2.32-1.21.al8.lifsea8",
            "cdi_dirs": ["/var/run/cdi"],
            "agent": False,
            "tenants_per_gpu": {},
        },
    ),
    UBUNTU: _Tree(
        files={
            "etc/hostname": "gpu-box\n",
            "usr/lib/os-release": _UBUNTU_24,
            "proc/sys/kernel/osrelease": "6.8.0-60-generic\n",
            "proc/sys/kernel/seccomp/actions_avail": _SECCOMP,
            "proc/self/mountinfo": _CGROUP_2,
            "proc/modules": _STATIC_NVIDIA,
            **_driver("580.65.06", "NVIDIA UNIX Open Kernel Module for x86_64 "),
            **_gpu("0000:41:00.0", "NVIDIA L4", "GPU-5a0e9d3f-0a9b-4a64-9f0b-b4be5ad31c22"),
            **_pci("0000:41:00.1", "0x10de", "0x040300"),
            "var/lib/dpkg/status": "\n".join(
                (
                    _package("libc6", "2.39-0ubuntu8.4"),
                    _package("nvidia-container-toolkit", "1.17.8-1"),
                    _package("nvidia-container-toolkit-base", "1.17.8-1"),
                    _package("docker-ce", "5:28.1.1-1~ubuntu.24.04~noble"),
                    _package("containerd.io", "1.7.27-1"),
                    _package("podman", "4.9.3+ds1-1ubuntu0.2", "deinstall ok config-files"),
                )
            ),
            "usr/lib/x86_64-linux-gnu/libc.so.6": (
                "\x7fELF\x02\x01\x01\x00GNU C Library (Ubuntu GLIBC 2.39-0ubuntu8.4) stable release version 2.39.\n"
            ),
        },
        links={"lib": "usr/lib", "etc/os-release": "/usr/lib/os-release", "var/run": "/run"},
        folders=("etc/cdi",),
        facts={
            "node": "gpu-box",
            "driver": "580.65.06",
            "kernel": "6.8.0-60-generic",
            "os": "Ubuntu 24.04.2 LTS",
            "container_os": False,
            "toolkit": "1.17.8-1",
            "cgpu": ABSENT,
            "modules": [],
            "gpus": 1,
            "cgroup": 2,
            "seccomp": True,
            "docker": "5:28.1.1-1~ubuntu.24.04~noble",
            "containerd": "1.7.27-1",
            "glibc": "2.39",
            "cdi_dirs": ["/etc/cdi"],
            "agent": False,
            "tenants_per_gpu": {},
        },
    ),
    NO_GPU: _Tree(
        files={
            "etc/hostname": "plain\n",
            "etc/os-release": _DEBIAN_12,
            "proc/sys/kernel/osrelease": "6.1.0-37-amd64\n",
            "proc/sys/kernel/seccomp/actions_avail": _SECCOMP,
            "proc/self/mountinfo": _CGROUP_2,
            "proc/modules": "virtio_net 61440 0 - Live 0x0000000000000000\n",
            **_pci("0000:00:03.0", "0x1af4", "0x020000"),
            "var/lib/dpkg/status": _package("libc6", "2.36-9+deb12u10"),
        },
        facts={
            "node": "plain",
            "driver": ABSENT,
            "kernel": "6.1.0-37-amd64",
            "os": "Debian GNU/Linux 12 (bookworm)",
            "container_os": False,
            "cgpu": ABSENT,
            "modules": [],
            "gpus": 0,
            "cgroup": 2,
            "seccomp": True,
            "glibc": "2.36-9+deb12u10",
            "cdi_dirs": [],
            "agent": False,
            "tenants_per_gpu": {},
        },
    ),
}

"""What the probes make of the texts that real nodes have, of other forms, and of nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cgpu.doctor.facts import ABSENT, Fact
from cgpu.doctor.probes import OUTPUTS, probe_node
from cgpu.doctor.probes.commands import PACKAGES
from cgpu.doctor.probes.packages import dpkg_versions, paragraphs_of, rpm_versions
from cgpu.doctor.probes.system import cgroup_version, os_release_values
from tests.unit.doctor.trees import NO_GPU, build, put


def fact_of(tmp_path: Path, name: str, **files: str) -> Fact:
    for path, text in files.items():
        put(tmp_path, path, text)
    return probe_node(tmp_path)[name]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: x",
            "535.129.03",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)",
            "580.65.06",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build", "540.4.0"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module 390.48 Thu Mar 22 00:42:57 PDT 2018", "390.48"),
        ("GCC version: gcc version 10.2.1\n", None),
        ("NVRM version: something else", None),
    ],
)
def test_the_driver(text: str, version: str | None, tmp_path: Path):
    assert fact_of(tmp_path, "driver", **{"proc/driver/nvidia/version": text}).value == version


def test_the_drivers_module_tells_its_version_too(tmp_path: Path):
    fact = fact_of(tmp_path, "driver", **{"sys/module/nvidia/version": "470.161.03\n"})
    assert fact == Fact("470.161.03", "/sys/module/nvidia/version")


@pytest.mark.parametrize(
    ("release", "kernel", "expected"),
    [
        (
            'ID="lifsea"\nPRETTY_NAME="Alibaba Cloud Linux Lifsea (ContainerOS) 3"',
            "5.10.134-19.1.1.lifsea8.x86_64",
            True,
        ),
        ("ID=lifsea", "5.10.134", True),
        ('ID=alinux\nPRETTY_NAME="Alibaba Cloud Linux 3 (ContainerOS)"', "5.10.134", True),
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12"', "5.10.134-18.0.2.lifsea8.x86_64", True),
        (
            'ID="alinux"\nPRETTY_NAME="Alibaba Cloud Linux 3.2104 U10 (OpenAnolis Edition)"',
            "5.10.134-16.al8.x86_64",
            False,
        ),
        ('ID="alinux"\nVARIANT="Container-Optimized Edition"', "5.10.134-16.al8.x86_64", True),
        ('ID=cos\nPRETTY_NAME="Container-Optimized OS from Google"', "6.1.0", False),
        ("ID=ubuntu", "6.8.0", False),
        ("# nothing", "6.8.0", None),
    ],
)
def test_the_container_optimized_os(release: str, kernel: str, expected: bool | None, tmp_path: Path):
    fact = fact_of(tmp_path, "container_os", **{"etc/os-release": release, "proc/sys/kernel/osrelease": kernel})
    assert fact.value is expected


def test_os_release_is_read_as_a_shell_would():
    text = '# c\nNAME="A \\"b\\""\nID=\'x y\'\nEMPTY=\nBAD="open\n  VERSION_ID=3  \nnot a line\n1X=2\n'
    assert os_release_values(text) == {"NAME": 'A "b"', "ID": "x y", "EMPTY": "", "VERSION_ID": "3"}


@pytest.mark.parametrize(
    ("release", "name"),
    [("NAME=Thing\nVERSION=3", "Thing 3"), ("NAME=Thing", "Thing"), ("PRETTY_NAME='A'\nNAME=B", "A"), ("ID=x", None)],
)
def test_the_name_of_the_distribution(release: str, name: str | None, tmp_path: Path):
    assert fact_of(tmp_path, "os", **{"etc/os-release": release}).value == name


_V1 = "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
_V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
_NAMED = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"


@pytest.mark.parametrize(
    ("mounts", "version"),
    [
        (_V2, 2),
        (_V1, 1),
        (_V1 + _NAMED + _V2, 1),
        (_V2 + _NAMED, 2),
        ("", None),
        ("22 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n - \n - cgroup", None),
    ],
)
def test_the_version_of_the_control_groups(mounts: str, version: int | None):
    assert cgroup_version(mounts) == version


def test_the_control_groups_are_told_by_files_where_mounts_are_not(tmp_path: Path):
    assert fact_of(tmp_path / "2", "cgroup", **{"sys/fs/cgroup/cgroup.controllers": "cpu"}).value == 2
    assert fact_of(tmp_path / "1", "cgroup", **{"sys/fs/cgroup/memory/memory.limit_in_bytes": "1"}).value == 1


@pytest.mark.parametrize(
    ("state", "config", "policy"),
    [
        ('{"policyName":"static","defaultCpuSet":"0-3","checksum":1}', None, "static"),
        ('{"policyName":"none"}', "kind: KubeletConfiguration\ncpuManagerPolicy: static\n", "none"),
        ("garbage", "kind: KubeletConfiguration\ncpuManagerPolicy: 'static' # why\n", "static"),
        (None, "kind: KubeletConfiguration\n", "none"),
        (None, '{"kind": "KubeletConfiguration", "cpuManagerPolicy": "static"}', "static"),
        (None, '{"kind": "KubeletConfiguration"}', "none"),
        (None, "kind: KubeletConfiguration\ncpuManagerPolicy: {}\n", None),
        (None, "kind: Other\n", None),
        ('{"policyName":7}', None, None),
        ("[" * 100_000, None, None),
    ],
)
def test_the_cpu_manager(state: str | None, config: str | None, policy: str | None, tmp_path: Path):
    files = {"var/lib/kubelet/cpu_manager_state": state, "var/lib/kubelet/config.yaml": config}
    fact = fact_of(tmp_path, "cpu_manager", **{path: text for path, text in files.items() if text is not None})
    assert fact.value == policy


@pytest.mark.parametrize(
    ("command", "fact", "printed", "version"),
    [
        ("nvidia-ctk", "toolkit", "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80", "1.17.8"),
        (
            "nvidia-container-toolkit",
            "toolkit",
            "NVIDIA Container Runtime Hook version 1.10.0\ncommit: 7cfd3bd",
            "1.10.0",
        ),
        ("dockerd", "docker", "Docker version 28.1.1, build 4eba377", "28.1.1"),
        ("docker", "docker", "Docker version 19.03.15, build 99e3ed8919", "19.03.15"),
        ("docker", "docker", "Emulate Docker CLI using podman.\npodman version 4.9.3", None),
        ("containerd", "containerd", "containerd github.com/containerd/containerd/v2 v2.0.4 1a43cb6", "2.0.4"),
        (
            "containerd",
            "containerd",
            "containerd containerd.io 1.6.33 d2d58213f83a351ca8f528a95fbd145f5654e957",
            "1.6.33",
        ),
        (
            "containerd",
            "containerd",
            "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1",
            "1.6.20~ds1",
        ),
        ("podman", "podman", "podman version 4.9.4-rhel", "4.9.4-rhel"),
        ("runc", "runc", "runc version 1.1.12-0ubuntu2~22.04.1\nspec: 1.0.2-dev", "1.1.12-0ubuntu2~22.04.1"),
        ("crun", "crun", "crun version 0.19.1.45-4cc7\ncommit: 4cc7fa1", "0.19.1.45-4cc7"),
        ("kubelet", "kubernetes", "Kubernetes v1.20.11-aliyun.1", "1.20.11-aliyun.1"),
        ("ldd", "glibc", "ldd (Ubuntu GLIBC 2.35-0ubuntu3.10) 2.35\nCopyright (C) 2022", "2.35"),
        ("ldd", "glibc", "musl libc (x86_64)\nVersion 1.2.4\nDynamic Program Loader", ABSENT),
        ("ldd", "glibc", "ldd: no", None),
        ("kubelet", "kubernetes", "", None),
    ],
)
def test_what_commands_print(command: str, fact: str, printed: str, version: str | None, tmp_path: Path):
    assert fact_of(tmp_path, fact, **{f"{OUTPUTS}/{command}": printed}).value == version


@pytest.mark.parametrize("release", ["stable", "development"])
def test_the_c_library_tells_its_version(release: str, tmp_path: Path):
    text = f"\x7fELF\0\0GNU C Library (GNU libc) {release} release version 2.32.\nCopyright"
    fact = fact_of(tmp_path, "glibc", **{"lib64/libc.so.6": text})
    assert fact == Fact("2.32", "/lib64/libc.so.6")


def test_an_image_with_musl_has_no_glibc(tmp_path: Path):
    assert fact_of(tmp_path, "glibc", **{"lib/ld-musl-x86_64.so.1": "\x7fELF"}).value == ABSENT


_STATUS = """\
Package: nvidia-container-toolkit
Status: deinstall ok config-files
Version: 1.10.0-1

Package: containerd.io
Status: install ok installed
Description: a runtime
 Version: 9.9.9
 .
 Package: fake
Version: 1.7.27-1

Package: libc6
Status: install ok installed
Version: 2.39-0ubuntu8.4
Architecture: amd64

Package: libc6
Status: install ok installed
Version: 2.38
Architecture: i386

Package: other
Status: install ok installed
Version: 1
"""


def test_packages_of_dpkg_that_are_installed():
    assert dpkg_versions(_STATUS, PACKAGES) == {"containerd.io": "1.7.27-1", "libc6": "2.39-0ubuntu8.4"}


def test_only_paragraphs_that_matter_are_kept_and_mean_the_same():
    kept = paragraphs_of(_STATUS, PACKAGES)
    assert "other" not in kept
    assert "a runtime" not in kept
    assert dpkg_versions(kept, PACKAGES) == dpkg_versions(_STATUS, PACKAGES)
    assert paragraphs_of(kept, PACKAGES) == kept


def test_packages_of_rpm():
    printed = "nvidia-container-toolkit 1.13.5-1\npackage docker-ce is not installed\nother 1\nrunc 1.1.12-1.el8\n"
    assert rpm_versions(printed, PACKAGES) == {"nvidia-container-toolkit": "1.13.5-1", "runc": "1.1.12-1.el8"}


def test_a_command_comes_before_a_package(tmp_path: Path):
    files = {"var/lib/dpkg/status": "Package: runc\nStatus: install ok installed\nVersion: 1.0.0\n"}
    assert fact_of(tmp_path, "runc", **files).value == "1.0.0"
    assert fact_of(tmp_path, "runc", **{f"{OUTPUTS}/runc": "runc version 1.2.0"}).value == "1.2.0"


@pytest.mark.parametrize(
    ("actions", "notifies"),
    [("kill_process trap errno user_notif log allow", True), ("kill trap errno allow", False), ("what", None)],
)
def test_seccomp(actions: str, notifies: bool | None, tmp_path: Path):
    assert fact_of(tmp_path, "seccomp", **{"proc/sys/kernel/seccomp/actions_avail": actions}).value is notifies


def checkpoint(*tenants: tuple[str, ...]) -> str:
    records = [{"tenant": {"shares": [{"gpu_uuid": uuid} for uuid in uuids]}, "root": None} for uuids in tenants]
    return json.dumps({"version": 1, "tenants": records})


@pytest.mark.parametrize(
    ("text", "tenants"),
    [
        (checkpoint(("GPU-a",), ("GPU-a", "GPU-b")), {"GPU-a": 2, "GPU-b": 1}),
        (checkpoint(), {}),
        ('{"version": 2, "tenants": []}', None),
        ('{"version": 1, "tenants": [{"tenant": 7}]}', None),
        ('{"version": 1, "tenants": {}}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_our_tenants(text: str, tenants: dict[str, int] | None, tmp_path: Path):
    root = build(NO_GPU, tmp_path)
    assert fact_of(root, "tenants_per_gpu", **{"run/cgpu/checkpoint.json": text}).value == tenants


def test_tenants_without_an_agents_socket_are_still_managed(tmp_path: Path):
    root = build(NO_GPU, tmp_path)
    assert fact_of(root, "agent", **{"run/cgpu/checkpoint.json": checkpoint()}).value is False
    assert fact_of(root, "agent", **{"run/cgpu/checkpoint.json": checkpoint(("GPU-a",))}).value is True
    assert fact_of(root, "agent", **{"run/cgpu/checkpoint.json": "{"}).value is None
    assert fact_of(root, "agent", **{"run/cgpu/agent.sock": ""}).value is True


def test_a_list_of_modules_that_is_none(tmp_path: Path):
    assert "not a list of modules" in fact_of(tmp_path, "modules", **{"proc/modules": "km\n"}).how


def test_a_pci_device_that_cannot_be_understood_leaves_the_number_unknown(tmp_path: Path):
    folder = "sys/bus/pci/devices/0000:00:07.0"
    assert fact_of(tmp_path, "gpus", **{f"{folder}/vendor": "0x10de"}).value is None
    assert fact_of(tmp_path, "gpus", **{f"{folder}/class": "display"}).value is None
    assert fact_of(tmp_path, "gpus", **{f"{folder}/class": "0x030000\n"}).value == 1


def test_a_name_is_the_first_line_that_is_no_comment(tmp_path: Path):
    assert fact_of(tmp_path, "node", **{"etc/hostname": "# c\n\nbox.example\nother\n"}).value == "box.example"
    assert fact_of(tmp_path, "node", **{"etc/hostname": "\n"}).value is None
    assert fact_of(tmp_path, "node", **{"etc/hostname": "x" * 300}).value is None

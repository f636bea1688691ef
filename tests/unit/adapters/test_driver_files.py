"""Which of a driver's files a container gets, on constructed trees."""

from __future__ import annotations

import struct
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.cdi.driver_files import CUDA, NVML, DeviceNode, DriverTree
from cgpu.adapters.cdi.loader_cache import libraries_of
from cgpu.errors import DriverError

VERSION = "550.163.01"
HOST = Path("/run/nvidia/driver")
DEBIAN, RED_HAT = "/usr/lib/x86_64-linux-gnu", "/usr/lib64"


def elf(*, bits: int = 64, machine: int = 62) -> bytes:
    return b"\x7fELF" + bytes([2 if bits == 64 else 1]) + bytes(13) + machine.to_bytes(2, "little") + bytes(40)


def write(root: Path, path: str, content: bytes = b"") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content or elf())


def link(root: Path, path: str, target: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)


def cache(*rows: tuple[str, str]) -> bytes:
    """An ld.so.cache as ldconfig writes it."""
    magic, texts = b"glibc-ld.so.cache1.1", b""
    begin, entries = 48 + 24 * len(rows), b""
    for name, path in rows:
        entries += struct.pack("<iIIIQ", 0x303, begin + len(texts), begin + len(texts) + len(name) + 1, 0, 0)
        texts += name.encode() + b"\0" + path.encode() + b"\0"
    return magic + struct.pack("<II", len(rows), len(texts)) + bytes(20) + entries + texts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A driver as NVIDIA's installer leaves it, with the libraries that are always there."""
    folder = "usr/lib/x86_64-linux-gnu"
    for name in ("libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so"):
        write(tmp_path, f"{folder}/{name}.{VERSION}")
        link(tmp_path, f"{folder}/{name}.1", f"{name}.{VERSION}")
    write(tmp_path, f"{folder}/libnvidia-gpucomp.so.{VERSION}")
    write(tmp_path, f"{folder}/libGLX_nvidia.so.{VERSION}")
    write(tmp_path, "usr/bin/nvidia-smi")
    return tmp_path


def tree(root: Path) -> DriverTree:
    return DriverTree(root, HOST, "x86_64")


def mounted(root: Path) -> dict[str, str]:
    """Sources on the host by destination."""
    mounts = tree(root).mounts(VERSION)
    assert all(not mount.writable and mount.executable for mount in mounts)
    assert len({mount.destination for mount in mounts}) == len(mounts)
    return {mount.destination: str(mount.source) for mount in mounts}


def test_a_container_gets_the_libraries_by_their_sonames_and_the_programs(root: Path):
    found = mounted(root)
    library = f"{HOST}/usr/lib/x86_64-linux-gnu"
    for folder in (DEBIAN, RED_HAT):
        assert found[f"{folder}/libcuda.so.1"] == f"{library}/libcuda.so.{VERSION}"
        assert found[f"{folder}/libcuda.so"] == f"{library}/libcuda.so.{VERSION}"
        assert found[f"{folder}/libnvidia-ml.so.1"] == f"{library}/libnvidia-ml.so.{VERSION}"
        assert found[f"{folder}/libnvidia-gpucomp.so.{VERSION}"] == f"{library}/libnvidia-gpucomp.so.{VERSION}"
    assert found["/usr/bin/nvidia-smi"] == f"{HOST}/usr/bin/nvidia-smi"
    assert not [place for place in found if "GLX" in place]
    assert len(found) == 2 * 5 + 1


def test_links_are_followed_below_the_root_and_never_out_of_it(root: Path):
    """As with Debian's alternatives, whose links are absolute."""
    name = root / "usr/lib/x86_64-linux-gnu/libcuda.so.1"
    name.unlink()
    name.symlink_to("/etc/alternatives/libcuda.so.1")
    link(root, "etc/alternatives/libcuda.so.1", "../../../../../usr/lib/nvidia/current/libcuda.so.1")
    link(root, "usr/lib/nvidia/current", "tesla")
    write(root, "usr/lib/nvidia/tesla/libcuda.so.1")
    assert mounted(root)[f"{DEBIAN}/libcuda.so.1"] == f"{HOST}/usr/lib/nvidia/tesla/libcuda.so.1"
    assert tree(root).library_here(CUDA) == root / "usr/lib/nvidia/tesla/libcuda.so.1"


def test_links_in_a_ring_are_no_file(root: Path):
    link(root, "usr/lib64/libnvidia-cfg.so.1", "other")
    link(root, "usr/lib64/other", "libnvidia-cfg.so.1")
    assert f"{DEBIAN}/libnvidia-cfg.so.1" not in mounted(root)


def test_the_loaders_cache_tells_of_other_folders_and_comes_first(root: Path):
    write(root, "opt/odd/libcuda.so.1")
    write(root, "opt/odd/libnvidia-ml.so.1", elf(bits=32, machine=3))
    rows = [("libcuda.so.1", "/opt/odd/libcuda.so.1"), (NVML, "/opt/odd/libnvidia-ml.so.1"), (NVML, "/no/such")]
    (root / "etc").mkdir()
    (root / "etc/ld.so.cache").write_bytes(b"ld.so-1.7.0\0older" + cache(*rows))
    found = mounted(root)
    assert found[f"{DEBIAN}/libcuda.so.1"] == f"{HOST}/opt/odd/libcuda.so.1"
    assert found[f"{DEBIAN}/{NVML}"] == f"{HOST}/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{VERSION}"


@pytest.mark.parametrize("content", [elf(bits=32, machine=3), elf(machine=183), b"text", b""])
def test_a_library_for_another_machine_is_none(root: Path, content: bytes):
    (root / f"usr/lib/x86_64-linux-gnu/libcuda.so.{VERSION}").write_bytes(content)
    with pytest.raises(DriverError, match=r"no libcuda\.so\.1 of the driver below /run/nvidia/driver"):
        mounted(root)


def test_the_nodes_are_the_cards_and_no_others(root: Path):
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1", "nvidia2", "nvidia-modeset"):
        write(root, f"dev/{name}")
    nodes = tree(root).nodes((2, 0))
    assert [node.path for node in nodes] == ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia2", "/dev/nvidia0"]
    assert nodes[0] == DeviceNode("/dev/nvidiactl", HOST / "dev/nvidiactl")
    write(root, "dev/nvidia-uvm-tools")
    assert len(tree(root).nodes((0,))) == 4
    with pytest.raises(DriverError, match="no /run/nvidia/driver/dev/nvidia7"):
        tree(root).nodes((7,))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=5), st.binary(max_size=30))
def test_a_cache_is_read_as_it_is_written(rows: list[tuple[str, str]], before: bytes):
    encodable = [(name.encode().decode(), path) for name, path in rows]
    if all(name.isascii() for name, _ in rows):
        assert list(libraries_of(before + cache(*encodable))) == rows


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_whatever_a_cache_holds_is_read_or_left_out(content: bytes, count: int):
    for part in (content, b"glibc-ld.so.cache1.1" + count.to_bytes(4, "little") + content):
        assert all(name and path for name, path in libraries_of(part))


def test_the_machines_own_cache_names_the_c_library():
    found = dict(libraries_of(Path("/etc/ld.so.cache").read_bytes()))
    assert Path(found["libc.so.6"]).exists()
    assert DriverTree(Path("/"), Path("/")).library("libc.so.6") == PurePosixPath(Path(found["libc.so.6"]).resolve())

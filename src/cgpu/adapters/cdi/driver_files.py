"""What a container needs of NVIDIA's driver: which libraries and programs, where they are, where they go.

The lists are what NVIDIA's container toolkit gives for the capabilities ``compute`` and ``utility``, without what
renders, encodes, serves other containers (MPS) or manages a whole machine. Nothing is run to find a file: the
loader's cache is read, and the folders in which installers put libraries are looked through.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from cgpu.adapters.cdi.loader_cache import libraries_of
from cgpu.adapters.container_view import ViewMount
from cgpu.errors import DriverError
from cgpu.settings import Settings

CUDA: Final = "libcuda.so.1"
NVML: Final = "libnvidia-ml.so.1"
_NEEDED: Final = (CUDA, NVML)
_LIBRARIES: Final = (
    *_NEEDED,
    "libcudadebugger.so.1",
    "libnvidia-allocator.so.1",
    "libnvidia-cfg.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-nvvm70.so.4",
    "libnvidia-opencl.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-sandboxutils.so.1",
)
_OF_VERSION: Final = (  # their names end with the driver's version
    "libnvidia-compiler.so",
    "libnvidia-gpucomp.so",
    "libnvidia-pkcs11.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-tileiras.so",
)
_ALSO: Final = {CUDA: ("libcuda.so",)}  # names under which programs look for it, too
_PROGRAMS: Final = ("nvidia-smi", "nvidia-debugdump")
_PROGRAM_FOLDERS: Final = ("usr/bin", "bin", "usr/local/bin", "usr/local/nvidia/bin", "opt/bin", "sbin", "usr/sbin")
_PROGRAM_PLACE: Final = PurePosixPath("/usr/bin")

_CONTROL_NODES: Final = ("nvidiactl", "nvidia-uvm")
_PROFILERS_NODE: Final = "nvidia-uvm-tools"  # a driver may be without it

_MACHINES: Final = {"x86_64": 62, "aarch64": 183}  # ELF's numbers
_LINKS_MAX: Final = 40  # as the kernel's
_ELF_HEAD: Final = 20


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node of a container."""

    path: str  # in the container
    on_host: Path


@dataclass(frozen=True, slots=True)
class DriverTree:
    """The root folder of a driver's files: the host's own, or that of a container that has the driver."""

    here: Path  # as this process sees it
    on_host: Path  # as the runtime does, which makes the mounts
    machine: str = platform.machine()

    def mounts(self, version: str) -> tuple[ViewMount, ...]:
        """The files for a container, at places where any distribution's loader looks. Raises DriverError.

        ``version`` is the driver's, such as ``550.163.01``.
        """
        found: list[ViewMount] = []
        for name in (*_LIBRARIES, *(f"{name}.{version}" for name in _OF_VERSION)):
            library = self.library(name)
            if library is None and name in _NEEDED:
                raise DriverError(
                    f"there is no {name} of the driver below {self.on_host}",
                    "the chart's value driver.root names the folder below which the driver's files are;"
                    " empty, NVIDIA's container runtime is to bring them",
                )
            if library is not None:
                names = (name, *_ALSO.get(name, ()))
                found += [self._mount(library, place / one) for place in self.places for one in names]
        for name in _PROGRAMS:
            program = next(
                filter(None, (self._file(PurePosixPath("/", folder, name)) for folder in _PROGRAM_FOLDERS)), None
            )
            if program is not None:
                found.append(self._mount(program, _PROGRAM_PLACE / name))
        return tuple(found)

    def nodes(self, minors: Iterable[int]) -> tuple[DeviceNode, ...]:
        """The device nodes for the cards with these minor numbers, and no others. Raises DriverError."""
        needed = [*_CONTROL_NODES, *(f"nvidia{minor}" for minor in minors)]
        missing = next((name for name in needed if not self._has_node(name)), None)
        if missing is not None:
            raise DriverError(
                f"there is no {self.on_host / 'dev' / missing}",
                "load the driver's modules and make their nodes on the node: `nvidia-modprobe -u -c 0` does both",
            )
        names = [*needed, *([_PROFILERS_NODE] if self._has_node(_PROFILERS_NODE) else [])]
        return tuple(DeviceNode(f"/dev/{name}", self.on_host / "dev" / name) for name in names)

    @property
    def places(self) -> tuple[PurePosixPath, ...]:
        """Where libraries go in a container: Debian's loader looks in the first by itself, Red Hat's in the second."""
        return PurePosixPath(f"/usr/lib/{self.machine}-linux-gnu"), PurePosixPath("/usr/lib64")

    def library(self, soname: str) -> PurePosixPath | None:
        """The file of a library below the root, all links followed; None where it is not there."""
        return next(filter(None, map(self._library, self._candidates(soname))), None)

    def library_here(self, soname: str) -> Path | None:
        """The same as this process sees it."""
        file = self.library(soname)
        return None if file is None else self.path_here(file)

    def path_here(self, file: PurePosixPath) -> Path:
        """A path below the root as this process sees it."""
        return self.here / file.relative_to("/")

    def _has_node(self, name: str) -> bool:
        return (self.here / "dev" / name).exists()

    def _candidates(self, soname: str) -> Iterator[PurePosixPath]:
        try:
            cache = (self.here / "etc/ld.so.cache").read_bytes()
        except OSError:
            cache = b""
        yield from (PurePosixPath("/", path) for name, path in libraries_of(cache) if name == soname)
        multiarch = f"{self.machine}-linux-gnu"
        for folder in (
            f"usr/lib/{multiarch}", f"usr/lib/{multiarch}/nvidia/current", f"lib/{multiarch}", "usr/lib64",
            "usr/lib64/nvidia", "lib64", "usr/lib", "usr/lib/nvidia", "lib", "usr/local/nvidia/lib64",
            "home/kubernetes/bin/nvidia/lib64", "opt/nvidia/lib64", "run/opengl-driver/lib",
        ):  # fmt: skip
            yield PurePosixPath("/", folder, soname)

    def _library(self, path: PurePosixPath) -> PurePosixPath | None:
        """The file, if it is one for this machine: a host may have those of 32 bits, too."""
        file = self._file(path)
        if file is None:
            return None
        try:
            with self.path_here(file).open("rb") as opened:
                head = opened.read(_ELF_HEAD)
        except OSError:
            return None
        is_ours = head[:5] == b"\x7fELF\x02" and int.from_bytes(head[18:20], "little") == _MACHINES.get(self.machine)
        return file if is_ours else None

    def _file(self, path: PurePosixPath) -> PurePosixPath | None:
        """Where a path below the root leads, as if the root were entered; None where that is no file."""
        rest = list(reversed(path.parts[1:]))
        at = PurePosixPath("/")
        for _ in range(_LINKS_MAX * len(path.parts)):
            if not rest:
                return at if self.path_here(at).is_file() else None
            part = rest.pop()
            here = self.path_here(at / part)
            if part == "..":
                at = at.parent
            elif here.is_symlink():
                target = here.readlink()
                at = PurePosixPath("/") if target.is_absolute() else at
                rest += [name for name in reversed(target.parts) if name != "/"]
            else:
                at /= part
        return None

    def _mount(self, file: PurePosixPath, place: PurePosixPath) -> ViewMount:
        return ViewMount(self.on_host / file.relative_to("/"), str(place), writable=False, executable=True)


def driver_tree(settings: Settings) -> DriverTree | None:
    """Where this node's driver is; None where NVIDIA's container runtime brings it, or the machine is simulated."""
    if settings.driver_root is None or settings.sim_state is not None:
        return None
    return DriverTree(settings.driver_tree or settings.driver_root, settings.driver_root)

"""What a container sees of cgpu: one folder per container on the host, and the mounts that put it in.

The folder is the container's alone. Its files are empty places for the mounts that cover them, but for
``ld.so.preload``; so nothing that a container's root may write lies in it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.adapters.host_files import replace_file
from cgpu.adapters.native import (
    HELPER,
    SHIM,
    SIMULATED_CUDA,
    content_name,
    content_named_copy,
    content_named_folder,
    native_library,
)
from cgpu.errors import StateError
from cgpu.model import container
from cgpu.model.region_files import GRANTS, LOCKS, USAGE

_PRELOAD: Final = "ld.so.preload"


@dataclass(frozen=True, slots=True)
class ViewMount:
    """One bind mount of a container."""

    source: Path  # on the host
    destination: str  # absolute, in the container
    writable: bool
    executable: bool  # programs and libraries are mapped from it

    @property
    def options(self) -> tuple[str, ...]:
        """The options that an OCI runtime mounts it with."""
        rights = ("bind", "rprivate", "rw" if self.writable else "ro", "nosuid", "nodev")
        return rights if self.executable else (*rights, "noexec")


def make_view(
    folder: Path, *, region: Path, helper: bool, sim_state: Path | None, image_preload: tuple[str, ...] = (),
    alone: str = "",
) -> tuple[ViewMount, ...]:  # fmt: skip
    """Make the folder, or what is missing of it, and return the mounts in the order in which they are made.

    Args:
        folder: the view's own folder; its parent is made too.
        region: the tenant's region, below ``<runtime_dir>/tenants``.
        helper: whether the container gets ``cgpu`` at ``container.HELPER``.
        sim_state: state folder of a simulated machine; None: real GPUs.
        image_preload: the lines of the image's own preload file, which follow ours.
        alone: a file name that no other view has. A second view in the same container covers the first, where
            there is no place for this file then, and none can be made: the runtime refuses the container.

    Raises:
        StateError: a file of the installation is missing, or the folder cannot be written.
    """
    programs = region.parent.parent / "lib"
    shim, shim_name = _program(SHIM, programs)
    shim_at = container.LIBRARIES / shim_name
    mounts = [
        ViewMount(folder, str(container.ROOT), writable=False, executable=True),
        ViewMount(region / GRANTS, str(container.REGION / GRANTS), writable=False, executable=False),
        ViewMount(region / USAGE, str(container.REGION / USAGE), writable=True, executable=False),
        ViewMount(region / LOCKS, str(container.REGION / LOCKS), writable=True, executable=False),
        ViewMount(shim, str(shim_at), writable=False, executable=True),
    ]
    if helper:
        program, _ = _program(HELPER, programs)
        mounts.append(ViewMount(program, str(container.HELPER), writable=False, executable=True))
    if sim_state is not None:
        mounts += simulated_mounts(sim_state, programs)
    if alone:
        mounts.append(ViewMount(folder / alone, str(container.ROOT / alone), writable=False, executable=False))
    mounts.append(ViewMount(folder / _PRELOAD, str(container.PRELOAD), writable=False, executable=False))
    try:
        _place(folder, mounts[1:-1])
        preload = "".join(f"{line}\n" for line in (str(shim_at), *image_preload))
        replace_file(folder / _PRELOAD, os.fsencode(preload), 0o444, durable=False)
    except OSError as error:
        raise StateError(f"{error.filename or folder}: {error.strerror}", "it has to be writable") from error
    return tuple(mounts)


def simulated_mounts(sim_state: Path, programs: Path) -> list[ViewMount]:
    """The driver and the state of a simulated machine. ``programs`` has copies that the host can see.

    Raises StateError: a file of the installation is missing, or the folder cannot be written.
    """
    libraries = content_named_folder(native_library(SIMULATED_CUDA).parent, programs)
    return [
        ViewMount(libraries, str(container.SIM_LIBRARIES), writable=False, executable=True),
        ViewMount(sim_state, str(container.SIM_STATE), writable=True, executable=False),
    ]


def _program(name: str, folder: Path) -> tuple[Path, str]:
    """A file of this installation for a container, and its name with the hash of its content."""
    source = native_library(name)
    copy = content_named_copy(source, folder)
    if copy != source:
        return copy, copy.name
    return source, content_name(source)


def _place(folder: Path, mounts: list[ViewMount]) -> None:
    """The places that the mounts cover: a runtime cannot make them below a read-only mount."""
    folder.mkdir(parents=True, exist_ok=True)
    folders, files = {str(folder)}, []
    for mount in mounts:
        place = f"{folder}{mount.destination.removeprefix(str(container.ROOT))}"
        folders.add(os.path.dirname(place))  # noqa: PTH120 - a node makes some hundred views a second
        if mount.source.is_dir():
            folders.add(place)
        else:
            files.append(place)
    for path in sorted(folders):  # one before those in it
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        os.chmod(path, 0o755)  # noqa: PTH101 - whatever the umask: the container's users look here
    for path in files:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fchmod(descriptor, 0o444)
        finally:
            os.close(descriptor)

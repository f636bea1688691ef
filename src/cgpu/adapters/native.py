"""Where the C libraries and programs of this installation are."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from cgpu.errors import StateError

SHIM: Final = "libcgpu.so"
ARBITER: Final = "libcgpu_arbiter.so"
SIMULATED_CUDA: Final = "sim/libcuda.so.1"
SIMULATED_NVML: Final = "sim/libnvidia-ml.so.1"
SIMULATION_CONTROL: Final = "sim/libcgpu_simctl.so"
RUNTIME: Final = "bin/cgpu-runtime"  # static, as an OCI runtime
HELPER: Final = "bin/cgpu-inside"  # static, what `cgpu` is in a container

_DIGITS: Final = 16  # of a hash in a name
_HASHED_MAX: Final = 16  # files and folders whose hash is kept


def native_library(name: str) -> Path:
    """The path of one of the libraries above. Raises StateError when it is not installed."""
    path = _folder() / name
    if not path.is_file():
        raise StateError(f"{path} is missing", "install cgpu with pip, or build it with: python native/build.py")
    return path


@functools.cache
def _folder() -> Path:
    return Path(__file__).parents[1] / "_native"


def content_name(library: Path) -> str:
    """The library's name with the hash of its content, such as ``libcgpu-0123456789abcdef.so``. Raises OSError."""
    return f"{library.stem}-{_hash_of((library,), (_stamp(library),))}{library.suffix}"


def content_named_copy(library: Path, folder: Path) -> Path:
    """A copy in ``folder`` whose name holds the content's hash, made if it is not there yet.

    An upgrade then never changes, nor takes away, a library that a running tenant's next process
    is going to load. Where programs may not be mapped from the folder (noexec), the library itself.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return library
        copy = folder / content_name(library)
        if not copy.exists():
            import tempfile

            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(library.read_bytes())
                os.fchmod(file.fileno(), 0o555)
            Path(file.name).rename(copy)
    except OSError:
        return library
    return copy


def content_named_folder(source: Path, folder: Path) -> Path:
    """The same for all files of a folder: a copy in ``folder`` whose name holds the hash of what is in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return source
        files_of_it = tuple(sorted(path for path in source.iterdir() if path.is_file()))
        copy = folder / f"{source.name}-{_hash_of(files_of_it, tuple(map(_stamp, files_of_it)))}"
        if not copy.exists():
            import tempfile

            unfinished = Path(tempfile.mkdtemp(dir=folder))
            for path in files_of_it:
                (unfinished / path.name).write_bytes(path.read_bytes())
                (unfinished / path.name).chmod(0o555)
            unfinished.chmod(0o755)
            with contextlib.suppress(OSError):  # another may have made it meanwhile
                unfinished.rename(copy)
            shutil.rmtree(unfinished, ignore_errors=True)
        copy.stat()
    except OSError:
        return source
    return copy


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes whenever the file does: an installation replaces its files, and does not write into them."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


@functools.lru_cache(_HASHED_MAX)
def _hash_of(paths: tuple[Path, ...], stamps: tuple[tuple[int, ...], ...]) -> str:  # noqa: ARG001 - a part of the key
    """Kept, since an agent asks for every container, and reading all of it takes a millisecond and more."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGITS]

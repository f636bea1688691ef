"""Where the C libraries and programs of this installation are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from importlib.resources import files
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


def native_library(name: str) -> Path:
    """The path of one of the libraries above. Raises StateError when it is not installed."""
    path = Path(str(files("cgpu"))) / "_native" / name
    if not path.is_file():
        raise StateError(f"{path} is missing", "install cgpu with pip, or build it with: python native/build.py")
    return path


def content_name(library: Path, content: bytes) -> str:
    """The library's name with the hash of its content, such as ``libcgpu-0123456789abcdef.so``."""
    return f"{library.stem}-{hashlib.sha256(content).hexdigest()[:16]}{library.suffix}"


def content_named_copy(library: Path, folder: Path) -> Path:
    """A copy in ``folder`` whose name holds the content's hash, made if it is not there yet.

    An upgrade then never changes, nor takes away, a library that a running tenant's next process
    is going to load. Where programs may not be mapped from the folder (noexec), the library itself.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return library
        content = library.read_bytes()
        copy = folder / content_name(library, content)
        if not copy.exists():
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(content)
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
        files_of_it = sorted(path for path in source.iterdir() if path.is_file())
        contents = {path.name: path.read_bytes() for path in files_of_it}
        digest = hashlib.sha256(b"".join(name.encode() + content for name, content in contents.items())).hexdigest()
        copy = folder / f"{source.name}-{digest[:16]}"
        if not copy.exists():
            unfinished = Path(tempfile.mkdtemp(dir=folder))
            for name, content in contents.items():
                (unfinished / name).write_bytes(content)
                (unfinished / name).chmod(0o555)
            unfinished.chmod(0o755)
            with contextlib.suppress(OSError):  # another may have made it meanwhile
                unfinished.rename(copy)
            shutil.rmtree(unfinished, ignore_errors=True)
        copy.stat()
    except OSError:
        return source
    return copy

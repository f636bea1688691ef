"""Where the C libraries and programs of this installation are."""

from __future__ import annotations

import hashlib
import os
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

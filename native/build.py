"""Build the C libraries of cgpu into src/cgpu/_native (or --out).

Two compilers: `zig` (from the ziglang package; for wheels: links against glibc 2.17 whatever the
machine has, and cross-compiles) and `cc` (the machine's own; for development and sanitizers).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

NATIVE = Path(__file__).resolve().parent
DEFAULT_OUT = NATIVE.parent / "src" / "cgpu" / "_native"
GLIBC = "2.17"
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations"]


@dataclass(frozen=True)
class Library:
    """One shared library: where it goes, what it is made of, what it exports."""

    output: str
    sources: tuple[str, ...]  # globs below native/
    soname: str
    exports: str  # "hooks": from the hook lists; else a glob pattern for a version script
    cuda_abi: bool = False  # the version node that NVIDIA's library carries is none; plain names


LIBRARIES = (
    Library("libcgpu.so", ("shim/*.c", "shim/*.S"), "libcgpu.so", "hooks"),
    Library("libcgpu_arbiter.so", ("arbiter/*.c",), "libcgpu_arbiter.so", "cgpu_arbiter_*"),
    Library("sim/libcuda.so.1", ("simgpu/card*.c", "simgpu/cuda*.c"), "libcuda.so.1", "cu*"),
    Library("sim/libnvidia-ml.so.1", ("simgpu/card*.c", "simgpu/nvml*.c"), "libnvidia-ml.so.1", "nvml*"),
    Library("sim/libcgpu_simctl.so", ("simgpu/card*.c", "simgpu/ctl*.c"), "libcgpu_simctl.so", "simctl_*"),
)


def cuda_include() -> Path:
    """The folder of cuda.h and nvml.h, from the nvidia-cuda-runtime and nvidia-nvml-dev packages."""
    spec = find_spec("nvidia")
    for root in list(spec.submodule_search_locations) if spec and spec.submodule_search_locations else []:
        for header in sorted(Path(root).glob("*/include/cuda.h")):
            return header.parent
    raise SystemExit("build.py: cuda.h not found: pip install nvidia-cuda-runtime nvidia-nvml-dev")


def hook_names() -> list[str]:
    """Exported names of the shim, from the hook lists (the only place where they are written)."""
    names: list[str] = []
    for path in sorted((NATIVE / "include").glob("*hooks.def")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        names += re.findall(r"^CG_(?:HOOK|SUBMIT|NVML)\(\s*\d+,\s*(\w+)", text, flags=re.M)
    return names


def version_script(library: Library, folder: Path) -> Path:
    if library.exports == "hooks":
        names = [*hook_names(), "dlsym", "dlvsym"]
    else:
        names = [library.exports]
    path = folder / (library.soname + ".map")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{ global: " + " ".join(f"{name};" for name in names) + " local: *; };\n")
    return path


def compiler(kind: str, arch: str) -> list[str]:
    if kind == "zig":
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu.{GLIBC}"]
    return [os.environ.get("CC", "cc")]


def compile_library(library: Library, out: Path, work: Path, command: list[str], extra: list[str]) -> Path | None:
    sources = sorted({path for pattern in library.sources for path in NATIVE.glob(pattern)})
    if not sources:
        return None
    target = out / library.output
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = [
        "-std=gnu11", "-O2", "-g", "-fPIC", "-fvisibility=hidden", "-pthread", "-D_GNU_SOURCE", *WARNINGS,
        f"-I{NATIVE / 'include'}", f"-I{NATIVE / library.sources[0].split('/')[0]}", "-isystem", str(cuda_include()), *extra,
    ]
    objects: list[Path] = []
    for source in sources:
        # The digest of headers and flags makes the cache key; objects are kept between builds.
        stamp = hashlib.sha256(" ".join([*command, *flags]).encode())
        for header in sorted([*NATIVE.glob("include/*"), *source.parent.glob("*.h"), *source.parent.glob("*.inc"), source]):
            stamp.update(header.read_bytes())
        objects.append(work / f"{source.parent.name}-{source.stem}-{stamp.hexdigest()[:16]}.o")
    todo = [(s, o) for s, o in zip(sources, objects, strict=True) if not o.exists()]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda so: run([*command, *flags, "-c", str(so[0]), "-o", str(so[1])]), todo):
            done
    temporary = target.with_name(target.name + ".new")
    run([
        *command, "-shared", "-pthread", *extra, *map(str, objects), "-o", str(temporary),
        f"-Wl,-soname,{library.soname}", "-Wl,-z,relro,-z,now", f"-Wl,--version-script={version_script(library, work)}",
        "-ldl", "-lrt",
    ])
    temporary.replace(target)  # never write into a library that a process may have mapped
    return target


def run(command: list[str]) -> None:
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"build.py: {' '.join(command)}\n{result.stdout}{result.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--compiler", choices=("zig", "cc"), default="zig")
    parser.add_argument("--arch", choices=("x86_64", "aarch64"), default=os.uname().machine)
    parser.add_argument("--only", help="build only the libraries whose output contains this text")
    parser.add_argument("--extra", default="", help="further compiler flags, e.g. -fsanitize=thread")
    options = parser.parse_args()
    command = compiler(options.compiler, options.arch)
    work = NATIVE.parent / "build" / f"{options.compiler}-{options.arch}"
    work.mkdir(parents=True, exist_ok=True)
    for library in LIBRARIES:
        if options.only and options.only not in library.output:
            continue
        built = compile_library(library, options.out, work, command, options.extra.split())
        print(f"build.py: {built or library.output + ': no sources yet'}")


if __name__ == "__main__":
    main()

"""Build the C libraries and programs of cgpu into src/cgpu/_native (or --out).

Two compilers. `zig`, from the ziglang package, is for wheels: it links against glibc 2.17 whatever the
machine has, cross-compiles, needs no compiler installed, and gives the same bytes for the same sources.
`cc` is the machine's own, for development and sanitizers: faster, with debug information.

Programs are always zig's: they are linked statically with musl, because one of them runs in containers
whatever their C library is, and the other in the way of every container that starts.

Several builds may run at once in one tree: objects and libraries appear under their names complete.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

NATIVE = Path(__file__).resolve().parent
ROOT = NATIVE.parent
DEFAULT_OUT = ROOT / "src" / "cgpu" / "_native"
ARCHITECTURES = ("x86_64", "aarch64")
GLIBC = "2.17"  # manylinux2014: RHEL 7 and everything since
ENTRY_NAMES = ("dlsym", "dlvsym", "dlmopen")  # of the loader's, which the shim stands in front of
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations")  # cuda.h's old names are hooked too
LANGUAGE = ("-std=gnu11", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden", "-pthread")


@dataclass(frozen=True)
class Library:
    """One shared library: where it goes, what it is made of, what it exports."""

    output: str  # below the output folder
    sources: tuple[str, ...]  # globs below native/
    soname: str
    exports: str  # a pattern of exported names, or "hooks": the hook lists and the loader's functions


LIBRARIES = (
    Library("libcgpu.so", ("shim/*.c", "shim/*.S"), "libcgpu.so", "hooks"),
    Library("libcgpu_arbiter.so", ("arbiter/*.c",), "libcgpu_arbiter.so", "cgpu_arbiter_*"),
    Library("sim/libcuda.so.1", ("simgpu/card*.c", "simgpu/cuda*.c"), "libcuda.so.1", "cu*"),
    Library("sim/libnvidia-ml.so.1", ("simgpu/card*.c", "simgpu/nvml*.c"), "libnvidia-ml.so.1", "nvml*"),
    Library("sim/libcgpu_simctl.so", ("simgpu/card*.c", "simgpu/ctl*.c"), "libcgpu_simctl.so", "simctl_*"),
)


@dataclass(frozen=True)
class Program:
    """One static executable."""

    output: str  # below the output folder
    sources: tuple[str, ...]  # globs below native/


PROGRAMS = (
    Program(
        "bin/cgpu-runtime",
        tuple(
            f"programs/{name}.c"
            for name in (
                "agent_http",
                "command_line",
                "conf",
                "config_text",
                "hook",
                "image",
                "json_text",
                "pin",
                "runtime",
                "say",
                "scan",
            )
        ),
    ),
    Program("bin/cgpu-inside", ("programs/inside*.c", "programs/say.c")),
)


@dataclass(frozen=True)
class Toolchain:
    """A compiler and the flags that make it what it is for."""

    name: str  # names the folder of objects, too
    command: tuple[str, ...]
    flags: tuple[str, ...]
    link_flags: tuple[str, ...] = ()

    @classmethod
    def zig(cls, arch: str, extra: tuple[str, ...] = ()) -> Toolchain:
        """Release builds. No debug information and no paths of the machine in the output.

        Optimised as a whole (-flto): an allocation passes eight files of the shim, and costs a tenth less without
        the calls between them.
        """
        command = (sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu.{GLIBC}")
        flags = ("-O2", "-flto", "-g0", f"-ffile-prefix-map={ROOT}=.", *extra)
        return cls(f"zig-{arch}", command, flags, ("-flto", "-Wl,--strip-debug"))

    @classmethod
    def static(cls, arch: str) -> Toolchain:
        """Programs: small, whole, and the same bytes for the same sources."""
        command = (sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl")
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        flags = ("-Os", "-g0", "-static", f"-ffile-prefix-map={ROOT}=.", f'-DCGPU_VERSION="{version}"')
        return cls(f"zig-{arch}-musl", command, flags, ("-Wl,--strip-all",))

    @classmethod
    def cc(cls, extra: tuple[str, ...] = ()) -> Toolchain:
        """Development builds with $CC or cc, for this machine."""
        command = tuple(shlex.split(os.environ.get("CC", "cc")))
        return cls("cc", command, ("-O2", "-g", *extra))


@functools.cache
def nvidia_include() -> Path:
    """The folder of cuda.h and nvml.h, from the nvidia-cuda-runtime and nvidia-nvml-dev packages."""
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for header in sorted(Path(root).glob("*/include/cuda.h")):
            if header.with_name("nvml.h").exists():
                return header.parent
    raise SystemExit("build.py: no cuda.h and nvml.h: pip install nvidia-cuda-runtime nvidia-nvml-dev")


def hook_names() -> list[str]:
    """Names that the shim hooks, from the hook lists (the only place where they are written)."""
    names: list[str] = []
    for path in sorted((NATIVE / "include").glob("*hooks.def")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        names += re.findall(r"^CG_(?:HOOK|SUBMIT|NVML)\(\s*\d+,\s*(\w+)", text, flags=re.MULTILINE)
    return names


def version_script(library: Library) -> str:
    """The linker's version script: what the library exports, and nothing else."""
    names = [*hook_names(), *ENTRY_NAMES] if library.exports == "hooks" else [library.exports]
    return "{\n  global:\n" + "".join(f"    {name};\n" for name in names) + "  local: *;\n};\n"


def sources_of(library: Library | Program) -> list[Path]:
    """The source files of a library or program, in the same order everywhere."""
    return sorted({path for pattern in library.sources for path in NATIVE.glob(pattern)})


def include_flags(sources: list[Path]) -> list[str]:
    """Include paths: the contracts, the folders of the sources, NVIDIA's headers."""
    folders = [NATIVE / "include", *sorted({source.parent for source in sources})]
    return [*(f"-I{folder}" for folder in folders), "-isystem", str(nvidia_include())]


def build(library: Library, out: Path, toolchain: Toolchain) -> Path | None:
    """Compile and link one library below `out`; None when it has no sources."""
    with tempfile.TemporaryDirectory(prefix="cgpu-exports-") as scratch:
        script = Path(scratch, "exports.map")
        script.write_text(version_script(library))
        return _make(library, out, toolchain, [
            "-shared", "-pthread",
            # Our own uses of functions that we export stay ours, as in NVIDIA's libraries.
            "-Wl,-Bsymbolic", f"-Wl,-soname,{library.soname}", f"-Wl,--version-script={script}",
            "-Wl,-z,relro,-z,now", "-Wl,-z,defs",
            "-Wl,-z,nodelete",  # threads of ours may be in it when a program closes it
            "-ldl", "-lrt", "-lm",
        ])  # fmt: skip


def build_program(program: Program, out: Path, toolchain: Toolchain) -> Path | None:
    """Compile and link one program below `out`, mode 0755; None when it has no sources."""
    return _make(program, out, toolchain, [])


def _make(part: Library | Program, out: Path, toolchain: Toolchain, flags: list[str]) -> Path | None:
    sources = sources_of(part)
    if not sources:
        return None
    objects = compile_all(sources, toolchain)
    target = out / part.output
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        linked = Path(scratch, target.name)
        _run([
            *toolchain.command, *toolchain.flags, *map(str, objects), "-o", str(linked),
            "-Wl,-z,noexecstack", "-Wl,--build-id=none", *flags, *toolchain.link_flags,
        ])  # fmt: skip
        linked.chmod(0o755)  # whatever the umask
        linked.replace(target)  # never write into a library that a process may have mapped
    return target


def compile_all(sources: list[Path], toolchain: Toolchain) -> list[Path]:
    """The objects of the sources, in their order."""
    work = ROOT / "build" / toolchain.name
    work.mkdir(parents=True, exist_ok=True)
    command = [*toolchain.command, *LANGUAGE, *toolchain.flags, *WARNINGS, *include_flags(sources)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda source: compile_object(command, source, work), sources))


def compile_object(command: list[str], source: Path, work: Path) -> Path:
    """The object of one source, named by the digest of all that it depends on and kept between builds.

    What it depends on: itself, the headers beside it, and the contracts in include/.
    """
    digest = hashlib.sha256("\0".join(command).encode())
    headers = [path for pattern in ("*.h", "*.def", "*.inc") for path in source.parent.glob(pattern)]
    for path in sorted([source, *headers, *(NATIVE / "include").iterdir()]):
        digest.update(path.read_bytes())
    target = work / f"{source.parent.name}-{source.stem}-{digest.hexdigest()[:16]}.o"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            compiled = Path(scratch, "object.o")
            _run([*command, "-c", str(source), "-o", str(compiled)])
            compiled.replace(target)
    return target


def _run(command: list[str]) -> None:
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"build.py: {shlex.join(command)}\n{result.stdout}{result.stderr}")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="output folder")
    parser.add_argument("--compiler", choices=("zig", "cc"), default="zig")
    parser.add_argument("--arch", choices=ARCHITECTURES, default=os.uname().machine, help="for zig")
    parser.add_argument("--only", default="", help="build only that whose output contains this text")
    parser.add_argument("--extra", default="", help="further compiler flags, e.g. -fsanitize=thread")
    options = parser.parse_args()
    extra = tuple(shlex.split(options.extra))
    toolchain = Toolchain.zig(options.arch, extra) if options.compiler == "zig" else Toolchain.cc(extra)
    for library in LIBRARIES:
        if options.only in library.output:
            built = build(library, options.out, toolchain)
            print(f"build.py: {built or library.output + ': no sources'}")
    for program in PROGRAMS:
        if options.only in program.output:
            made = build_program(program, options.out, Toolchain.static(options.arch))
            print(f"build.py: {made or program.output + ': no sources'}")


if __name__ == "__main__":
    main()

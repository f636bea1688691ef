"""Ways round a quota that are no function of the driver's: each is a command that a tenant runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.escape_places import ASKED_BYTES, Bare, Place, Programs, attempt
from bench.escape_table import CONTAINER, DRIVER, RUN, Attempt

HALF_BYTES: Final = 1200 << 20
"""Fits once into the share, and not twice."""
PART_BYTES: Final = 512 << 20
"""Eight of them do not fit."""

_DRIVER_LAYER: Final = "the driver layer (r615), else nothing"
_PRELOAD: Final = "nothing under `cgpu run`; in containers the mounted /etc/ld.so.preload"
_OWN_FILES: Final = (
    "nothing under `cgpu run`: agent, files and program are the same user's; containers have them read-only"
)

# A file of a region that this user has made: as the agent makes it, with the whole card as its quota.
_OWN_REGION: Final = """
import os, sys
from pathlib import Path
from tests.native.memory_tenant import TenantRegion
region = TenantRegion.create(Path(sys.argv[1]), sys.argv[2], 1 << 40)
os.environ["CGPU_REGION"] = str(region.folder)
os.execv(sys.argv[3], sys.argv[3:])
"""
_OWN_GRANTS: Final = """
import ctypes, mmap, os, sys
from cgpu.region import layout
with open(os.environ["CGPU_REGION"] + "/grants", "r+b") as file:
    layout.Grants.from_buffer(mmap.mmap(file.fileno(), 0)).gpu[0].quota_bytes = 1 << 40
os.execv(sys.argv[1], sys.argv[1:])
"""
_LIMITS: Final = (
    "CGPU_MEMORY=14GiB", "CGPU_DISABLE=1", "CGPU_REQUIRE_LAYER=shim", "CUDA_DISABLE_CONTROL=true",
    "ALIYUN_COM_GPU_MEM_CONTAINER=14", "ALIYUN_COM_GPU_MEM_DEV=14",
)  # fmt: skip


@dataclass(frozen=True)
class Trick:
    """One of them. Words of the command in braces are those of ``Place.tools``."""

    way: str
    command: tuple[str, ...]
    asked_bytes: int = ASKED_BYTES
    below: Mapping[str, str] = field(default_factory=dict)
    """By place: why the library level does not stop it there, and what does. Not named: it has to."""
    places: tuple[str, ...] = (RUN, CONTAINER, DRIVER)
    real: bool = True
    """Whether it can be tried on a real card."""
    needs: str = ""
    """A program that not every machine can make."""


def _client(way: str, asked_bytes: int = ASKED_BYTES, *more: str) -> tuple[str, ...]:
    return ("{client}", way, str(asked_bytes), *more)


def _shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


PLAIN: Final = _client("plain")
_BOTH: Final = {RUN: _DRIVER_LAYER, CONTAINER: _DRIVER_LAYER}
_RUN_ONLY: Final = {RUN: _PRELOAD}

TRICKS: Final = (
    Trick("cuMemAlloc, as any program", PLAIN),
    Trick("exec", _client("exec")),
    Trick("fork and exec", _client("fork-exec")),
    Trick("vfork and exec", _client("vfork")),
    Trick("posix_spawn", _client("spawn")),
    Trick("a daemon: fork, setsid, fork", _client("fork")),
    Trick("eight daemons, a quarter of the share each", _client("forks", PART_BYTES), PART_BYTES * 8),
    Trick("eight threads, likewise", _client("threads", PART_BYTES), PART_BYTES * 8),
    Trick("a plugin by dlopen", _client("plugin", ASKED_BYTES, "{plugin_so}")),
    Trick("dlmopen of libcuda", _client("dlmopen")),
    Trick("dlmopen of a plugin", _client("dlmopen-plugin", ASKED_BYTES, "{plugin_so}")),
    Trick("the region's lock closed", _client("closed")),
    Trick("what a pool keeps, then cuMemAlloc", _client("pool", HALF_BYTES), 2 * HALF_BYTES),
    Trick("what the graph pool keeps, then cuMemAlloc", _client("graph", HALF_BYTES), 2 * HALF_BYTES),
    Trick("a mapping whose handle is released, then cuMemAlloc", _client("mapping", HALF_BYTES), 2 * HALF_BYTES),
    Trick("CGPU_REGION unset", ("env", "-u", "CGPU_REGION", *PLAIN)),
    Trick("CGPU_REGION names another folder", ("env", "CGPU_REGION=/tmp", *PLAIN)),
    Trick(
        "CGPU_REGION names a region of one's own",
        ("{python}", "-c", _OWN_REGION, "{folder}/region", "{uuid}", *PLAIN),
        places=(RUN,),
    ),
    Trick("limits of one's own in the environment", ("env", *_LIMITS, *PLAIN)),
    Trick("CUDA_VISIBLE_DEVICES unset", ("env", "-u", "CUDA_VISIBLE_DEVICES", *PLAIN)),
    Trick("a copy of libcuda under another path", _client("copy", ASKED_BYTES, "{copied}"), real=False),
    Trick("LD_PRELOAD unset before exec", ("env", "-u", "LD_PRELOAD", *PLAIN), below=_RUN_ONLY),
    Trick("LD_PRELOAD names another library", ("env", "LD_PRELOAD={plugin_so}", *PLAIN), below=_RUN_ONLY),
    Trick("raw execve with an empty environment", _client("exec-empty"), below=_RUN_ONLY),
    Trick("writes its own region", ("{python}", "-c", _OWN_GRANTS, *PLAIN), below={RUN: _OWN_FILES}, places=(RUN,)),
    Trick(
        "writes its own region",
        _shell(f"echo 1 > /.cgpu/tenant/grants; exec {{client}} plain {ASKED_BYTES}"),
        places=(CONTAINER, DRIVER),
    ),
    Trick(
        "a mount namespace that hides the library",
        _shell(f"{{unshare}} -m sh -c 'mount -t tmpfs none {{run}} && exec {{client}} plain {ASKED_BYTES}' || echo -1"),
        below=_RUN_ONLY,
    ),
    Trick(
        "a root of its own without the library",
        ("chroot", "/bare", "/bin/env", "LD_LIBRARY_PATH=/sim", "CGPU_SIM_STATE=/machine", *PLAIN),
        below=_BOTH, places=(CONTAINER, DRIVER), real=False,
    ),
    Trick("RTLD_DEEPBIND", _client("deepbind", ASKED_BYTES, "{plugin_so}"), below=_BOTH),
    Trick(
        "an auditing library (LD_AUDIT)",
        ("env", "LD_AUDIT={plugin_so}", f"ESCAPE_BYTES={ASKED_BYTES}", *_client("nothing")),
        below=_BOTH, places=(RUN,),
    ),
    Trick("libcuda's table of names, read by the program", _client("table"), below=_BOTH, real=False),
    Trick("a second copy of libcuda", _client("second-copy", ASKED_BYTES, "{copied}"), below=_BOTH, real=False),
    Trick("a libcuda that calls itself otherwise", _client("copy", ASKED_BYTES, "{renamed}"), below=_BOTH, real=False),
    Trick("raw ioctl: a driver of its own", ("{sim_holder}", "0", str(ASKED_BYTES)), below=_BOTH, real=False),
    Trick("statically linked", ("{static}", "0", str(ASKED_BYTES)), below=_BOTH, real=False, needs="static"),
)  # fmt: skip


def try_all(place: Place, programs: Programs, simulated: bool = True) -> Iterator[Attempt]:
    """Try what can be tried in a place."""
    for trick in TRICKS:
        if place.name in trick.places and (simulated or trick.real) and trick.needs not in programs.missing:
            below = trick.below.get(place.name, "")
            yield attempt(place, trick.way, trick.command, trick.asked_bytes, below)


def planted(place: Bare) -> Attempt:
    """A tenant without the shim, reported as if this level had to stop it: what a failure looks like."""
    return attempt(place, "planted: no shim", ("env", "-u", "LD_PRELOAD", *PLAIN), ASKED_BYTES, "")

"""The host's own ends: no memory left for a container, no room left where the agent works.

python -m bench.crash_host PROGRAM FOLDER      for bench.crashes, in a mount namespace of its own: prints JSON
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.crash_place import STEADY_US, Child, Place, eventually
from bench.crash_storms import GONE_SECONDS, Field, storm
from bench.crash_table import Result

LIMIT_BYTES: Final = 64 << 20
ROOM_BYTES: Final = 6 << 20
"""Of the agent's folder: enough for two regions, and for the agent's own files."""
SECONDS: Final = 60.0
_V1: Final = Path("/sys/fs/cgroup/memory")


@contextlib.contextmanager
def limited_cgroup() -> Iterator[Path | None]:
    """A cgroup below this process's own with a limit of LIMIT_BYTES; None where none can be made."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = next((path for _, controllers, path in lines if controllers == "memory"), None)
    folder = _V1 / (own or "/").lstrip("/") / f"cgpu-crashes-{os.getpid()}"
    with contextlib.suppress(OSError):  # another version of cgroups, or not ours to change
        folder.mkdir()
    if not (folder / "memory.limit_in_bytes").exists():
        yield None
        return
    try:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
        yield folder
    finally:
        eventually(lambda: not (folder / "cgroup.procs").read_text(), GONE_SECONDS)
        folder.rmdir()


def out_of_memory(ground: Field, count: int) -> Result | None:
    """The kernel kills a process at work for the host's memory; None where this machine lets nobody limit that."""
    with limited_cgroup() as cgroup:
        if cgroup is None:
            return None
        with storm(ground, "out-of-memory killer, a cgroup of the host", ground.struck) as (result, _):
            for _ in range(count):
                victim = ground.struck.churn(grows=True)
                (cgroup / "cgroup.procs").write_text(str(victim.pid))
                if not eventually(lambda victim=victim: not victim.alive, SECONDS):
                    result.misses.append("it was not killed")
                died = time.monotonic()
                pid = victim.pid
                if not eventually(lambda pid=pid: not ground.struck.charges_of(pid), GONE_SECONDS):
                    result.misses.append(f"the charge of process {pid} stays")
                result.gone_ms.append((time.monotonic() - died) * 1e3)
                ground.struck.forget(victim)
                result.events += 1
    return result


def without_room(program: Path) -> list[Result]:
    """A full and a read-only folder of the agent's, as /run may become. Needs root."""
    folder = Path("/tmp") / f"cgpu-room-{os.getpid()}"
    folder.mkdir()
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "bench.crash_host"]
    try:
        done = subprocess.run(
            [*command, str(program), str(folder)], capture_output=True, text=True, timeout=4 * SECONDS
        )
        if done.returncode:
            raise SystemExit(f"bench.crashes: {done.stderr}")
        return [Result(**row) for row in json.loads(done.stdout)]
    finally:
        folder.rmdir()


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Whoever opens a file there by its name finds it read-only; what is open stays as it is."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def _refused(ground: Field, result: Result, *words: str) -> None:
    """A command that changes something is refused once, with the reason, and does not hang."""
    began = time.monotonic()
    done = ground.place.cgpu(*words)
    lines = done.stderr.splitlines()
    if done.returncode == 0:
        result.misses.append(f"`cgpu {' '.join(words)}` was not refused")
    elif sum(line.startswith("cgpu") for line in lines) != 1:  # and what to do about it below
        result.misses.append(f"`cgpu {' '.join(words)}` said {lines}")
    else:
        result.note += f" `cgpu {words[0]}` after {time.monotonic() - began:.1f} s: {lines[0].rpartition('/')[2]}."
    result.events += 1


def _endure(ground: Field, result: Result) -> None:
    """While there is no room: what runs goes on, what is new is refused, the dead are buried."""
    _refused(ground, result, "run", "--memory", "256MiB", "--", "true")
    _refused(ground, result, "set", "struck", "--memory", "410MiB")
    if ground.place.answer("/v1/tenants") is None:
        result.misses.append("the agent does not answer")


def _buried(ground: Field, result: Result, victim: Child) -> None:
    died = victim.kill()
    eventually(lambda: not ground.struck.charges_of(victim.pid), GONE_SECONDS)
    result.gone_ms.append((time.monotonic() - died) * 1e3)
    ground.struck.forget(victim)
    result.events += 1


def _turned_away(ground: Field, result: Result) -> None:
    """A new process of a tenant, whose files cannot be opened: its memory is refused, with one line."""
    said = len(ground.struck.said.read_text().splitlines())
    victim = ground.struck.churn()
    if not eventually(lambda: victim.book.refused > 10, GONE_SECONDS):
        result.misses.append("a process whose region cannot be opened was not refused memory")
    ground.struck.forget(victim)
    lines = ground.struck.said.read_text().splitlines()[said:]
    if len(lines) != 1:
        result.misses.append(f"a process whose region cannot be opened said {lines}")
    result.note += f" A new process says: {lines[:1]}.".replace(str(ground.struck.region), "TENANT")
    result.events += 1


def _recovered(ground: Field, result: Result) -> None:
    """With room again all is as it was, without a hand."""
    for words in (("run", "--memory", "256MiB", "--", "true"), ("set", "struck", "--memory", "400MiB")):
        done = ground.place.cgpu(*words)
        if done.returncode:
            result.misses.append(f"afterwards `cgpu {words[0]}`: {done.stderr.strip()}")


def _main(program: Path, folder: Path) -> list[Result]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "cgpu", str(folder)], check=True)
    with Place(program, folder / "run") as place:
        struck, other = place.tenant("struck"), place.tenant("neighbour")
        survivors = {"sibling": struck.churn(STEADY_US), "neighbour": other.churn(STEADY_US)}
        for child in survivors.values():
            child.wait_ready()
        ground = Field(place, struck, survivors, random.Random(0))
        with storm(ground, "the agent's folder is full", struck) as (full, _):
            filler = _fill(folder)
            _endure(ground, full)
            victim = struck.churn()
            victim.wait_ready(10.0)
            _buried(ground, full, victim)
            filler.unlink()
            _recovered(ground, full)
        with storm(ground, "the agent's folder is read-only", struck) as (read_only, _):
            victim = struck.churn()
            victim.wait_ready(10.0)
            with _read_only(folder):
                _endure(ground, read_only)
                _turned_away(ground, read_only)
                _buried(ground, read_only, victim)
            _recovered(ground, read_only)
        return [full, read_only]


if __name__ == "__main__":
    print(json.dumps([dataclasses.asdict(row) for row in _main(Path(sys.argv[1]), Path(sys.argv[2]))]))

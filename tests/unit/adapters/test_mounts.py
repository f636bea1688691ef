"""mountinfo: a file has one name in every mount namespace, and only who has it mounted is its user."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from cgpu.adapters.mounts import HostFile, file_of, mounted_at, users_of

PLACE = PurePosixPath("/.cgpu")
ROOT_LINE = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"
RUN_LINE = "30 21 0:25 / /run rw,nosuid,nodev - tmpfs tmpfs rw,mode=755"


class Proc:
    """A /proc of one's own; the first process is who looks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add("self", "host", ROOT_LINE, RUN_LINE)

    def add(self, pid: str, namespace: str, *lines: str) -> None:
        """A process."""
        folder = self.root / pid
        (folder / "ns").mkdir(parents=True)
        (folder / "ns" / "mnt").symlink_to(f"mnt:[{namespace}]")
        (folder / "mountinfo").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_a_file_is_named_by_the_topmost_of_the_deepest_mounts_above_it(proc: Proc):
    assert file_of(Path("/run/cgpu/cdi/web"), proc.root) == HostFile("0:25", "/cgpu/cdi/web")
    assert file_of(Path("/running"), proc.root) == HostFile("8:1", "/running")
    line = "31 21 8:2 /data/run /run rw - ext4 /dev/sda2 rw"
    (proc.root / "self" / "mountinfo").write_text(f"{RUN_LINE}\n{line}\n{ROOT_LINE}\n")
    assert file_of(Path("/run/cgpu"), proc.root) == HostFile("8:2", "/data/run/cgpu")
    (proc.root / "self" / "mountinfo").unlink()
    assert file_of(Path("/run/cgpu"), proc.root) is None


def test_what_is_mounted_over_and_what_is_deleted_is_not_it(proc: Proc):
    ours, other = "40 39 0:25 /cgpu/cdi/web /.cgpu ro - tmpfs t rw", "41 40 0:25 /else /.cgpu ro - tmpfs t rw"
    wanted = file_of(Path("/run/cgpu/cdi/web"), proc.root)
    for pid, lines in {"7": (ours,), "8": (ours, other), "9": (ours.replace("web", "web//deleted"),)}.items():
        proc.add(pid, pid, ROOT_LINE, *lines)
    assert [mounted_at(pid, PLACE, proc.root) == wanted for pid in (7, 8, 9, 10)] == [True, False, False, False]


def test_all_processes_of_a_namespace_are_users_even_if_one_is_just_ending(proc: Proc, monkeypatch: pytest.MonkeyPatch):
    ours = "40 39 0:25 /cgpu/cdi/web /.cgpu ro - tmpfs t rw"
    proc.add("7", "inside")
    proc.add("8", "inside", ROOT_LINE, ours)
    proc.add("9", "inside", ROOT_LINE, ours)
    proc.add("10", "outside", ROOT_LINE)
    (proc.root / "11").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert users_of(Path("/run/cgpu/cdi/web"), PLACE, proc.root) == [8, 9]
    assert users_of(Path("/run/cgpu/cdi/other"), PLACE, proc.root) == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert users_of(Path("/run/cgpu/cdi/web"), PLACE, proc.root) is None


def test_this_process_has_its_root_mounted():
    assert mounted_at(os.getpid(), PurePosixPath("/")) == file_of(Path("/"))

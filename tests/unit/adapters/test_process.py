"""Processes: who they are, and when they end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from cgpu.adapters.process import Identity, ProcessTable, ProcessWatch

STAT = "50 (a) b (c) {state} 1 1 1 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 {threads} 0 {ticks} 1 1"


def fake(
    root: Path, pid: int, *, state: str = "S", threads: int = 1, ticks: int = 777, inner: str = "50 7"
) -> ProcessTable:
    folder = root / str(pid)
    (folder / "ns").mkdir(parents=True)
    (folder / "ns" / "pid").touch()
    (folder / "stat").write_text(STAT.format(state=state, threads=threads, ticks=ticks))
    (folder / "status").write_text(f"Name:\tx\nNSpid:\t{inner}\n")
    (folder / "comm").write_text("x\n")
    (folder / "environ").write_bytes(b"A=1\0CGPU_REGION=/run/x\0B=\0")
    return ProcessTable(root)


def test_this_process_is_itself():
    table = ProcessTable()
    identity = table.identity(os.getpid())
    assert identity is not None
    assert identity.pid == os.getpid()
    assert identity.pid_namespace == Path("/proc/self/ns/pid").stat().st_ino
    assert table.start_ticks(os.getpid()) == identity.start_ticks
    assert os.getpid() in table.pids()


def test_the_innermost_pid_counts_and_a_name_may_hold_parentheses(tmp_path: Path):
    identity = fake(tmp_path, 50).identity(50)
    assert identity is not None
    assert (identity.pid, identity.start_ticks) == (7, 777)


def test_a_zombie_is_gone_unless_other_threads_run(tmp_path: Path):
    assert fake(tmp_path / "a", 50, state="Z").identity(50) is None
    assert fake(tmp_path / "b", 50, state="Z", threads=3).start_ticks(50) == 777


def test_nobody_is_nobody(tmp_path: Path):
    table = ProcessTable(tmp_path)
    assert table.identity(1) is None
    assert table.start_ticks(1) is None
    assert table.command(1) == ""
    assert table.variable(1, "A") is None
    assert table.uid_gid(1) is None
    assert ProcessTable(tmp_path / "none").pids() == []


def test_the_environment_of_the_start(tmp_path: Path):
    table = fake(tmp_path, 50)
    assert table.variable(50, "CGPU_REGION") == "/run/x"
    assert table.variable(50, "REGION") is None
    assert table.values_of("CGPU_REGION") == {"/run/x"}
    assert table.values_of("CGPU_REGION", besides=(50,)) == set()
    assert table.values_of("REGION") == set()


def test_an_unreadable_namespace_agrees_with_any():
    known = Identity(7, 777, 4026531836)
    assert known.is_same(Identity(7, 777, 0))
    assert not known.is_same(Identity(7, 777, 1))
    assert not known.is_same(Identity(7, 778, 0))


def test_the_watch_tells_who_has_ended():
    watch = ProcessWatch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch.watch_only({process.pid})
        assert watch.wait(0.0) == set()
        assert process.stdin is not None
        process.stdin.close()
        assert watch.wait(10.0) == {process.pid}
    assert not watch.watch(process.pid)
    watch.close()


def test_the_watch_tells_once_who_had_ended_before_it_could_be_watched():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    watch = ProcessWatch()
    watch.watch_only({process.pid})
    assert watch.wait(10.0) == {process.pid}
    watch.watch_only({process.pid})
    assert watch.wait(0.0) == set()
    watch.close()


def test_who_is_watched_is_read_once_and_again_after_its_end(tmp_path: Path):
    watch = ProcessWatch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pid = process.pid
        fake(tmp_path, pid)
        table, stat = ProcessTable(tmp_path, watch), tmp_path / str(pid) / "stat"
        known = Identity(7, 777, (tmp_path / str(pid) / "ns" / "pid").stat().st_ino)
        assert table.identities([pid]) == {pid: known}
        stat.rename(stat.with_name("hidden"))
        assert table.identities([pid]) == {pid: None}  # not watched: asked each time
        stat.with_name("hidden").rename(stat)
        watch.watch_only({pid})
        assert table.identities({pid}) == {pid: known}
        stat.unlink()
        assert table.identities({pid}) == {pid: known}
        watch.watch_only(set())
        watch.watch_only({pid})
        assert table.identities({pid}) == {pid: None}  # whom another watch has watched may be another process
        stat.write_text(STAT.format(state="S", threads=1, ticks=777))
        assert table.identities({pid}) == {pid: known}
        stat.unlink()
        assert watch.living().keys() == {pid}
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        assert watch.living() == {}  # also before the end was told
        assert table.identities({pid}) == {pid: None}
        assert watch.wait(10.0) == {pid}
    watch.close()


def test_a_wake_ends_the_wait():
    watch = ProcessWatch()
    thread = threading.Thread(target=watch.wake)
    thread.start()
    assert watch.wait(10.0) == set()
    thread.join()
    watch.close()

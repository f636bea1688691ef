"""Each constructed node yields its facts; each probe fails alone, says why, and never leaves the root."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cgpu.doctor.facts import ABSENT, KINDS, Facts
from cgpu.doctor.probes import PROBE_FILES, collected, probe_node
from cgpu.doctor.probes.probe import PROBES
from cgpu.doctor.probes.tree import Tree, UnknownError
from cgpu.errors import UsageError
from tests.unit.doctor import trees
from tests.unit.doctor.trees import A10_OLD, CONTAINER_OS, NO_GPU, T4_PANIC, UBUNTU, build, put


def known(facts: Facts) -> dict[str, object]:
    return {name: fact.value for name, fact in facts.given.items() if fact.known}


@pytest.mark.parametrize("name", trees.names())
def test_a_constructed_node_yields_its_facts_and_no_others(name: str, tmp_path: Path):
    assert known(probe_node(build(name, tmp_path))) == trees.expected(name)


@pytest.mark.parametrize("name", trees.names())
def test_every_fact_says_how_it_is_known_or_why_it_is_not(name: str, tmp_path: Path):
    for fact in probe_node(build(name, tmp_path)).given.values():
        assert fact.how.isprintable()
        assert fact.how.startswith(("/", "`")) or not fact.known
        assert fact.how


def test_every_fact_that_a_node_can_tell_has_a_probe():
    told_elsewhere = {"instance", "installer", "labels", "pods_per_gpu", "daemonsets"}
    assert set(PROBES) == set(KINDS) - told_elsewhere


@pytest.mark.parametrize("name", trees.names())
def test_a_copy_of_the_probed_files_alone_gives_the_same_facts(name: str, tmp_path: Path):
    root = build(name, tmp_path)
    put(root, "etc/shadow", "root:secret")
    put(root, "home/somebody/notes", "n")
    copy = tmp_path / "copy"
    for file in collected(Tree(root)):
        if file.path.endswith("/"):
            (copy / file.path).mkdir(parents=True)
        else:
            put(copy, file.path, file.data)
    assert not (copy / "etc/shadow").exists()
    assert not (copy / "home").exists()
    assert probe_node(copy) == probe_node(root)


def test_the_agents_socket_is_carried_as_an_empty_file(tmp_path: Path):
    root = build(NO_GPU, tmp_path)
    folder = root / "run/cgpu"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "agent.sock"))
    assert "run/cgpu/agent.sock" in [file.path for file in collected(Tree(root)) if file.data == b""]
    assert probe_node(root).value("agent") is True


def test_an_empty_tree_tells_nothing(tmp_path: Path):
    assert known(probe_node(tmp_path)) == {}


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(UsageError, match="no such folder"):
        probe_node(tmp_path / "none")


def as_folder(path: Path) -> None:
    path.mkdir()


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def as_nothing_at_all(path: Path) -> None:
    path.write_bytes(b"")


def as_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def as_loop(path: Path) -> None:
    path.symlink_to(path.name)


def as_way_out(path: Path) -> None:
    path.symlink_to("../" * 40 + "etc/hostname")


def as_nothing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "spoil", [as_folder, as_pipe, as_garbage, as_nothing_at_all, as_huge, as_loop, as_way_out, as_nothing]
)
def test_a_spoilt_file_costs_only_the_facts_that_it_tells(spoil: Callable[[Path], None], tmp_path: Path):
    pristine = build(T4_PANIC, tmp_path)
    before = probe_node(pristine)
    for path in [path for path in sorted(pristine.rglob("*")) if path.is_file()]:
        name = f"/{path.relative_to(pristine)}"
        data = path.read_bytes()
        path.unlink()
        spoil(path)
        after = probe_node(pristine)
        for fact in before.given:
            touched = any(name in facts[fact].how for facts in (before, after))
            touched |= fact == "gpus" and ("/nvidia/gpus/" in name or "/pci/devices/" in name)
            assert after[fact] == before[fact] or touched, (fact, name, before[fact], after[fact])
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(data)
    assert probe_node(pristine) == before


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (as_folder, "not a regular file"),
        (as_pipe, "not a regular file"),
        (as_garbage, "not a text"),
        (as_huge, "larger than 4096 bytes"),
        (as_loop, "too many links"),
        (as_nothing, "no such file"),
    ],
)
def test_the_reason_is_named(spoil: Callable[[Path], None], reason: str, tmp_path: Path):
    root = build(T4_PANIC, tmp_path)
    (root / "proc/sys/kernel/osrelease").unlink()
    spoil(root / "proc/sys/kernel/osrelease")
    assert probe_node(root)["kernel"].how == f"/proc/sys/kernel/osrelease: {reason}"


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Files as a user sees them who is not root."""
    uid = os.geteuid()
    os.seteuid(65534 if uid == 0 else uid)
    try:
        yield
    finally:
        os.seteuid(uid)


def test_a_file_that_may_not_be_read_is_named_and_costs_no_other_fact():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = build(T4_PANIC, Path(folder))
        before = probe_node(root)
        (root / "proc/cgpu_km").chmod(0)
        (root / "var/lib/kubelet/cpu_manager_state").chmod(0)
        (root / "var/lib/kubelet/config.yaml").unlink()
        with as_ordinary_user():
            after = probe_node(root)
        (root / "proc/cgpu_km").chmod(0o755)
    assert after["cgpu"].how.startswith("/proc/cgpu_km/version: permission denied")
    assert after["cpu_manager"].how.startswith("/var/lib/kubelet/cpu_manager_state: permission denied; ")
    assert {name for name in before.given if after[name] != before[name]} == {"cgpu", "cpu_manager"}


def test_a_version_that_is_none_is_shown_in_short(tmp_path: Path):
    root = build(T4_PANIC, tmp_path)
    put(root, "proc/cgpu_km/version", "one\x1b[31m" + "x" * 500)
    how = probe_node(root)["cgpu"].how
    assert how.startswith("/proc/cgpu_km/version: not a version: 'one\\x1b[31mxxx")
    assert len(how) < 250


def test_links_stay_inside_the_root(tmp_path: Path):
    root = build(NO_GPU, tmp_path)
    put(tmp_path, "secret", "6.6.6\n")
    kernel = root / "proc/sys/kernel/osrelease"
    kernel.unlink()
    for target in (str(tmp_path / "secret"), "../../../../secret", "/../../secret"):
        kernel.symlink_to(target)
        assert probe_node(root)["kernel"].how == "/proc/sys/kernel/osrelease: no such file"
        kernel.unlink()
    kernel.symlink_to("../../../../../../secret")
    put(root, "secret", "5.10.1")
    assert probe_node(root).value("kernel") == "5.10.1"


def test_a_folder_that_is_a_link_is_followed_inside_the_root(tmp_path: Path):
    root = build(NO_GPU, tmp_path)
    outside = put(tmp_path, "outside/nvidia/version", "1.2.3").parents[1]
    (root / "proc/driver").symlink_to(outside)
    assert "no such file" in probe_node(root)["driver"].how or probe_node(root).value("driver") == ABSENT
    put(
        root,
        str(outside).lstrip("/") + "/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  x",
    )
    assert probe_node(root).value("driver") == "470.82.01"


def test_a_folder_with_too_many_names_is_not_listed(tmp_path: Path):
    for number in range(5000):
        (tmp_path / str(number)).touch()
    with pytest.raises(UnknownError, match="more than 4096"):
        Tree(tmp_path).names(".")


def test_names_that_move_a_cursor_are_not_shown(tmp_path: Path):
    put(tmp_path, "lib/\x1b[2J/libc.so.6", "no version")
    (tmp_path / os.fsdecode(b"lib/\xff")).mkdir()
    put(tmp_path, os.fsdecode(b"lib/\xff/libc.so.6"), "no version")
    how = probe_node(tmp_path)["glibc"].how
    assert how.isprintable()
    assert "lib/?[2J/libc.so.6: it does not tell its version" in how


def test_nothing_is_written_into_the_tree(tmp_path: Path):
    root = build(CONTAINER_OS, tmp_path)

    def state() -> list[tuple[str, int, int]]:
        return [(str(path), path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(root.rglob("*"))]

    before = state()
    probe_node(root)
    assert state() == before


def test_the_lists_entries_are_below_the_root():
    assert not any(entry.startswith("/") or ".." in entry.split("/") for entry in PROBE_FILES)
    assert len(set(PROBE_FILES)) == len(PROBE_FILES)


def test_modules_without_a_version_are_not_known_to_be_absent(tmp_path: Path):
    root = build(A10_OLD, tmp_path)
    shutil.rmtree(root / "proc/cgpu_km")
    shutil.rmtree(root / "proc/driver")
    (root / "sys/module/nvidia/version").unlink()
    facts = probe_node(root)
    assert facts["cgpu"].how.endswith("cgpu_procfs, km is loaded")
    assert facts["driver"].how.endswith("nvidia is loaded")


def test_without_a_list_of_modules_absence_is_told_only_where_there_is_no_card(tmp_path: Path):
    plain, ubuntu = build(NO_GPU, tmp_path), build(UBUNTU, tmp_path)
    for root in (plain, ubuntu):
        (root / "proc/modules").unlink()
    assert probe_node(plain).value("cgpu") == probe_node(plain).value("driver") == ABSENT
    assert probe_node(ubuntu)["cgpu"].value is None


def test_a_card_without_a_driver_counts(tmp_path: Path):
    root = build(UBUNTU, tmp_path)
    shutil.rmtree(root / "proc/driver")
    shutil.rmtree(root / "sys/module")
    put(root, "proc/modules", "virtio_net 61440 0 - Live 0x0\n")
    facts = probe_node(root)
    assert (facts.value("gpus"), facts.value("driver")) == (1, ABSENT)


def test_the_first_copy_of_the_c_library_is_collected_once(tmp_path: Path):
    root = build(UBUNTU, tmp_path)
    copies = [file.path for file in collected(Tree(root)) if file.path.endswith("libc.so.6")]
    assert copies == ["usr/lib/x86_64-linux-gnu/libc.so.6"]
    assert stat.S_ISLNK((root / "lib").lstat().st_mode)

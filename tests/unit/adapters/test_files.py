"""The checkpoint's file, the cgroup tree, named copies of libraries, and where settings put things."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cgpu.adapters.cgroup import CgroupTree, is_within
from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.adapters.native import content_named_copy, native_library
from cgpu.errors import StateError
from cgpu.settings import Settings


def test_a_checkpoint_survives(tmp_path: Path):
    store = CheckpointStore(tmp_path / "c.json")
    assert store.load() is None
    store.save({"a": [1, "é"]})
    assert store.load() == {"a": [1, "é"], "version": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_the_old_one_stays(tmp_path: Path):
    store = CheckpointStore(tmp_path / "c.json")
    store.save({"a": 1})
    (tmp_path / "c.json.new").mkdir()
    with pytest.raises(StateError, match="directory"):
        store.save({"a": 2})
    assert store.load() == {"a": 1, "version": 1}


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("0::/user.slice/a.scope\n", "/user.slice/a.scope"),
        ("4:memory:/docker/x\n3:cpuset:/\n0::/\n", "/docker/x"),
        ("0::/\n", "/"),
        ("", ""),
    ],
)
def test_the_cgroup_of_a_process(tmp_path: Path, lines: str, path: str):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "cgroup").write_text(lines)
    assert CgroupTree((tmp_path,)).of(5, tmp_path) == path


def test_a_process_that_is_gone_has_no_cgroup(tmp_path: Path):
    assert CgroupTree((tmp_path,)).of(5, tmp_path) == ""
    assert CgroupTree((tmp_path,)).unified_of(5, tmp_path) is None


@pytest.mark.parametrize(
    ("cgroup", "ancestor", "within"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/a", "", False),
        ("/a", "/", False),
        ("/", "/", False),
    ],
)
def test_within(cgroup: str, ancestor: str, *, within: bool):
    assert is_within(cgroup, ancestor) is within


def test_without_cgroup_v2_there_are_no_leaves(tmp_path: Path):
    tree = CgroupTree((tmp_path / "none",))
    assert tree.plan_leaf("t", os.getpid()) == ""
    assert not tree.enter_leaf("/t", os.getpid())
    assert not tree.populated("/t")
    assert tree.remove_leaf("/t")


def test_a_library_is_copied_under_its_contents_name_once(tmp_path: Path):
    library = tmp_path / "libx.so"
    library.write_bytes(b"one")
    first = content_named_copy(library, tmp_path / "lib")
    assert first.parent == tmp_path / "lib"
    assert first.read_bytes() == b"one"
    inode = first.stat().st_ino
    assert content_named_copy(library, tmp_path / "lib").stat().st_ino == inode
    library.write_bytes(b"another")
    assert content_named_copy(library, tmp_path / "lib") != first
    assert first.read_bytes() == b"one"


def test_a_library_stays_where_it_is_when_it_cannot_be_copied(tmp_path: Path):
    library = tmp_path / "libx.so"
    library.write_bytes(b"one")
    assert content_named_copy(library, library / "below") == library


def test_a_library_that_is_not_installed_is_an_error_with_a_way_out():
    with pytest.raises(StateError, match="install"):
        native_library("libnone.so")


def test_where_things_are():
    root = Settings.from_environment({}, uid=0)
    assert root.agent_socket == Path("/run/cgpu/agent.sock")
    user = Settings.from_environment({"XDG_RUNTIME_DIR": "/run/user/7"}, uid=7)
    assert user.checkpoint == Path("/run/user/7/cgpu/checkpoint.json")
    assert Settings.from_environment({}, uid=7).runtime_dir.name == "cgpu-7"
    chosen = Settings.from_environment({"CGPU_AGENT_SOCKET": "/a.sock", "CGPU_RUNTIME_DIR": "/b"}, uid=0)
    assert (chosen.agent_socket, chosen.tenants_dir) == (Path("/a.sock"), Path("/b/tenants"))


def test_the_region_that_is_mounted_goes_before_the_named_one(tmp_path: Path):
    def region(mounted: Path, **environment: str) -> Path | None:
        return Settings.from_environment(environment, uid=0, mounted_region=mounted).region

    assert region(tmp_path) == tmp_path
    assert region(tmp_path, CGPU_REGION="/r") == tmp_path
    assert region(tmp_path / "none", CGPU_REGION="/r") == Path("/r")
    assert region(tmp_path / "none") is None


def test_each_simulated_machine_has_an_agent_of_its_own():
    first = Settings.from_environment({"CGPU_SIM_STATE": "/m/a"}, uid=0)
    second = Settings.from_environment({"CGPU_SIM_STATE": "/m/b"}, uid=0)
    assert first.runtime_dir != second.runtime_dir
    assert first.runtime_dir.parent == Path("/run/cgpu")

"""What the files say, what a write changes, and which error a system call answers."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cgpu import __version__
from cgpu.adapters.fuse_mount import _mounts
from cgpu.adapters.tree import Change, File, Folder, Line, Node, entry, errno_of, needs_gpus, needs_tenants, numbered
from cgpu.errors import (
    AgentError,
    CapacityError,
    CgpuError,
    ForbiddenError,
    NoSuchGpuError,
    NoSuchTenantError,
    RegionError,
    UsageError,
)
from tests.unit.adapters.tree_documents import GPU, gpu, process, tenant


def text(path: str, node: Node) -> str:
    found = entry(path, node)
    assert isinstance(found, File)
    return found.text


def names(path: str, node: Node) -> tuple[str, ...]:
    found = entry(path, node)
    assert isinstance(found, Folder)
    return found.names


def test_the_root_has_the_version_and_a_folder_per_gpu():
    node = Node([gpu(0), gpu(1)])
    assert names("/", node) == ("version", "default_memsize", "0", "1")
    assert text("/version", node) == f"{__version__}\n"
    assert entry("/default_memsize", node) == File("0\n", None)


@pytest.mark.parametrize("path", ["/inst_ctl", "/major", "/2", "/0/nope", "/0/a/nope", "/0/policy/x", "/0/a/id/x"])
def test_what_is_not_there(path: str):
    assert entry(path, Node([gpu()], [tenant("a")], {(GPU, "a"): 0})) is None


def test_a_gpus_files_say_what_the_agent_says_and_writes_change_it():
    node = Node([gpu(policy=2, max_inst=16, prio_ratio=60)], [tenant("a", weight=3), tenant("b", weight=4)])
    assert text("/0/policy", node) == "2\n"
    assert text("/0/max_inst", node) == "16\n"
    assert text("/0/prio_ratio", node) == "60\n"
    assert entry("/0/free_weight", node) == File("9\n", None)
    assert entry("/0/policy", node) == File("2\n", Change("", GPU, "policy"))


def test_free_weight_is_never_below_zero():
    assert text("/0/free_weight", Node([gpu(max_inst=4)], [tenant("a", weight=100)])) == "0\n"


def test_a_containers_files():
    row = tenant("oci-a", "a", memory_bytes=1000, used_bytes=300, weight=5, priority=1)
    node = Node([gpu()], [row], {(GPU, "oci-a"): 7})
    assert names("/0", node)[-1] == "a"
    assert names("/0/a", node) == ("id", "memsize", "meminfo", "weight", "highprio")
    assert [text(f"/0/a/{name}", node) for name in ("id", "memsize", "weight", "highprio")] == [
        "7\n",
        "1000\n",
        "5\n",
        "1\n",
    ]
    assert entry("/0/a/memsize", node) == File("1000\n", Change("oci-a", GPU, "memory_bytes"))
    assert entry("/0/a/highprio", node) == File("1\n", Change("oci-a", GPU, "priority"))


def test_meminfo_lists_the_processes_by_the_hosts_pid_where_it_is_known():
    row = tenant("a", memory_bytes=1000, used_bytes=300, processes=[process(1, 19772, 100), process(2, None, 200)])
    assert text("/0/a/meminfo", Node([gpu()], [row])) == "Free: 700\nPID: 19772 Mem: 100\nPID: 2 Mem: 200\n"


def test_nothing_is_free_for_a_tenant_above_its_quota():
    assert text("/0/a/meminfo", Node([gpu()], [tenant("a", memory_bytes=10, used_bytes=30)])) == "Free: 0\n"


def test_a_tenant_is_in_the_folders_of_its_own_gpus():
    node = Node([gpu(0), gpu(1)], [tenant("both", gpus=("GPU-0", "GPU-1")), tenant("one", gpus=("GPU-1",))])
    assert names("/0", node)[4:] == ("both",)
    assert names("/1", node)[4:] == ("both", "one")


@pytest.mark.parametrize(
    ("rows", "folders"),
    [
        ([tenant("policy")], ("policy~",)),
        ([tenant("oci-policy", "policy")], ("oci-policy",)),
        ([tenant("a"), tenant("oci-a", "a")], ("a", "oci-a")),
        ([tenant("cdi-x", "cdi"), tenant("cdi-y", "cdi")], ("cdi-x", "cdi-y")),
        ([tenant("oci-x", "x" * 256)], ("oci-x",)),
    ],
)
def test_no_two_folders_have_one_name(rows: list[dict[str, object]], folders: tuple[str, ...]):
    assert names("/0", Node([gpu()], rows))[4:] == folders


def test_numbers_stay_while_a_tenant_lives_and_are_used_again():
    first = numbered({}, [tenant("a"), tenant("b"), tenant("c", gpus=("GPU-1",))])
    assert first == {("GPU-0", "a"): 0, ("GPU-0", "b"): 1, ("GPU-1", "c"): 0}
    assert numbered(first, [tenant("d"), tenant("b")]) == {("GPU-0", "b"): 1, ("GPU-0", "d"): 0}


@pytest.mark.parametrize(
    ("written", "body"),
    [("3", {"policy": 3}), (" 03 ", {"policy": 3}), ("abc", {"policy": "abc"}), ("-1", {"policy": "-1"})],
)
def test_what_is_no_number_goes_to_the_agent_as_it_is(written: str, body: dict[str, object]):
    assert Change("", GPU, "policy").body(written) == body


def test_a_tenants_value_is_changed_on_that_gpu_only():
    assert Change("a", GPU, "weight").body("2") == {"gpu": GPU, "weight": 2}


@pytest.mark.parametrize(
    ("pieces", "values"),
    [
        ([b"2\n"], ["2"]),
        ([b"2"], ["2"]),
        ([b"2", b"\n"], ["2", None]),
        ([b"1", b"0", b"\n"], ["1", "10", None]),
        ([b"2\n", b"3\n"], ["2", "3"]),
        ([b"\n"], [""]),
        ([b" ", b"4"], [None, "4"]),
    ],
)
def test_a_write_is_a_value_and_goes_on_with_an_open_line(pieces: list[bytes], values: list[str | None]):
    line, offset, got = Line(), 0, []
    for piece in pieces:
        got.append(line.written(piece, offset))
        offset += len(piece)
    assert got == values


def test_writing_at_the_beginning_again_is_a_new_value():
    line = Line()
    assert [line.written(b"2", 0), line.written(b"3", 0)] == ["2", "3"]


def test_a_long_write_is_no_value():
    with pytest.raises(OSError, match="Invalid") as caught:
        Line().written(b"1" * 65, 0)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (UsageError("x"), errno.EINVAL),
        (CapacityError("x"), errno.EINVAL),
        (ForbiddenError("x"), errno.EACCES),
        (NoSuchGpuError("x"), errno.ENOENT),
        (NoSuchTenantError("x"), errno.ENOENT),
        (AgentError("x"), errno.EIO),
        (RegionError("x"), errno.EIO),
        (CgpuError("x"), errno.EIO),
    ],
)
def test_errors_become_those_of_system_calls(error: CgpuError, number: int):
    assert errno_of(error) == number


@pytest.mark.parametrize(
    ("path", "gpus", "tenants"),
    [
        ("/version", False, False),
        ("/", True, False),
        ("/0/policy", True, False),
        ("/0/free_weight", True, True),
        ("/0", True, True),
        ("/0/a/id", True, True),
    ],
)
def test_the_agent_is_asked_for_what_a_path_needs(path: str, gpus: bool, tenants: bool):
    assert needs_gpus(path) is gpus
    assert not gpus or needs_tenants(path) is tenants


def test_mount_points_are_read_with_their_spaces():
    row = r"36 35 0:47 / /mnt/my\040tree rw,nosuid shared:1 - fuse.cgpu cgpu rw,user_id=0" + "\n"
    assert list(_mounts(row)) == [("/mnt/my tree", "fuse.cgpu")]


def test_the_document_lists_every_file():
    document = (Path(__file__).parents[3] / "docs" / "tree.md").read_text()
    node = Node([gpu()], [tenant("a")], {(GPU, "a"): 0})
    for folder, prefix in (("/", ""), ("/0", "<gpu>/"), ("/0/a", "<gpu>/<container>/")):
        for name in names(folder, node):
            found = entry(f"{folder.rstrip('/')}/{name}", node)
            if isinstance(found, File):
                assert f"| `{prefix}{name}` | {'rw' if found.change else 'r'} |" in document

"""The tree, really mounted, before a real agent: as scripts for /proc/cgpu_km read and write it."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cgpu import __version__
from cgpu.adapters.agent_client import tenant_path
from cgpu.adapters.fuse_mount import is_mounted
from tests.integration.conftest import CGPU, SECONDS, Node, told

GIB = 1 << 30
CAP_SYS_ADMIN = 1 << 21


def what_is_missing() -> str:
    """What a mount needs and this machine lacks; empty where nothing."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if not (ctypes.util.find_library("fuse3") or ctypes.util.find_library("fuse")):
        return "libfuse is not installed"
    if os.geteuid() != 0:
        return "" if shutil.which("fusermount3") or shutil.which("fusermount") else "fusermount3 is not installed"
    status = Path("/proc/self/status").read_text()
    capabilities = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return "" if int(capabilities, 16) & CAP_SYS_ADMIN else "root may not mount here"


@pytest.fixture(scope="module", autouse=True)
def _mounts() -> None:
    missing = what_is_missing()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"the tree cannot be tested: {missing}")
    if missing:
        pytest.skip(missing)


def add(node: Node, name: str, **share: int) -> None:
    node.client.put(tenant_path(name), {"shares": [{"gpu": "0", "memory_bytes": GIB, **share}]})


def mount(node: Node, *options: str) -> tuple[Path, subprocess.Popen[str]]:
    folder = node.folder / "tree"
    folder.mkdir(exist_ok=True)
    process = node.start("tree", "mount", *options, str(folder))
    assert process.stdout is not None
    assert process.stdout.readline() == f"the tree is mounted on {folder}\n", process.stderr and process.stderr.read()
    return folder, process


def end(folder: Path, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    code = process.wait(SECONDS)
    assert not is_mounted(folder)
    return code


@pytest.fixture
def tree(node: Node) -> Iterator[Path]:
    """The mounted tree of a node whose agent has the tenants a and b."""
    node.start_agent()
    add(node, "a")
    add(node, "b", weight=2)
    folder, process = mount(node)
    yield folder
    if process.poll() is None:
        assert end(folder, process) == 0


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def shell(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], cwd=folder, text=True, capture_output=True, timeout=SECONDS)


def output(folder: Path, script: str) -> str:
    result = shell(folder, script)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(folder: Path, script: str) -> str:
    result = shell(folder, script)
    assert result.returncode != 0
    return result.stderr


def test_it_lists_what_there_is(tree: Path):
    assert listed(tree) == ["0", "default_memsize", "version"]
    assert listed(tree / "0") == ["a", "b", "free_weight", "max_inst", "policy", "prio_ratio"]
    assert listed(tree / "0/a") == ["highprio", "id", "meminfo", "memsize", "weight"]
    said = output(tree, "cat version default_memsize 0/policy 0/max_inst 0/prio_ratio 0/free_weight")
    assert said.split() == [__version__, "0", "2", "20", "80", "17"]
    said = output(tree, "cat 0/a/id 0/b/id 0/a/memsize 0/b/weight 0/a/highprio 0/a/meminfo")
    assert said == f"0\n1\n{GIB}\n2\n0\nFree: {GIB}\n"


def test_modes_tell_what_may_be_written(tree: Path):
    assert output(tree, "stat -c %a 0 0/policy 0/free_weight 0/a/memsize 0/a/id").split() == [
        "555", "644", "444", "644", "444",
    ]  # fmt: skip


def test_reading_in_pieces_of_any_size_gives_the_whole(tree: Path):
    assert output(tree, "dd bs=1 status=none if=0/a/memsize; dd bs=3 status=none if=version") == (
        f"{GIB}\n{__version__}\n"
    )


def test_echo_changes_the_gpu(node: Node, tree: Path):
    output(tree, "echo 3 > 0/policy && echo 16 > 0/max_inst && printf 60 > 0/prio_ratio")
    gpu = node.client.get("/v1/gpus/0")
    assert (gpu["policy"], gpu["max_inst"], gpu["prio_ratio"]) == (3, 16, 60)
    assert output(tree, "cat 0/policy 0/max_inst 0/prio_ratio") == "3\n16\n60\n"


def test_echo_changes_the_tenant_and_no_other(node: Node, tree: Path):
    output(tree, f"echo {2 * GIB} > 0/a/memsize && echo 5 >> 0/a/weight && echo 1 > 0/a/highprio")
    share, other = node.share("a"), node.share("b")
    assert (share["memory_bytes"], share["weight"], share["priority"]) == (2 * GIB, 5, 1)
    assert (other["memory_bytes"], other["weight"], other["priority"]) == (GIB, 2, 0)
    assert output(tree, "cat 0/a/memsize 0/free_weight") == f"{2 * GIB}\n13\n"


def test_one_descriptor_writes_piece_by_piece_and_again(node: Node, tree: Path):
    output(tree, "{ printf 1; printf 2; echo; } > 0/max_inst")
    assert node.client.get("/v1/gpus/0")["max_inst"] == 12
    output(tree, "{ echo 9; echo 8; } > 0/max_inst")
    assert node.client.get("/v1/gpus/0")["max_inst"] == 8


@pytest.mark.parametrize(
    ("text", "path"),
    [("6", "0/policy"), ("weighted", "0/policy"), ("", "0/policy"), ("19", "0/prio_ratio"), ("100", "0/prio_ratio"),
     ("0", "0/max_inst"), ("0", "0/a/weight"), ("1GiB", "0/a/memsize"), (f"{1 << 50}", "0/a/memsize"),
     ("2", "0/a/highprio")],
)  # fmt: skip
def test_a_bad_value_is_an_invalid_argument_and_changes_nothing(tree: Path, text: str, path: str):
    everything = "cat 0/policy 0/max_inst 0/prio_ratio 0/a/weight 0/a/memsize 0/a/highprio"
    before = output(tree, everything)
    refused(tree, f"echo {text} > {path}")
    file = os.open(tree / path, os.O_WRONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(file, f"{text}\n".encode())
    os.close(file)
    assert output(tree, everything) == before


def test_the_agents_log_says_why_a_write_was_refused(node: Node):
    agent = node.start_agent()
    folder, process = mount(node)
    refused(folder, "echo 6 > 0/policy")
    assert end(folder, process) == 0
    agent.terminate()
    _, log = agent.communicate(timeout=SECONDS)
    assert "refused: PATCH /v1/gpus/" in log
    assert "body.policy: not from 0 to 5" in log


@pytest.mark.parametrize("path", ["version", "default_memsize", "0/free_weight", "0/a/id", "0/a/meminfo", "0/new"])
def test_what_is_only_read_is_not_written(tree: Path, path: str):
    with pytest.raises(PermissionError):
        os.close(os.open(tree / path, os.O_WRONLY | os.O_CREAT, 0o644))


def test_what_cgpu_has_beside_it_is_not_there(tree: Path):
    assert not (tree / "inst_ctl").exists()
    assert not (tree / "major").exists()


def test_tenants_come_and_go(node: Node, tree: Path):
    add(node, "c")
    assert (tree / "0/c").is_dir()
    assert "c" in listed(tree / "0")
    node.client.delete(tenant_path("a"))
    assert not (tree / "0/a").exists()
    assert "a" not in listed(tree / "0")
    assert output(tree, "cat 0/b/id 0/c/id") == "1\n2\n"
    add(node, "d")
    assert output(tree, "cat 0/d/id") == "0\n"


def test_an_open_file_of_a_tenant_that_has_gone_is_not_there(node: Node, tree: Path):
    file = os.open(tree / "0/a/memsize", os.O_RDWR)
    node.client.delete(tenant_path("a"))
    for action in (lambda: os.pread(file, 64, 0), lambda: os.pwrite(file, b"1\n", 0)):
        with pytest.raises(FileNotFoundError):
            action()
    os.close(file)


def test_meminfo_has_the_processes_of_the_tenant(node: Node):
    node.start_agent()
    folder, process = mount(node)
    client = node.start_client("spin", "--hold", str(GIB // 2), options=("--name", "busy"))
    told(client)
    name = node.client.get("/v1/tenants")[0]["id"]
    free, row = (folder / "0" / name / "meminfo").read_text().splitlines()
    assert free.startswith("Free: ")
    assert int(free.split()[1]) <= 2 * GIB - GIB // 2
    assert row.split()[::2] == ["PID:", "Mem:"]
    assert int(row.split()[3]) >= GIB // 2
    assert end(folder, process) == 0


def test_without_an_agent_it_is_an_input_output_error_and_all_is_well_when_one_is_back(node: Node):
    agent = node.start_agent()
    add(node, "a")
    folder, process = mount(node)
    agent.kill()
    agent.wait(SECONDS)
    with pytest.raises(OSError, match="Input/output error"):
        (folder / "0/policy").read_text()
    with pytest.raises(OSError, match="Input/output error"):
        listed(folder)
    assert (folder / "version").read_text() == f"{__version__}\n"
    node.start_agent()
    output(folder, "echo 4 > 0/policy")
    assert output(folder, "cat 0/policy 0/a/id") == "4\n0\n"
    assert end(folder, process) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_it(node: Node, number: int):
    node.start_agent()
    folder, process = mount(node)
    assert end(folder, process, number) == 0
    assert listed(folder) == []


def test_unmount_ends_it_and_does_so_after_a_kill_too(node: Node):
    node.start_agent()
    folder, process = mount(node)
    assert node.cgpu("tree", "unmount", str(folder)).returncode == 0
    assert process.wait(SECONDS) == 0
    assert not is_mounted(folder)
    folder, process = mount(node)
    process.kill()
    process.wait(SECONDS)
    assert is_mounted(folder)
    assert node.cgpu("tree", "unmount", str(folder)).returncode == 0
    assert listed(folder) == []


def test_what_cannot_be_mounted_is_said(node: Node, tree: Path):
    again = node.cgpu("tree", "mount", str(tree))
    assert (again.returncode, "already mounted" in again.stderr) == (3, True)
    nowhere = node.cgpu("tree", "mount", str(node.folder / "nowhere"))
    assert (nowhere.returncode, "is not a folder" in nowhere.stderr) == (2, True)
    other = node.cgpu("tree", "unmount", str(node.folder))
    assert (other.returncode, "no tree is mounted" in other.stderr) == (2, True)


def test_without_an_agent_nothing_is_mounted(node: Node):
    result = subprocess.run(
        [*CGPU, "tree", "mount", str(node.folder)],
        env=node.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (result.returncode, "no agent answers" in result.stderr) == (4, True)
    assert not is_mounted(node.folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, and an ordinary one needs fuse.conf")
def test_other_users_may_read_and_not_write_where_that_is_allowed(node: Node):
    node.start_agent()
    add(node, "a")
    node.folder.chmod(0o755)
    folder, process = mount(node, "--allow-other")
    script = "cat 0/policy; echo 3 > 0/policy"
    result = subprocess.run(["sh", "-c", script], cwd=folder, text=True, capture_output=True, user=65534, group=65534)
    assert result.stdout == "1\n"
    assert "ermission denied" in result.stderr
    assert output(folder, "cat 0/policy") == "1\n"
    assert end(folder, process) == 0


def test_eight_threads_read_while_values_change(node: Node, tree: Path):
    wrong: list[str] = []

    def read() -> None:
        for _ in range(25):
            for name, good in (("0/policy", "12345"), ("0/a/id", "0"), ("0/b/id", "1")):
                text = (tree / name).read_text()
                if len(text) != 2 or text[0] not in good or text[1] != "\n":
                    wrong.append(f"{name}: {text!r}")

    def look(action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            wrong.append(str(error))

    threads = [threading.Thread(target=look, args=(read,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for value in (1, 2, 3, 4, 5):
        (tree / "0/policy").write_text(f"{value}\n")
    for thread in threads:
        thread.join()
    assert wrong == []

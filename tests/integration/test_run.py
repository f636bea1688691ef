"""``cgpu run`` on a simulated GPU: the command is a tenant, and otherwise as if it ran by itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cgpu.adapters.cgroup import CgroupTree
from cgpu.model.units import GIB, MIB
from tests.integration.conftest import CGPU, CLIENT, SECONDS, Node, eventually, told

RUN = ("run", "--memory", "1GiB")


def test_an_allocation_over_the_quota_is_refused_with_the_drivers_own_error(node: Node):
    result = node.cgpu("run", "--memory", "2GiB", "--", *CLIENT, "fill", stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr
    ready, refused = map(json.loads, result.stdout.splitlines())
    assert ready["total_bytes"] == 2 * GIB
    assert refused["error"] == "CUDA_ERROR_OUT_OF_MEMORY"
    assert GIB < refused["held_bytes"] < 2 * GIB


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_code_is_the_commands(node: Node, code: int):
    assert node.cgpu(*RUN, "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_death_by_a_signal_is_the_commands(node: Node, number: signal.Signals):
    assert node.cgpu(*RUN, "--", "sh", "-c", f"kill -{int(number)} $$").returncode == -number


def test_a_signal_reaches_the_command(node: Node):
    script = "trap 'echo caught; exit 5' USR1; echo ready; while :; do read line; done"
    process = node.start(*RUN, "--", "bash", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 5
    assert process.stdout.read() == "caught\n"


def test_output_is_the_commands_alone(node: Node):
    result = node.cgpu(*RUN, "--compute", "30", "--", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_the_command_gets_no_descriptor_and_no_ignored_signal_of_ours(node: Node):
    look = ("sh", "-c", "ls /proc/self/fd | wc -l; grep SigIgn /proc/self/status")
    bare = subprocess.run(look, capture_output=True, text=True, check=True)
    assert node.cgpu(*RUN, "--", *look).stdout == bare.stdout


def test_a_command_that_is_not_there_or_cannot_be_executed(node: Node, tmp_path: Path):
    missing = node.cgpu(*RUN, "--", "no-such-command")
    assert (missing.returncode, missing.stderr) == (127, "cgpu: no-such-command: no such command [CGPU-COMMAND]\n")
    plain = tmp_path / "plain"
    plain.write_text("text")
    assert node.cgpu(*RUN, "--", str(plain)).returncode == 126
    eventually(lambda: not node.answers())


def test_the_private_agent_ends_with_its_last_tenant(node: Node):
    first = node.start(*RUN, "--", "cat")
    eventually(node.answers)
    agent = node.agent_pid()
    second = node.start(*RUN, "--", "cat")
    eventually(lambda: len(node.client.get("/v1/tenants")) == 2)
    assert node.agent_pid() == agent
    for process in (first, second):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
    eventually(lambda: not node.answers() and not Path(f"/proc/{agent}").exists())
    assert list((node.settings.tenants_dir).iterdir()) == []


def test_the_private_agent_is_no_child_of_the_command(node: Node):
    result = node.cgpu(*RUN, "--", "sh", "-c", "read children < /proc/$$/task/$$/children; echo children: $children")
    assert result.stdout == "children:\n"


def test_a_tenant_lasts_as_long_as_its_process_tree(node: Node, tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    result = node.cgpu(*RUN, "--name", "tree", "--", "sh", "-c", f"(exec cat {fifo} >/dev/null 2>&1) & exit 3")
    assert result.returncode == 3
    eventually(lambda: node.client.get("/v1/tenants")[0]["name"] == "tree")
    with fifo.open("w"):
        assert len(node.client.get("/v1/tenants")) == 1
    eventually(lambda: not node.answers())


def test_the_whole_quota_of_two_cards(make_node: Callable[..., Node]):
    node = make_node(cards=2)
    result = node.cgpu(
        "run", "--gpu", "0", "--gpu", "1", "--memory", "1GiB", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"
    )
    uuids = [card.uuid for card in node.machine.status().cards]
    assert result.stdout.strip() == ",".join(uuids)
    by_uuid = node.cgpu("run", "--gpu", uuids[1], "--memory", "1GiB", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert by_uuid.stdout.strip() == uuids[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--memory", "6"), 2, "not an amount of memory"),
        (("--memory", "0GiB"), 2, "above zero"),
        (("--memory=-1GiB",), 2, "not an amount of memory"),
        (("--memory", "-1GiB"), 2, "not an amount of memory"),
        (("--memory", "lots"), 2, "not an amount of memory"),
        (("--memory", "1GiB", "--compute", "0"), 2, "not a percentage"),
        (("--memory", "1GiB", "--compute", "101"), 2, "not a percentage"),
        (("--memory", "1GiB", "--weight", "0"), 2, "not a weight"),
        (("--memory", "1GiB", "--gpu", "9"), 3, "there is no GPU '9'"),
        (("--memory", "99GiB"), 3, "15079MiB in all"),
        (("--memory", "1GiB", "--name", "no spaces"), 2, "name"),
        ((), 2, "--memory"),
    ],
)
def test_nonsense_is_refused_with_its_cause_and_a_code(node: Node, arguments: tuple[str, ...], code: int, words: str):
    result = node.cgpu("run", *arguments, "--", "true")
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_no_command_is_refused(node: Node):
    result = node.cgpu(*RUN)
    assert result.returncode == 2
    assert "no command" in result.stderr


def test_a_name_that_is_taken_is_refused(node: Node):
    process = node.start(*RUN, "--name", "same", "--", "sh", "-c", "echo ready; cat")
    assert process.stdout is not None
    process.stdout.readline()
    assert node.cgpu(*RUN, "--name", "same", "--", "true").returncode == 3


def test_the_21st_tenant_is_refused_in_cgpus_words(node: Node):
    agent = node.start_agent()
    for number in range(20):
        node.client.put(f"/v1/tenants/t{number}", {"shares": [{"gpu": "0", "memory_bytes": 100 * MIB}]})
    result = node.cgpu("run", "--memory", "100MiB", "--", "true")
    assert result.returncode == 3
    assert "Error occurs when creating cGPU instance: unknown: GPU GPU-" in result.stderr
    assert "already has 20 tenants (maximum 20)" in result.stderr
    assert agent.poll() is None


def test_a_killed_process_gives_back_its_memory_by_itself(node: Node):
    process = node.start(
        "run",
        "--memory",
        "2GiB",
        "--name",
        "shell",
        "--",
        "sh",
        "-c",
        # A background command of a shell reads /dev/null, at whose end the client would end by itself.
        f"exec 3<&0; {' '.join(CLIENT)} fill <&3 & echo $!; wait; echo over; cat",
    )
    assert process.stdout is not None
    client = int(process.stdout.readline())
    assert told(process)["event"] == "ready"
    assert told(process)["event"] == "refused"
    assert node.share("shell")["used_bytes"] > GIB
    os.kill(client, signal.SIGKILL)
    assert process.stdout.readline() == "over\n"
    # In a second where nothing else runs: bench.crashes measures that.
    eventually(lambda: (share := node.share("shell"))["used_bytes"] == 0 and share["processes"] == [], seconds=10.0)


def test_a_live_resize_reaches_a_running_tenant(node: Node):
    script = (
        "from cgpu.sim.demo_client import *\n"
        "cuda = Cuda()\n"
        "for line in sys.stdin: print(cuda.memory()[1], cuda.allocate(2 << 30), flush=True)"
    )
    process = node.start("run", "--memory", "2GiB", "--name", "grows", "--", sys.executable, "-c", script)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask() -> str:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return process.stdout.readline()  # type: ignore[union-attr]

    assert ask() == f"{2 * GIB} 2\n"
    assert "6144MiB" in node.cgpu("set", "grows", "--memory", "6GiB").stdout
    assert ask() == f"{6 * GIB} 0\n"
    assert node.cgpu("set", "grows", "--memory", "1GiB").returncode == 0
    assert ask() == f"{GIB} 2\n"


def test_inside_a_tenant_smi_shows_its_own_share(node: Node):
    inside = node.cgpu(
        "run", "--memory", "3GiB", "--name", "mine", "--compute", "30", "--", sys.executable, "-m", "cgpu", "smi"
    )
    assert inside.returncode == 0, inside.stderr
    assert "tenant mine" in inside.stdout
    assert "3072MiB" in inside.stdout
    assert "[simulated]" in inside.stdout
    assert "30% (recorded, not enforced)" in inside.stdout


def test_tenants_run_on_without_their_agent_and_the_next_one_takes_them_over(node: Node):
    process = node.start_client("fill", options=("--name", "survivor"))
    told(process)
    told(process)
    used = node.share("survivor")["used_bytes"]
    agent = node.agent_pid()
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: not node.answers())
    assert process.poll() is None
    other = node.start_client("fill", options=("--name", "other"))
    told(other)
    assert node.agent_pid() != agent
    # Not to the byte: what a context takes is known better by now.
    assert node.share("survivor")["used_bytes"] == pytest.approx(used, abs=512 * MIB)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    eventually(lambda: [row["name"] for row in node.client.get("/v1/tenants")] == ["other"])


def test_managed_memory_may_be_refused_altogether(node: Node):
    script = (
        "from cgpu.sim.demo_client import *\n"
        "cuda = Cuda()\n"
        "pointer, size = ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(4096)\n"
        "print(cuda.error_name(cuda.status('cuMemAllocManaged', pointer, size, 1)))"
    )
    refused = node.cgpu("run", "--memory", "2GiB", "--refuse-managed", "--", sys.executable, "-c", script)
    assert refused.stdout == "CUDA_ERROR_NOT_SUPPORTED\n"
    granted = node.cgpu("run", "--memory", "2GiB", "--", sys.executable, "-c", script)
    assert granted.stdout == "CUDA_SUCCESS\n"


def test_two_that_start_at_once_share_one_agent(node: Node):
    processes = [node.start(*RUN, "--", "sh", "-c", "echo ready; cat") for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert len(node.client.get("/v1/tenants")) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a cgroup")
def test_roots_tenants_have_a_cgroup_of_their_own_for_as_long_as_they_last(node: Node):
    process = node.start(*RUN, "--", "sh", "-c", "grep ^0:: /proc/self/cgroup; cat")
    assert process.stdout is not None
    path = process.stdout.readline().strip().removeprefix("0::")
    tree = CgroupTree()
    if tree.root is None or "cgpu-run-" not in path:
        pytest.skip("no cgroup may be made here")
    assert node.client.get("/v1/tenants")[0]["cgroup"] == path
    assert process.stdin is not None
    process.stdin.close()
    leaf = tree.root / path.lstrip("/")
    eventually(lambda: not leaf.exists())


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to be somebody without rights")
def test_an_ordinary_user_without_a_cgroup(node: Node):
    user = ("unshare", "--user", "--")
    command = [*user, *CGPU, "run", "--memory", "2GiB", "--", *CLIENT, "fill"]
    result = subprocess.run(
        command, env=node.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )
    if "unshare" in result.stderr:
        pytest.skip(f"no user namespaces here: {result.stderr}")
    assert result.returncode == 0, result.stderr
    assert "CUDA_ERROR_OUT_OF_MEMORY" in result.stdout
    eventually(lambda: not node.settings.agent_socket.exists())

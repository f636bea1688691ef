"""The agent as a process: one at a time, small, and gone without a trace when told so."""

from __future__ import annotations

import os
import signal
import socket
import stat
from ctypes.util import find_library
from pathlib import Path

import pytest

from cgpu.adapters.agent_client import AgentClient, SilentAgentError
from cgpu.model.units import GIB, MIB
from tests.integration.conftest import Node, eventually, told

_PSS_MAX_BYTES = 60 * MIB
WISH = {"shares": [{"gpu": "0", "memory_bytes": GIB}]}


def test_sigterm_ends_it_and_its_tenants_stay_for_the_next(node: Node):
    agent = node.start_agent()
    node.client.put("/v1/tenants/a", WISH)
    agent.terminate()
    assert agent.wait(20) == 0
    assert not node.settings.agent_socket.exists()
    node.start_agent()
    assert [row["id"] for row in node.client.get("/v1/tenants")] == ["a"]


def test_sigquit_shows_where_its_threads_are_and_it_goes_on(node: Node):
    agent = node.start_agent()
    agent.send_signal(signal.SIGQUIT)
    assert node.client.get("/v1/info")["tenants"] == 0
    agent.terminate()
    said = agent.communicate(timeout=20)[1]
    assert agent.returncode == 0
    assert "agent/main.py" in said
    assert "agent/server.py" in said or "socketserver.py" in said


def test_a_second_agent_in_the_same_folder_is_refused(node: Node):
    node.start_agent()
    second = node.cgpu("agent")
    assert second.returncode == 4
    assert "an agent runs already" in second.stderr


def test_a_second_agent_in_another_folder_does_not_get_the_gpus(node: Node):
    node.start_agent()
    second = node.cgpu("agent", env={**node.environment, "CGPU_RUNTIME_DIR": str(node.folder / "other")})
    assert second.returncode == 4
    assert "managed by another agent" in second.stderr


def test_a_private_agent_does_not_get_the_gpus_of_the_nodes_agent(node: Node):
    node.start_agent()
    environment = {**node.environment, "CGPU_RUNTIME_DIR": str(node.folder / "other")}
    result = node.cgpu("run", "--memory", "1GiB", "--", "true", env=environment)
    assert result.returncode == 4
    assert "managed by another agent" in result.stderr


def test_a_folder_that_others_may_write_is_refused(node: Node):
    node.settings.runtime_dir.mkdir(parents=True)
    node.settings.runtime_dir.chmod(0o777)
    result = node.cgpu("agent")
    assert result.returncode == 6
    assert "only this user may write" in result.stderr


def test_a_damaged_checkpoint_stops_the_agent_and_is_kept(node: Node):
    node.settings.runtime_dir.mkdir(parents=True)
    node.settings.checkpoint.write_text("{")
    result = node.cgpu("agent")
    assert result.returncode == 6
    assert "checkpoint.json.unreadable" in result.stderr
    assert node.start_agent().poll() is None


def test_without_an_agent_the_cause_and_the_way_out_are_said(node: Node):
    result = node.cgpu("ps")
    assert result.returncode == 4
    assert "no agent answers" in result.stderr
    assert "cgpu agent" in result.stderr


def test_an_agent_that_does_not_answer_is_not_waited_for_for_ever(tmp_path_factory: pytest.TempPathFactory, node: Node):
    path = node.folder / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(SilentAgentError, match="does not answer"):
            AgentClient(path, 0.2).get("/v1/info")


def test_the_socket_may_be_asked_by_everybody(node: Node):
    node.start_agent()
    assert stat.S_IMODE(node.settings.agent_socket.stat().st_mode) == 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_stranger_may_look_but_not_change(node: Node):
    node.start_agent()
    for folder in (node.folder, node.folder / "run", node.settings.runtime_dir):
        folder.chmod(0o755)
    path = str(node.settings.agent_socket)  # a stranger may not be able to read this source tree
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            connection.sendall(b"DELETE /v1/tenants/x HTTP/1.0\r\n\r\n")
            code = 0 if b" 403 " in connection.recv(200) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_stale_socket_of_a_killed_agent_is_no_obstacle(node: Node):
    agent = node.start_agent()
    agent.kill()
    agent.wait(20)
    assert node.settings.agent_socket.exists()
    node.start_agent()
    assert node.answers()


def test_it_is_small(node: Node):
    agent = node.start_agent()
    clients = [node.start_client("fill", memory="1GiB") for _ in range(2)]
    for client in clients:
        told(client)
    rollup = Path(f"/proc/{agent.pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss <= _PSS_MAX_BYTES


def test_ctrl_c_ends_it(node: Node):
    agent = node.start_agent()
    agent.send_signal(signal.SIGINT)
    assert agent.wait(20) == 0
    eventually(lambda: not node.answers())


@pytest.mark.skipif(find_library("nvidia-ml") is not None, reason="there is an NVIDIA driver here")
def test_without_a_driver_the_way_out_is_said(node: Node):
    environment = {k: v for k, v in node.environment.items() if k not in ("CGPU_SIM_STATE", "LD_LIBRARY_PATH")}
    result = node.cgpu("run", "--memory", "1GiB", "--", "true", env=environment)
    assert result.returncode == 5
    assert "--sim" in result.stderr

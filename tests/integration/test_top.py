"""``cgpu top`` on a real terminal, with a real agent on the simulated GPU."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cgpu.model.units import GIB
from tests.integration.conftest import CGPU, SECONDS, Node, eventually, told
from tests.integration.terminal import Terminal

TOP = [*CGPU, "top", "--interval", "0.2"]


def put(node: Node, name: str, **amounts: int) -> None:
    node.client.put(f"/v1/tenants/{name}", {"shares": [{"gpu": "0", "memory_bytes": GIB, **amounts}]})


@pytest.fixture
def agent(node: Node) -> subprocess.Popen[str]:
    """The agent of a node with two idle tenants."""
    agent = node.start_agent()
    put(node, "light")
    put(node, "heavy", weight=3)
    return agent


def stop(agent: subprocess.Popen[str]) -> None:
    agent.terminate()
    agent.wait(SECONDS)


@pytest.mark.usefixtures("agent")
def test_it_shows_gpus_and_tenants_as_they_come_and_work(node: Node):
    with Terminal(TOP, node.environment, columns=140) as terminal:
        terminal.wait_for("GPU 0 [simulated]  Tesla T4  policy 2 weighted", "tenants 2/20", "heavy", "light")
        heading = " ".join(terminal.look()[2].split())
        assert heading == "TENANT GPU ASKED GOT MEMORY WAIT WEIGHT COMPUTE LIMIT PRIO POLICY LAYER OOM"
        client = node.start_client("fill", options=("--name", "full"))
        told(client)
        told(client)
        terminal.wait_for("tenants 3/20", "full")
        eventually(lambda: re.search(r" (19|20)\d\d/2048MiB", terminal.look()[3]) is not None)
        full = terminal.look()[3].split()
        assert full[0] == "full"
        assert full[-2] == "shim/slots"
        assert int(full[-1]) >= 1  # refused for the quota
        client.kill()
        terminal.wait_for("tenants 2/20")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        assert terminal.is_restored


@pytest.mark.usefixtures("agent")
def test_it_redraws_for_a_new_size_however_small(node: Node):
    # One look in an hour: what is drawn anew is drawn because of the size.
    with Terminal([*CGPU, "top", "--interval", "3600"], node.environment, columns=140) as terminal:
        terminal.wait_for("light", "POLICY")
        terminal.resize(80, 24)
        terminal.wait_for("OOM", "q quit", "light")
        assert not terminal.shows("WEIGHT")
        terminal.resize(20, 5)
        terminal.wait_for("light")
        lines = terminal.look()
        assert [line.split()[0] for line in lines] == ["cgpu", "GPU", "TENANT", "heavy", "light"]
        terminal.resize(1, 1)
        eventually(lambda: terminal.look() == ["c"])
        terminal.resize(140, 20)
        terminal.wait_for("POLICY", "light")
        terminal.type("q")
        assert terminal.wait_for_end() == 0


@pytest.mark.usefixtures("agent")
def test_its_keys_sort_pause_and_help(node: Node):
    with Terminal(TOP, node.environment) as terminal:
        terminal.wait_for("sort: tenant", "light")
        assert [line.split()[0] for line in terminal.look()[3:5]] == ["heavy", "light"]
        terminal.type("s")
        terminal.wait_for("sort: gpu")
        terminal.type("p")
        terminal.wait_for("PAUSED")
        put(node, "newcomer")
        seen = terminal.raw.count(b"PAUSED")
        eventually(lambda: bool(terminal.look()) and terminal.raw.count(b"PAUSED") > seen + 3)
        assert not terminal.shows("newcomer")
        terminal.type("p")
        terminal.wait_for("newcomer")
        assert not terminal.shows("PAUSED")
        terminal.type("?")
        terminal.wait_for("q  quit")
        assert not terminal.shows("newcomer")
        terminal.type("?")
        terminal.wait_for("newcomer")
        terminal.type("\x1b[A")  # an arrow: nothing
        terminal.type("q")
        assert terminal.wait_for_end() == 0


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_the_terminal_is_restored(node: Node, number: signal.Signals):
    with Terminal(TOP, node.environment) as terminal:
        terminal.wait_for("light")
        terminal.process.send_signal(number)
        assert terminal.wait_for_end() == 0
        assert terminal.is_restored


@pytest.mark.usefixtures("agent")
def test_control_c_ends_it_and_the_terminal_is_restored(node: Node):
    with Terminal(TOP, node.environment) as terminal:
        terminal.wait_for("light")
        terminal.type("\x03")
        assert terminal.wait_for_end() == 0
        assert terminal.is_restored
        assert "Traceback" not in "\n".join(terminal.look())


@pytest.mark.usefixtures("agent")
def test_it_ends_when_its_terminal_goes_and_neither_keys_nor_signals_tell(node: Node):
    ours, programs = os.openpty()
    top = subprocess.Popen(TOP, env=node.environment, stdin=subprocess.DEVNULL, stdout=programs, stderr=subprocess.PIPE)
    os.close(programs)
    assert b"\x1b[?1049h" in os.read(ours, 1 << 16)
    os.close(ours)
    _, errors = top.communicate(timeout=SECONDS)
    assert (top.returncode, errors) == (0, b"")


def test_an_error_of_ours_is_told_on_a_restored_terminal(node: Node):
    script = "import cgpu.cli.main, cgpu.cli.top as top; top.screen = lambda *size: [][0]; cgpu.cli.main.main(['top'])"
    with Terminal([sys.executable, "-c", script], node.environment) as terminal:
        assert terminal.wait_for_end() == 1
        assert terminal.is_restored
        assert terminal.raw.rfind(b"IndexError") > terminal.raw.rfind(b"\x1b[?1049l")


def test_control_z_gives_the_terminal_to_the_shell_and_fg_takes_it_again(node: Node):
    node.start_agent()
    put(node, "light")
    script = f"set -m; {' '.join(TOP)}; stty -a | grep -o ' icanon'; echo STOPPED; read line; fg; echo ENDED"
    with Terminal(["sh", "-c", script], node.environment) as terminal:
        terminal.wait_for("light")
        terminal.type("\x1a")
        eventually(lambda: bool(terminal.look()) and b" icanon\r\nSTOPPED" in terminal.raw)
        assert terminal.is_restored
        terminal.type("\n")
        eventually(
            lambda: bool(terminal.look()) and terminal.raw.count(b"\x1b[?1049h") > 1 and not terminal.is_restored
        )
        put(node, "newcomer")
        terminal.wait_for("newcomer")
        terminal.type("q")
        terminal.wait_for("ENDED")
        assert terminal.is_restored


def test_it_says_that_the_agent_does_not_answer_and_goes_on_trying(node: Node, agent: subprocess.Popen[str]):
    with Terminal(TOP, node.environment) as terminal:
        terminal.wait_for("light")
        stop(agent)
        terminal.wait_for("no answer since", "trying again: no agent answers at", "light")
        node.start_agent()
        eventually(lambda: not terminal.shows("no answer"))
        put(node, "newcomer")
        terminal.wait_for("newcomer", "light")
        terminal.type("q")
        assert terminal.wait_for_end() == 0


def test_it_waits_for_the_first_agent(node: Node):
    with Terminal(TOP, node.environment) as terminal:
        terminal.wait_for("no answer, trying again: no agent answers at", "cgpu agent")
        node.start_agent()
        terminal.wait_for("no tenants", "Tesla T4")
        assert not terminal.shows("no answer")


def test_an_agent_that_hangs_holds_back_neither_keys_nor_sizes(node: Node, agent: subprocess.Popen[str]):
    with Terminal(TOP, node.environment) as terminal:
        terminal.wait_for("light")
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            eventually(lambda: _quiet(terminal))
            terminal.type("s")
            terminal.wait_for("sort: gpu")
            terminal.resize(60, 10)
            terminal.wait_for("light")
            terminal.type("q")
            began = time.monotonic()
            assert terminal.wait_for_end() == 0
            assert time.monotonic() - began < node.settings.agent_answer_seconds / 2
        finally:
            os.kill(agent.pid, signal.SIGCONT)


def _quiet(terminal: Terminal) -> bool:
    """No new picture for two intervals and more."""
    seen = len(terminal.raw)
    time.sleep(0.6)
    terminal.look()
    return len(terminal.raw) == seen


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_without_a_terminal_it_points_to_ps(node: Node, term: str):
    if term == "dumb":
        with Terminal(["env", "TERM=dumb", *TOP], node.environment) as terminal:
            assert terminal.wait_for_end() == 2
            assert terminal.shows("cgpu ps --watch")
        return
    result = node.cgpu("top")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "cgpu ps --watch" in result.stderr


@pytest.mark.parametrize("interval", ["0", "nan", "soon", "-1"])
def test_an_interval_that_is_none_is_refused(node: Node, interval: str):
    for arguments in (("top", "--interval", interval), ("ps", "--watch", interval)):
        result = node.cgpu(*arguments)
        assert result.returncode == 2
        assert "not an interval" in result.stderr

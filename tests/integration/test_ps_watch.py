"""``cgpu ps --watch``: the tenants again and again, for people and as JSON Lines."""

from __future__ import annotations

import fcntl
import json
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime, timedelta
from typing import IO

import pytest

from cgpu.agent.documentation import TENANT
from cgpu.agent.schema import check
from cgpu.model.units import GIB
from tests.integration.conftest import SECONDS, Node, eventually, told


@pytest.fixture(autouse=True)
def _buffered_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is by default; PYTHONUNBUFFERED would flush for us."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def agent(node: Node) -> subprocess.Popen[str]:
    """The agent of a node with a tenant."""
    agent = node.start_agent()
    node.client.put("/v1/tenants/idle", {"shares": [{"gpu": "0", "memory_bytes": GIB}]})
    return agent


@pytest.mark.usefixtures("agent")
def test_each_line_of_json_is_a_document_of_its_own_and_comes_at_once(node: Node):
    began = datetime.now(UTC)
    watch = node.start("ps", "--watch", "0.2", "--json")
    documents = [told(watch) for _ in range(3)]
    node.client.delete("/v1/tenants/idle")
    eventually(lambda: told(watch)["tenants"] == [])
    for document in documents:
        assert list(document) == ["time", "tenants"]
        assert [tenant["name"] for tenant in document["tenants"]] == ["idle"]
        check(document["tenants"][0], TENANT)
    assert all(document["time"].endswith("Z") for document in documents)
    times = [datetime.fromisoformat(document["time"]) for document in documents]
    assert began - timedelta(milliseconds=1) <= times[0] < times[1] < times[2] <= datetime.now(UTC)
    assert times[2] - times[0] >= timedelta(seconds=0.4)


@pytest.mark.usefixtures("agent")
def test_the_table_comes_again_below_the_local_time(node: Node):
    watch = node.start("ps", "--watch", "0.2")
    assert watch.stdout is not None
    lines = [watch.stdout.readline().rstrip() for _ in range(10)]
    plain = node.cgpu("ps").stdout.splitlines()
    for first in (0, 5):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", lines[first])
        assert datetime.fromisoformat(lines[first]).utcoffset() == datetime.now().astimezone().utcoffset()
        assert lines[first + 1].split() == plain[0].split()
        assert lines[first + 2].startswith("idle")
        assert "simulated" in lines[first + 3]
        assert lines[first + 4] == ""


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_signal_is_its_end_and_a_success(node: Node, number: signal.Signals, form: tuple[str, ...]):
    watch = node.start("ps", "--watch", "3600", *form)
    assert watch.stdout is not None
    assert watch.stdout.readline()
    watch.send_signal(number)
    _, errors = watch.communicate(timeout=SECONDS)
    assert (watch.returncode, errors) == (0, "")


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("seconds", ["0.1", "3600"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_it_ends_when_its_reader_has_gone_however_long_the_interval(node: Node, seconds: str, form: tuple[str, ...]):
    watch = node.start("ps", "--watch", seconds, *form)
    assert watch.stdout is not None
    assert watch.stderr is not None
    assert watch.stdout.readline()
    watch.stdout.close()
    assert watch.wait(SECONDS) == 0
    assert watch.stderr.read() == ""


@pytest.mark.usefixtures("agent")
def test_a_signal_ends_it_while_its_reader_does_not_read(node: Node):
    for number in range(4):
        node.client.put(f"/v1/tenants/t{number}", {"shares": [{"gpu": "0", "memory_bytes": GIB}]})
    watch = node.start("ps", "--watch", "0.1", "--json")
    assert watch.stdout is not None
    # Less than one document; what is left of that stays in the interpreter's buffer of 8 KiB.
    fcntl.fcntl(watch.stdout, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    eventually(lambda: _waiting_bytes(watch.stdout) > 0)
    eventually(lambda: _is_still(watch.stdout))
    watch.send_signal(signal.SIGINT)
    assert watch.wait(SECONDS) == 0


def _waiting_bytes(pipe: IO[str] | None) -> int:
    assert pipe is not None
    count = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return int(count[0])


def _is_still(pipe: IO[str] | None) -> bool:
    """Whether nothing has been written for several intervals."""
    before = _waiting_bytes(pipe)
    time.sleep(0.5)
    return _waiting_bytes(pipe) == before


def test_it_goes_on_after_a_restart_of_the_agent_and_says_so_once(node: Node, agent: subprocess.Popen[str]):
    watch = node.start("ps", "--watch", "0.1", "--json")
    assert watch.stderr is not None
    told(watch)
    agent.terminate()
    agent.wait(SECONDS)
    assert re.fullmatch(r"cgpu: no agent answers at \S+; trying again\n", watch.stderr.readline())
    time.sleep(0.5)  # several looks
    node.start_agent()
    restarted = datetime.now(UTC)
    eventually(
        lambda: datetime.fromisoformat((document := told(watch))["time"]) > restarted and document["tenants"] != []
    )
    watch.send_signal(signal.SIGINT)
    _, errors = watch.communicate(timeout=SECONDS)
    assert (watch.returncode, errors) == (0, "")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_without_an_agent_at_the_start_it_is_an_error_as_without_watch(node: Node, form: tuple[str, ...]):
    result = node.cgpu("ps", "--watch", *form)
    assert result.returncode == 4
    assert result.stdout == ""
    assert "no agent answers" in result.stderr


@pytest.mark.usefixtures("agent")
def test_every_second_when_no_number_is_given(node: Node):
    script = f"{sys.executable} -m cgpu ps --json --watch | head -n 2"
    result = subprocess.run(["sh", "-c", script], env=node.environment, capture_output=True, text=True, timeout=SECONDS)
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line in result.stdout.splitlines()]
    assert times[1] - times[0] >= timedelta(seconds=1)
    assert result.stderr == ""

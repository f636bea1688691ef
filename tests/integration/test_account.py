"""The audit of time of a real agent with two busy tenants on a simulated GPU, over its violent end."""

from __future__ import annotations

import csv
import io
import time
from typing import Any

import pytest

from cgpu.agent.documentation import ACCOUNT
from cgpu.agent.schema import check
from tests.integration.conftest import Node, eventually, told

S = 10**9
BUSY = ("spin", "--hold", "1048576", "--kernel-ns", "2000000")


def account(node: Node, *arguments: str) -> dict[str, dict[str, Any]]:
    rows = node.json("account", *arguments)
    for row in rows:
        check(row, ACCOUNT)
    return {row["name"]: row for row in rows}


def got_ns(node: Node) -> dict[str, int]:
    return {name: row["got_ns"] for name, row in account(node).items()}


@pytest.mark.timeout(120)
def test_the_sums_go_on_when_the_agent_is_killed_and_started_again(node: Node):
    agent = node.start_agent()
    clients = {name: node.start_client(*BUSY, options=("--name", name)) for name in ("left", "right")}
    for client in clients.values():
        told(client)
    began = time.time()
    eventually(lambda: min(got_ns(node).values()) > S)
    busy_ns = {name: node.share(name)["busy_ns"] for name in clients}
    before = got_ns(node)
    assert all(before[name] >= busy_ns[name] for name in clients)

    agent.kill()
    agent.wait(20)
    node.start_agent()
    after = got_ns(node)
    assert all(after[name] >= before[name] for name in clients)
    eventually(lambda: all(got_ns(node)[name] > after[name] + S // 2 for name in clients))
    # Nothing was counted twice: one card has no more time than there was.
    assert sum(got_ns(node).values()) < (time.time() - began + 2) * S

    clients["left"].kill()
    eventually(lambda: len(node.client.get("/v1/tenants")) == 1)
    ended = account(node)
    assert ended["left"]["got_ns"] > after["left"]
    assert ended["left"]["simulated"]
    assert list(account(node, "--tenant", "left", "--gpu", "0", "--since", "1h")) == ["left"]
    _forms(node)


def _forms(node: Node) -> None:
    text = node.cgpu("account").stdout
    assert "GOT%" in text
    assert "simulated" in text
    rows = list(csv.DictReader(io.StringIO(node.cgpu("account", "--csv").stdout)))
    assert {row["name"] for row in rows} == {"left", "right"}
    history = node.json("account", "--step", "1m", "--tenant", "left")
    assert sum(row["got_ns"] for row in history) == account(node, "--tenant", "left")["left"]["got_ns"]
    unknown = node.cgpu("account", "--gpu", "9")
    assert (unknown.returncode, "no GPU '9'" in unknown.stderr) == (3, True)


def test_a_private_agent_leaves_its_account(node: Node):
    client = node.start_client(*BUSY, options=("--name", "once"))
    told(client)
    eventually(lambda: got_ns(node)["once"] > S // 5)
    seen = got_ns(node)["once"]
    assert client.stdin is not None
    client.stdin.close()
    eventually(lambda: not node.answers())
    assert got_ns(node)["once"] >= seen
    # The next private agent goes on with it.
    again = node.start_client(*BUSY, options=("--name", "twice"))
    told(again)
    assert set(got_ns(node)) == {"once", "twice"}


def test_under_policy_5_nothing_is_charged(node: Node):
    node.start_agent()
    assert node.cgpu("policy", "5").returncode == 0
    told(node.start_client(*BUSY, options=("--name", "native")))
    time.sleep(1.0)
    row = account(node)["native"]
    assert [row[name] for name in ("got_ns", "waited_ns", "turns", "preempted", "preempting")] == [0] * 5

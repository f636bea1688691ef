"""What the watch over the cards sees of a simulated machine whose cards fail and come back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from cgpu.sim.control import Fault
from tests.integration.conftest import Node

# Says in a line what is wrong with each card, at the start and after every change.
WATCH = """
import json, sys
from pathlib import Path
from cgpu.adapters.nvml import NvmlNode
from cgpu.k8s.health import HealthWatch

node = NvmlNode(Path(sys.argv[1]))
watch = HealthWatch(node, node.gpus(), lambda: told())

def told():
    found = [watch.ailment(gpu.uuid) for gpu in node.gpus()]
    print(json.dumps([one and [one.name, one.lost] for one in found]), flush=True)

watch.start()
print("ready", flush=True)
sys.stdin.read()
watch.stop()
node.close()
"""


@pytest.fixture
def watch(node: Node) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WATCH, str(node.machine.folder)]
    process = subprocess.Popen(
        command, env=node.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def said(watch: subprocess.Popen[str]) -> object:
    assert watch.stdout
    line = watch.stdout.readline()
    return json.loads(line) if line.startswith("[") else line.strip()


def test_what_is_wrong_is_told_at_once_and_that_it_is_over_too(watch: subprocess.Popen[str], node: Node):
    assert said(watch) == "ready"
    node.machine.fault(0, Fault.XID, 13)  # a program's own
    node.machine.fault(0, Fault.XID, 48)
    assert said(watch) == [["xid-48", False]]
    node.machine.fault(0, Fault.LOST, 1)
    assert said(watch) == [["lost", True]]
    node.machine.fault(0, Fault.LOST, 0)  # it is back, after a reset
    assert said(watch) == [None]


def test_an_agent_that_starts_beside_a_lost_card_has_the_others(make_node: Callable[..., Node]):
    node = make_node(cards=2)
    node.machine.fault(0, Fault.LOST, 1)
    result = node.cgpu("run", "--gpu", "1", "--memory", "1GiB", "--", "true")
    assert result.returncode == 0, result.stderr
    result = node.cgpu("run", "--gpu", "0", "--memory", "1GiB", "--", "true")
    assert result.returncode == 3, result.stderr

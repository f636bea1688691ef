"""What benchmarks and tests/gpu take for a real card's truth: NVML's, here of a driver that happens to be simulated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cgpu.sim.machine import SimMachine
from tests.integration.conftest import Node

# As on a real card: the program finds NVML where the loader finds it, and knows of no machine that is simulated.
ASK = """
import json, subprocess, sys
from bench.card_truth import CardTruth
from tests.native.memory_tenant import CLIENT, Client

def on_the_card():
    command = [sys.executable, str(CLIENT), "dlsym"]
    client = Client(subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    client.start_context()
    return client

stranger = on_the_card()
truth = CardTruth(None)
own = on_the_card()
own.alloc(1 << 30)
before = truth.by_pid()
own.kill()
truth.wait_released(own.pid, 10.0)
told = {"own": own.pid, "before": before, "uuid": truth.uuid, "after": truth.total_bytes()}
truth.close()
print(json.dumps(told))
stranger.kill()
"""


def test_nvml_tells_of_all_but_who_was_there_before(make_node: Callable[..., Node], tmp_path: Path):
    machine: SimMachine = make_node().machine
    environment = {**os.environ, **machine.environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    told = json.loads(done.stdout)
    assert told["uuid"] == machine.status().cards[0].uuid
    assert list(told["before"]) == [str(told["own"])]
    assert told["before"][str(told["own"])] > 1 << 30
    assert told["after"] == 0

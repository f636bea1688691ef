"""A runtime that is killed while it creates a container: ours, or runc, into which ours has turned by then."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import time

import pytest

from tests.e2e import image
from tests.e2e.engines import Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node
from tests.e2e.wanted import Wanted

KILLS = 50
LONGER = 1.05
"""The moments are spread over the length of a create, which follows the machine's speed from kill to kill."""
GONE_S = 10.0
"""Within which the agent has noticed: it looks at least every 0.4 s, and the machine may stand still meanwhile."""
# More than half of the card: as long as anything of one is counted, the next is refused.
BIG = Wanted(("sleep", "1000"), {"CGPU_MEMORY": "9GiB"})


@pytest.fixture
def quick(host: Host, runc: Runc) -> Runc:
    """cgpu-runtime over runc, on one root file system for all."""
    return Runc(host, runc.runtime, image.copy(runc.rootfs, host.folder / "shared"), copies=False)


@pytest.mark.timeout(300)
def test_killed_at_any_moment_of_a_create_it_leaves_nothing(node: Node, host: Host, quick: Runc):
    length, seed = create_seconds(quick), random.randrange(2**32)
    chance = random.Random(seed)
    unfinished = 0
    for _ in range(KILLS):
        process, began = quick.create("killed", BIG), time.monotonic()
        try:
            process.wait(chance.uniform(0, length))  # the moment is what is tried
        except subprocess.TimeoutExpired:
            host.signal(process, signal.SIGKILL)
            length *= LONGER
        else:
            length = time.monotonic() - began
        unfinished += process.wait() != 0
        if not quick.is_there("killed"):
            eventually(node.nothing_left, f"nothing is left of a create that failed, seed {seed}", GONE_S)
        assert quick.remove("killed").returncode == 0
        eventually(node.nothing_left, f"nothing is left after a delete, seed {seed}", GONE_S)
        result = quick.start("next", BIG)
        assert result.returncode == 0, f"seed {seed}: {result.stderr}"
        assert quick.remove("next").returncode == 0
    assert unfinished > KILLS / 4


def test_killed_in_the_foreground_it_leaves_a_container_that_goes_on_and_ends(node: Node, host: Host, quick: Runc):
    wanted = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold"), {"CGPU_MEMORY": "1GiB"})
    process = quick.begin_run("foreground", wanted)
    eventually(lambda: quick.is_there("foreground") and node.used_bytes() > 0, "the container has memory of the card")
    first = quick.pid("foreground")
    host.signal(process, signal.SIGKILL)
    process.wait()
    assert len(node.tenants()) == 1
    host.kill(first)
    eventually(node.nothing_left, "nothing is left", GONE_S)
    quick.remove("foreground")


def create_seconds(runc: Runc) -> float:
    """How long a create takes, the median of a few."""
    lengths = []
    for _ in range(5):
        began = time.monotonic()
        assert runc.create("measured", BIG).wait() == 0
        lengths.append(time.monotonic() - began)
        assert runc.remove("measured").returncode == 0
    return statistics.median(lengths)

"""What root in a container can do to its slice and its neighbours: nothing."""

from __future__ import annotations

import time

import pytest

from cgpu.model import container
from cgpu.model.units import GIB
from tests.e2e.engines import Engine
from tests.e2e.host import eventually
from tests.e2e.node import Node, told
from tests.e2e.wanted import Wanted
from tests.integration.attempts import Watch, until_right

# A process that an engine starts later has the variables that the engine knows of, not the runtime's.
SIMULATED = ("env", f"LD_LIBRARY_PATH={container.SIM_LIBRARIES}", f"CGPU_SIM_STATE={container.SIM_STATE}")
ATTEMPTS = (
    "rm -rf /.cgpu/tenant/grants",
    "echo 99 > /.cgpu/tenant/grants",
    "dd if=/dev/zero of=/.cgpu/tenant/grants bs=1 count=64 conv=notrunc",
    "mv /.cgpu /gone",
    "mv /.cgpu/tenant /gone",
    "rm -f /.cgpu/tenant/usage",
    "mkdir /.cgpu/more",
    "rm -f /.cgpu/lib/libcgpu*",
    "cp /bin/busybox /.cgpu/lib/$(ls /.cgpu/lib | head -n 1)",
    "chmod 777 /.cgpu/tenant/grants",
    "rm -f /etc/ld.so.preload",
    "echo > /etc/ld.so.preload",
    "mv /etc/ld.so.preload /etc/other",
    "mv /etc /gone",
    "umount /etc/ld.so.preload",
    "umount /.cgpu/tenant/grants",
    "umount -l /.cgpu",
    "mount -t tmpfs tmpfs /.cgpu",
    "mount --bind /tmp /.cgpu/tenant",
    "rm -f /usr/local/bin/cgpu",
)  # fmt: skip


def test_root_cannot_replace_region_library_or_preload_file(node: Node, engine: Engine):
    tries = "\n".join(f"if ( {attempt} ) 2>/dev/null; then echo 'did: {attempt}'; fi" for attempt in ATTEMPTS)
    script = f"{tries}\nexport CGPU_REGION=/tmp CGPU_MEMORY=9GiB\nunset LD_PRELOAD\nexec /client/quota fill"
    result = engine.run("walls", Wanted(("sh", "-c", script), {"CGPU_MEMORY": "1GiB"}))
    assert "did: " not in result.stdout
    seen = told(result)
    assert seen["total"] == GIB
    assert seen["held"] < GIB


def test_a_full_container_harms_no_neighbour_and_sees_none(node: Node, engine: Engine):
    assert engine.start("first", Wanted(("sleep", "1000"), {"CGPU_MEMORY": "4GiB"})).returncode == 0
    assert engine.start("second", Wanted(("sleep", "1000"), {"CGPU_MEMORY": "1GiB"})).returncode == 0
    try:
        first = told(engine.execute("first", *SIMULATED, "/client/quota", "fill"))
        second = told(engine.execute("second", *SIMULATED, "/client/quota", "fill"))
        assert (first["total"], second["total"]) == (4 * GIB, GIB)
        assert first["held"] > 3 * GIB
        assert second["held"] < GIB
        listed = engine.execute("second", "find", "/.cgpu", "-type", "f").stdout
        others = [row["id"] for row in node.tenants()]
        assert not any(tenant in listed for tenant in others)
        assert engine.execute("second", "ls", "/.cgpu/tenant").stdout.split() == ["grants", "locks", "usage"]
    finally:
        engine.remove("first")
        engine.remove("second")


def both_compute(node: Node) -> bool:
    return [row.busy_ns > 0 for row in node.machine.status().cards[0].processes] == [True, True]


@pytest.mark.timing
def test_two_containers_share_the_card_by_weight(node: Node, engine: Engine):
    """Coarse: the exact figures are the arbiter's tests' and the benchmarks' business."""
    names = {"heavy": "3", "light": "1"}
    script = "(echo 'run plain 2000000 8'; sleep 1000) | /client/load"
    try:
        for name, weight in names.items():
            wanted = Wanted(("sh", "-c", script), {"CGPU_MEMORY": "1GiB", "CGPU_WEIGHT": weight})
            result = engine.start(name, wanted)
            assert result.returncode == 0, result.stderr

        def attempt(_: int, watch: Watch) -> str:
            heavy, light = busy_parts(node, watch, seconds=3.0)
            right = 0.6 < heavy < 0.85 and 0.15 < light < 0.4
            return "" if right else f"{heavy:.0%} and {light:.0%} of the time"

        until_right(attempt)
    finally:
        for name in names:
            engine.remove(name)


def busy_parts(node: Node, watch: Watch, seconds: float) -> tuple[float, float]:
    """The parts of the card's time that its two processes got, the greater first."""
    eventually(lambda: both_compute(node), "both containers compute on the card")
    with watch():
        before = {row.pid: row.busy_ns for row in node.machine.status().cards[0].processes}
        time.sleep(seconds)  # the measurement itself
        after = {row.pid: row.busy_ns for row in node.machine.status().cards[0].processes}
    used = sorted((after[pid] - before[pid] for pid in before), reverse=True)
    return used[0] / sum(used), used[1] / sum(used)

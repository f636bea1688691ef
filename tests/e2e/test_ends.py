"""However a container ends, nothing of it is left: the fixture ``node`` looks after each test."""

from __future__ import annotations

import shutil

from tests.e2e.engines import Docker, Engine, Runc
from tests.e2e.host import eventually
from tests.e2e.node import Node
from tests.e2e.wanted import Wanted

HOLDS = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold"), {"CGPU_MEMORY": "1GiB"})


def started(node: Node, engine: Engine) -> None:
    """A container that has filled its slice and holds it."""
    result = engine.start("ends", HOLDS)
    assert result.returncode == 0, result.stderr
    eventually(node.is_filled, "the container has filled its slice of the card")
    assert len(node.tenants()) == 1


def test_it_exits(node: Node, engine: Engine):
    assert engine.run("ends", Wanted(("/client/quota", "fill"), {"CGPU_MEMORY": "1GiB"})).returncode == 0


def test_its_command_is_not_there(node: Node, engine: Engine):
    assert engine.run("ends", Wanted(("/no/such",), {"CGPU_MEMORY": "1GiB"})).returncode != 0
    engine.remove("ends")


def test_it_is_removed_by_force(node: Node, engine: Engine):
    started(node, engine)
    assert engine.remove("ends").returncode == 0


def test_it_is_killed_by_its_engine(node: Node, engine: Engine):
    started(node, engine)
    assert engine.kill("ends").returncode == 0
    eventually(node.nothing_left, "nothing is left")
    engine.remove("ends")


def test_its_first_process_is_killed(node: Node, engine: Engine):
    started(node, engine)
    node.host.kill(engine.pid("ends"))
    eventually(node.nothing_left, "nothing is left")
    engine.remove("ends")


def test_what_watches_over_it_is_killed_first(node: Node, docker: Docker):
    started(node, docker)
    first = docker.pid("ends")
    node.host.kill(node.host.parent_of(first), first)
    eventually(node.nothing_left, "nothing is left")
    docker.remove("ends")


def test_the_agent_dies_while_it_runs(node: Node, engine: Engine):
    started(node, engine)
    node.kill_agent()
    node.start_agent()
    assert len(node.tenants()) == 1
    assert node.used_bytes() > 0
    engine.remove("ends")


def test_it_ends_while_the_agent_is_dead(node: Node, engine: Engine):
    started(node, engine)
    node.kill_agent()
    engine.remove("ends")
    node.start_agent()


def test_the_agents_checkpoint_is_lost_while_it_is_idle(node: Node, engine: Engine):
    result = engine.start("ends", Wanted(("sleep", "1000"), {"CGPU_MEMORY": "1GiB"}))
    assert result.returncode == 0, result.stderr
    (before,) = node.tenants()
    node.kill_agent()
    node.settings.checkpoint.unlink()
    node.start_agent()
    (after,) = node.tenants()
    assert (after["id"], after["cgroup"], after["lifetime"]) == (before["id"], before["cgroup"], before["lifetime"])
    assert [share["memory_bytes"] for share in after["shares"]] == [1 << 30]
    assert engine.remove("ends").returncode == 0


def test_the_agents_runtime_folder_is_cleared(node: Node, runc: Runc):
    started(node, runc)
    node.kill_agent()
    for path in node.settings.runtime_dir.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    node.start_agent()
    assert node.tenants() == []
    runc.remove("ends")
    result = runc.run("ends", Wanted(("/client/quota",), {"CGPU_MEMORY": "1GiB"}))
    assert result.returncode == 0, result.stderr


def test_the_engine_is_started_again(node: Node, docker: Docker):
    started(node, docker)
    docker.stop_daemon()
    docker.start_daemon()
    assert len(node.tenants()) == 1
    assert docker.execute("ends", "echo", "alive").stdout == "alive\n"
    docker.remove("ends")


def test_the_agent_is_not_there(node: Node, engine: Engine):
    node.kill_agent()
    try:
        result = engine.run("ends", Wanted(("echo", "started"), {"CGPU_MEMORY": "1GiB"}))
        engine.remove("ends")
        plain = engine.run("plain", Wanted(("echo", "started")))
    finally:
        node.start_agent()
    assert result.returncode != 0
    assert "agent" in result.stderr
    assert "started" not in result.stdout
    assert plain.stdout == "started\n"


def test_the_21st_container_of_a_card_is_refused_in_cgpus_words(node: Node, runc: Runc, docker: Docker):
    names = [f"many-{number}" for number in range(20)]
    try:
        for name in names:
            result = runc.start(name, Wanted(("sleep", "1000"), {"CGPU_MEMORY": "100MiB"}))
            assert result.returncode == 0, result.stderr
        refused = docker.run("one-more", Wanted(("echo", "started"), {"CGPU_MEMORY": "100MiB"}))
    finally:
        docker.remove("one-more")
        for name in names:
            runc.remove(name)
    assert refused.returncode != 0
    uuid = node.machine.status().cards[0].uuid
    words = f"Error occurs when creating cGPU instance: unknown: GPU {uuid} already has 20 tenants (maximum 20)"
    assert words in refused.stderr

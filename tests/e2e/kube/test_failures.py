"""What is killed comes back, and no share is lost or given twice meanwhile."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.host import eventually
from tests.e2e.kube.installation import AGENT_NAMESPACE, VALUES, Installation, pod, template
from tests.e2e.kube.worker import Worker

COMPUTE = ("sh", "-c", "(echo run plain 1000000 1; sleep 3600) | /client/load")
SLEEP = ("sleep", "3600")
NODE = "node-b"


def worker(installation: Installation) -> Worker:
    return next(one for one in installation.cluster.workers if one.name == NODE)


def busy_ns(installation: Installation) -> dict[str, int]:
    """What the tenants of the node have had of its cards, by name."""
    return {row["name"]: sum(share["busy_ns"] for share in row["shares"]) for row in installation.tenants(NODE)}


def containers(installation: Installation) -> dict[str, tuple[str, int]]:
    """Which container each pod runs, and how often it was started again."""
    found = {}
    for item in installation.get("pods", "default"):
        (status,) = item["status"]["containerStatuses"]
        found[item["metadata"]["name"]] = (status["containerID"], status["restartCount"])
    return found


def agent_pid(installation: Installation) -> int:
    """The agent's pid on the node."""
    pid: int = json.loads(installation.cgpu(NODE, "info", "--json"))["agent"]["pid"]
    return pid


@contextmanager
def two_that_compute(installation: Installation) -> Iterator[None]:
    """Two pods that compute on the node, before, meanwhile and afterwards; then one more is let in."""
    installation.apply(template("part", "4Gi", "40"))
    installation.apply(*(pod(f"part-{number}", "part", *COMPUTE, node=NODE) for number in range(2)))
    for number in range(2):
        installation.wait_for(f"part-{number}", "Running")
    eventually(lambda: len(work := busy_ns(installation)) == 2 and all(work.values()), "both compute")
    before, ran = busy_ns(installation), containers(installation)
    yield
    eventually(lambda: answers(installation), "the agent answers again")
    assert containers(installation) == ran
    assert busy_ns(installation).keys() == before.keys()
    eventually(
        lambda: all(now > before[name] for name, now in busy_ns(installation).items()), "both compute and are charged"
    )
    eventually(lambda: len(installation.devices(NODE)) == 2, "the cards are offered")
    installation.apply(pod("another", "part", *SLEEP, node=NODE))
    installation.wait_for("another", "Running")
    assert len(installation.tenants(NODE)) == 3


def answers(installation: Installation) -> bool:
    """Whether the agent of the node does, whatever has happened to its pod."""
    try:
        return agent_pid(installation) > 0
    except (AssertionError, StopIteration, TypeError):
        return False


def kill_agent(installation: Installation) -> None:
    pid = agent_pid(installation)
    worker(installation).host.kill(pid)
    eventually(lambda: answers(installation) and agent_pid(installation) != pid, "there is another agent")


def kill_kubelet(installation: Installation) -> None:
    """When it starts it deletes the node's slices, and the agent writes them again."""

    def slices() -> set[str]:
        rows = installation.get("resourceslices")
        return {row["metadata"]["uid"] for row in rows if row["spec"]["nodeName"] == NODE}

    before = slices()
    worker(installation).kill("kubelet")
    worker(installation).start("kubelet")
    eventually(lambda: (now := slices()) and not now & before, "there are other slices")


def kill_containerd(installation: Installation) -> None:
    worker(installation).kill("containerd")
    worker(installation).start("containerd")


def kill_api_server(installation: Installation) -> None:
    installation.cluster.control_plane.kill("kube-apiserver")
    installation.cluster.control_plane.start("kube-apiserver")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kill", [kill_agent, kill_kubelet, kill_containerd, kill_api_server])
def test_pods_compute_on_and_others_get_in(installation: Installation, kill: Callable[[Installation], None]):
    with two_that_compute(installation):
        kill(installation)


@pytest.mark.timeout(900)
def test_pods_compute_through_an_upgrade_of_the_chart(installation: Installation):
    with two_that_compute(installation):
        pid = agent_pid(installation)
        changed: dict[str, Any] = copy.deepcopy(dict(VALUES))
        changed["agent"] = {"podAnnotations": {"example.com/release": "2"}}
        installation.install(changed)
        installation.roll_out("daemonset/cgpu-agent", AGENT_NAMESPACE)
        assert agent_pid(installation) != pid
    installation.install()
    installation.roll_out("daemonset/cgpu-agent", AGENT_NAMESPACE)

"""Pods that wait for a share are told why, and `kubectl inspect cgpu` shows what the agents have: on a real cluster."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import cgpu
from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.host import Process, eventually
from tests.e2e.kube.cluster import Cluster
from tests.e2e.kube.gpu_node import GpuNode
from tests.e2e.kube.worker import PAUSE
from tests.e2e.tools import SEARCHED

Json = dict[str, Any]
GIB: Final = 1 << 30
EVENTS_S: Final = 60.0
TAKEOVER_S: Final = 60.0  # of which 15 s are the lease's
TIMEOUT_S: Final = 900
SOURCE: Final = str(Path(cgpu.__file__).parents[1])
CLASS: Final = "device.driver == 'gpu.cgpu.dev' && device.allowMultipleAllocations == true"


# Two candidates, each with a clock of its own that only this script moves.
ELECTIONS: Final = """
import json, sys
from pathlib import Path
from cgpu.adapters.kube_lease import Election
from cgpu.adapters.kube_objects import connect

times, told = [1000.0, 77.0], {}
api = connect(Path(sys.argv[1]))
pair = [
    Election(api, "kube-system", "tried", name, clock=lambda number=number: times[number])
    for number, name in enumerate(("one", "two"))
]

def see(what, *asks, seconds=0.0):
    for number in (0, 1):
        times[number] += seconds
    for number in asks:
        pair[number].step()
    told[what] = [one.leads() for one in pair]

see("first", 0, 1)
see("renewed", 0, 1, seconds=2)
see("silent for 9.9 s", seconds=9.9)
see("silent for 10.1 s", seconds=0.2)
see("the second looks after 14 s", 1, seconds=3.9)
see("and after 15.1 s", 1, seconds=1.1)
see("the first is back", 0)
pair[1].stop()
pair[1].run()
see("the second was released", 0, 1)
print(json.dumps(told))
"""


class Controllers:
    """Two processes of `cgpu k8s controller`, beside the control plane."""

    def __init__(self, cluster: Cluster) -> None:
        self._plane = cluster.control_plane
        self._processes: dict[Path, Process] = {}

    def start(self) -> None:
        log = self._plane.host.folder / f"controller-{len(self._processes)}.log"
        self._processes[log] = self._plane.host.start(
            sys.executable, "-m", "cgpu", "k8s", "controller", f"--kubeconfig={self._plane.admin}",
            "--namespace=kube-system", log=log, env=environment(),
        )  # fmt: skip

    def leader(self) -> Path | None:
        """The log of the one that holds the lease."""
        holder = json.loads(self._plane.kubectl("get", "leases", "-n=kube-system", "-o=json"))["items"]
        names = [item["spec"].get("holderIdentity") for item in holder if item["metadata"]["name"] == "cgpu-controller"]
        return next(
            (log for log in self._processes if names and names[0] and f"{names[0]} leads" in log.read_text()), None
        )

    def kill(self, log: Path) -> None:
        self._plane.host.signal(self._processes[log], signal.SIGKILL)
        self._processes[log].wait()

    def stop(self) -> None:
        """Before the API server, which would wait for their watches."""
        for process in self._processes.values():
            self._plane.host.stop(process)

    def texts(self) -> str:
        return "\n".join(log.read_text()[-2000:] for log in self._processes)


def environment() -> dict[str, str]:
    return {"PATH": SEARCHED, "PYTHONPATH": SOURCE, "HOME": "/root"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with needed():
        tools.root_with_namespaces()
        for name in ("busybox", "ip", "runc"):
            tools.program(name)
        stack = contextlib.ExitStack()
        made = stack.enter_context(Cluster())
    with stack:
        device_class = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": "gpu.cgpu.dev"},
            "spec": {"selectors": [{"cel": {"expression": CLASS}}]},
        }
        made.control_plane.kubectl("apply", "-f", "-", text_in=yaml.safe_dump(device_class))
        yield made


@pytest.fixture(scope="module")
def controllers(cluster: Cluster) -> Iterator[Controllers]:
    made = Controllers(cluster)
    made.start()
    made.start()
    eventually(made.leader, "one of the controllers leads")
    yield made
    made.stop()


@pytest.fixture
def gpus(cluster: Cluster, started: GpuNode) -> Iterator[GpuNode]:
    """A node with two T4; no pod is there before a test nor after it, and no tenant is left."""
    yield started
    cluster.control_plane.kubectl("delete", "pods", "--all", seconds=240)
    eventually(started.nothing_left, "no tenant is left")


@pytest.fixture(scope="module")
def started(cluster: Cluster) -> Iterator[GpuNode]:
    with GpuNode(cluster.workers[1].host, cards=2, worker=cluster.workers[1]) as made:
        eventually(lambda: get(cluster, "resourceslices"), "the node offers its cards")
        yield made


def get(cluster: Cluster, kind: str, *options: str) -> list[Json]:
    found: list[Json] = json.loads(cluster.control_plane.kubectl("get", kind, *options, "-o=json"))["items"]
    return found


def template(name: str, **amounts: str) -> Json:
    exactly = {"deviceClassName": "gpu.cgpu.dev", "capacity": {"requests": amounts}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}},
    }


def pod(name: str, claims: str, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,  # with 0, the next pod may come to the node before this one has gone
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": claims}],
            "containers": [{"name": "main", "image": PAUSE, "resources": {"claims": [{"name": "gpu"}]}}],
            **spec,
        },
    }


def apply(cluster: Cluster, *objects: Json) -> None:
    cluster.control_plane.kubectl("apply", "-f", "-", text_in=yaml.safe_dump_all(objects))


@contextlib.contextmanager
def unlabelled(cluster: Cluster, gpus: GpuNode) -> Iterator[None]:
    """Within, no node shares its cards."""
    assert gpus.worker
    label = ("label", "node", gpus.worker.name)
    cluster.control_plane.kubectl(*label, "ack.node.gpu.schedule-")
    try:
        eventually(lambda: not get(cluster, "resourceslices"), "the node offers nothing")
        yield
    finally:
        cluster.control_plane.kubectl(*label, f"ack.node.gpu.schedule={gpus.label}")


def events(cluster: Cluster, name: str) -> list[Json]:
    """Those of ours on a pod, the oldest first."""
    fields = "--field-selector=reason=GpuShareUnavailable"
    found = get(cluster, "events.events.k8s.io", fields)
    mine = [event for event in found if event["regarding"]["name"] == name]
    return sorted(mine, key=lambda event: str(event["eventTime"]))


def notes(cluster: Cluster, name: str) -> list[str]:
    return [event["note"] for event in events(cluster, name)]


def phases(cluster: Cluster) -> list[str]:
    return [item["status"]["phase"] for item in get(cluster, "pods")]


def inspect(cluster: Cluster, *arguments: str) -> str:
    plane = cluster.control_plane
    command = [sys.executable, "-m", "cgpu.cli.kubectl_inspect", f"--kubeconfig={plane.admin}", *arguments]
    return plane.host.run(*command, env=environment(), check=True).stdout


@pytest.mark.timeout(TIMEOUT_S)
def test_a_pod_is_told_that_no_node_is_labelled(cluster: Cluster, controllers: Controllers, gpus: GpuNode):
    with unlabelled(cluster, gpus):
        apply(cluster, template("early", memory="1Gi"), pod("early", "early"))
        eventually(lambda: notes(cluster, "early"), f"an event: {controllers.texts()}", EVENTS_S)
        # Afterwards there may be another: a node that is labelled offers its cards a moment later.
        assert notes(cluster, "early") == [
            "no node is labelled for sharing its GPUs (ack.node.gpu.schedule=cgpu, core_mem or share)"
        ]
    eventually(lambda: phases(cluster) == ["Running"], "the pod runs when a node is labelled", 60)


@pytest.mark.timeout(TIMEOUT_S)
def test_a_pod_is_told_which_limit_binds_and_runs_when_there_is_room(
    cluster: Cluster, controllers: Controllers, gpus: GpuNode
):
    apply(cluster, template("large", memory="10Gi", compute="80"), template("eight", memory="8Gi"))
    apply(cluster, template("fast", memory="1Gi", compute="40"), pod("large-0", "large"), pod("large-1", "large"))
    eventually(lambda: phases(cluster) == ["Running", "Running"], "two pods run")
    apply(cluster, pod("eight", "eight"), pod("fast", "fast"))
    eventually(lambda: notes(cluster, "eight") and notes(cluster, "fast"), "both are told", EVENTS_S)
    free = {card["free_bytes"] for card in json.loads(inspect(cluster, "-o", "json"))["nodes"][0]["gpus"]}
    (left,) = free
    (memory,), (compute,) = notes(cluster, "eight"), notes(cluster, "fast")
    least = f"{left * 100 // GIB / 100:g} GiB"
    assert memory == (
        f"gpu memory: asked 8 GiB, largest free share {least} on node-b/gpu-0 (2 GPUs: 2 too little memory)"
    )
    assert compute == (
        "gpu compute: asked 40 %, largest free share 20 % on node-b/gpu-0 (2 GPUs: 2 too little compute)"
    )
    assert "GpuShareUnavailable" in cluster.control_plane.kubectl("describe", "pod", "fast")
    cluster.control_plane.kubectl("delete", "pod", "large-0")
    eventually(lambda: phases(cluster) == ["Running"] * 3, "both run when another has ended")


@pytest.mark.timeout(TIMEOUT_S)
def test_the_doctor_sees_what_of_cgpu_is_there(cluster: Cluster, gpus: GpuNode):
    eventually(lambda: get(cluster, "resourceslices"), "the node offers its cards")
    plane = cluster.control_plane
    command = [sys.executable, "-m", "cgpu", "doctor", "--cluster", f"--kubeconfig={plane.admin}", "--json"]
    reports = json.loads(plane.host.run(*command, env=environment()).stdout)["nodes"]
    (found,) = [row for row in reports if row["node"] == "cgpu in this cluster"]
    assert {check["name"]: check["verdict"] for check in found["checks"]} == {
        "cluster:api": "supported",
        "cluster:gate": "supported",
        "cluster:device-class": "supported",
        "cluster:driver": "supported",
        "cluster:webhook": "unknown",  # none is registered here
        "cluster:versions": "not observed",  # nor is there a chart
        "cluster:claim-rate": "not observed",  # the controller manager is no pod
    }
    (api,) = [check for check in found["checks"] if check["name"] == "cluster:api"]
    assert api["value"].startswith("v1.3")


@pytest.mark.timeout(TIMEOUT_S)
def test_only_one_candidate_leads_and_another_takes_over(cluster: Cluster):
    plane = cluster.control_plane
    told = plane.host.run(sys.executable, "-c", ELECTIONS, str(plane.admin), env=environment(), check=True).stdout
    assert json.loads(told) == {
        "first": [True, False],
        "renewed": [True, False],
        "silent for 9.9 s": [True, False],
        "silent for 10.1 s": [False, False],
        "the second looks after 14 s": [False, False],
        "and after 15.1 s": [False, True],
        "the first is back": [False, True],
        "the second was released": [True, False],
    }


@pytest.mark.timeout(TIMEOUT_S)
def test_the_pod_that_is_one_too_many_is_told_once_whoever_leads(
    cluster: Cluster, controllers: Controllers, gpus: GpuNode
):
    apply(cluster, template("small", memory="256Mi"), template("huge", memory="40Gi"))
    apply(cluster, *(pod(f"p{number}", "small") for number in range(41)))
    eventually(lambda: phases(cluster).count("Running") == 40, "forty pods run", 240)
    (late,) = [item["metadata"]["name"] for item in get(cluster, "pods") if item["status"]["phase"] == "Pending"]
    eventually(lambda: notes(cluster, late), f"an event: {controllers.texts()}", EVENTS_S)
    assert notes(cluster, late)[-1] == "20 of 20 tenants on all GPUs (2 GPUs: 2 no tenant more)"
    assert len(notes(cluster, late)) == 1
    shown_is_what_the_agent_has(cluster, gpus, waiting=1)

    leader = controllers.leader()
    assert leader is not None
    controllers.kill(leader)
    eventually(lambda: controllers.leader() not in (None, leader), "the other leads", TAKEOVER_S)
    apply(cluster, pod("huge", "huge"))
    eventually(lambda: notes(cluster, "huge"), f"an event of the new leader: {controllers.texts()}", EVENTS_S)
    (note,) = notes(cluster, "huge")
    assert "gpu memory: asked 40 GiB, the largest GPU has 1" in note
    assert "20 of 20 tenants on all GPUs" in note
    (told,) = events(cluster, late)
    assert told.get("series") is None  # nothing was said a second time

    cluster.control_plane.kubectl("delete", "pod", "p0" if late != "p0" else "p1")
    eventually(lambda: phases(cluster).count("Running") == 40, "the pod that waited runs", 120)


def shown_is_what_the_agent_has(cluster: Cluster, gpus: GpuNode, *, waiting: int) -> None:
    """Everything that `kubectl inspect cgpu` shows, against the agent's own account."""
    document = json.loads(inspect(cluster, "-o", "json"))
    (node,) = document["nodes"]
    by_card: dict[str, list[int]] = {}
    for tenant in gpus.tenants():
        for share in tenant["shares"]:
            by_card.setdefault(share["gpu_uuid"], []).append(share["memory_bytes"])
    shown = {card["uuid"]: [share["memory_bytes"] for share in card["shares"]] for card in node["gpus"]}
    assert {uuid: sorted(amounts) for uuid, amounts in shown.items()} == {
        uuid: sorted(amounts) for uuid, amounts in by_card.items()
    }
    assert len(document["pending"]) == waiting
    summary = inspect(cluster)
    assert "5/14" in summary.splitlines()[1]
    assert summary.splitlines()[-1] == "0.25 (1 pod)"
    users = [line.split()[0] for line in inspect(cluster, "-d", node["name"]).splitlines() if " default " in line]
    assert sorted(users) == sorted(
        item["metadata"]["name"] for item in get(cluster, "pods") if item["status"]["phase"] == "Running"
    )

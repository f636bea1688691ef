"""What nodes offer: by their labels, in the order that they ask for, and written by nobody else."""

from __future__ import annotations

import json

import yaml

from cgpu.model.units import GIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import AGENT_NAMESPACE, Installation, pod, template

SLEEP = ("sleep", "3600")


def test_a_card_says_what_it_has(installation: Installation):
    (device,) = [one for one in installation.devices("node-a") if one["attributes"]["index"]["int"] == 0]
    attributes = {name: next(iter(value.values())) for name, value in device["attributes"].items()}
    assert attributes["productName"] == "Tesla T4"
    assert attributes["isolation"] == "memory-and-compute"
    assert attributes["policy"] == "soft"
    (machine,) = [row for row in json.loads(installation.cgpu("node-a", "info", "--json"))["gpus"] if row["index"] == 0]
    assert attributes["uuid"] == machine["uuid"]


def test_labels_decide_what_is_divided_and_whether_anything_is(installation: Installation):
    try:
        installation.label("node-b", schedule="cgpu")
        eventually(
            lambda: [one for one in installation.devices("node-b") if "compute" not in one["capacity"]],
            "no compute is offered",
        )
        installation.label("node-b", schedule="default")
        eventually(lambda: not installation.devices("node-b"), "nothing is offered")
    finally:
        installation.label("node-b", schedule="core_mem")
    eventually(lambda: len(installation.devices("node-b")) == 2, "all is offered again")


def test_a_policy_that_is_changed_live_is_published_at_once(installation: Installation):
    def policies() -> dict[int, tuple[str, str]]:
        return {
            one["attributes"]["index"]["int"]: (
                one["attributes"]["policy"]["string"],
                one["capacity"]["shares"]["value"],
            )
            for one in installation.devices("node-b")
        }

    before = {0: ("soft", "20"), 1: ("soft", "20")}
    eventually(lambda: policies() == before, "what former tests changed is as it was")
    try:
        installation.cgpu("node-b", "policy", "fixed", "--gpu=1", "--max-inst=10")
        # Of itself it looks in 300 s.
        eventually(lambda: policies() == {0: ("soft", "20"), 1: ("fixed", "10")}, "the slice says so")
    finally:
        installation.cgpu("node-b", "policy", "soft", "--gpu=1", "--max-inst=20")
    eventually(lambda: policies() == before, "the slice says that too")


def test_on_a_node_that_is_shared_nothing_is_limited(installation: Installation):
    """A pod sees the whole card; what ran before the label changed keeps its quota, and what comes after has one."""
    installation.apply(template("two", "2Gi"))

    def total(name: str) -> int:
        seen: dict[str, int] = json.loads(installation.kubectl("exec", name, "--", "/client/quota"))
        assert seen["nvml_total"] >= seen["total"]
        return seen["total"]

    def offers(isolation: str) -> bool:
        devices = installation.devices("node-b")
        return bool(devices) and all(one["attributes"]["isolation"]["string"] == isolation for one in devices)

    def start(name: str) -> int:
        installation.apply(pod(name, "two", *SLEEP, node="node-b"))
        installation.wait_for(name, "Running")
        return total(name)

    card = 14 * GIB  # and more: what the driver leaves of a T4
    try:
        assert start("limited") == 2 * GIB
        installation.label("node-b", schedule="share")
        eventually(lambda: offers("none"), "no isolation is promised")
        assert start("open") >= card
        (device,) = [one for one in installation.devices("node-b") if one["attributes"]["index"]["int"] == 0]
        told = {name: next(iter(value.values())) for name, value in device["attributes"].items()}
        assert (told["memoryLayer"], told["policy"], "compute" in device["capacity"]) == ("none", "native", False)
        assert total("limited") == 2 * GIB
        assert [row["name"].split("-")[0] for row in installation.tenants("node-b")] == ["default/limited"]
        installation.label("node-b", schedule="core_mem")
        eventually(lambda: offers("memory-and-compute"), "isolation is promised again")
        assert start("later") == 2 * GIB
        assert total("open") >= card
        eventually(installation.replace_agent("node-b"), "there is another agent")
        assert total("open") >= card
    finally:
        installation.label("node-b", schedule="core_mem")
    eventually(lambda: offers("memory-and-compute"), "isolation is promised again")


def test_spread_counts_what_nothing_limits(installation: Installation):
    installation.apply(template("one", "1Gi"))

    def policies(node: str) -> list[str]:
        return [one["attributes"]["policy"]["string"] for one in installation.devices(node)]

    def names(node: str) -> list[str]:
        return [one["name"] for one in installation.devices(node)]

    try:
        installation.label("node-b", schedule="share", placement="spread")
        eventually(lambda: policies("node-b") == ["native", "native"], "shared")
        installation.apply(pod("open", "one", *SLEEP, node="node-b"))
        installation.wait_for("open", "Running")
        (claim,) = installation.get("resourceclaims", "default")
        (given,) = claim["status"]["allocation"]["devices"]["results"]
        eventually(lambda: names("node-b")[-1] == given["device"], "the emptier card is first")
    finally:
        installation.label("node-b", schedule="core_mem", placement=None)
    eventually(lambda: policies("node-b") == ["soft", "soft"], "isolation is promised again")


def test_binpack_fills_a_card_and_spread_changes(installation: Installation):
    installation.apply(template("one", "1Gi"))

    def cards(prefix: str) -> list[int]:
        for number in range(2):
            installation.apply(pod(f"{prefix}-{number}", "one", *SLEEP, node="node-a"))
            installation.wait_for(f"{prefix}-{number}", "Running")
            eventually(lambda: len(installation.devices("node-a")) == 2, "the slice is whole")
        found = given()
        installation.delete("pod", *(f"{prefix}-{number}" for number in range(2)))
        return found

    def order() -> list[int]:
        return [one["attributes"]["index"]["int"] for one in installation.devices("node-a")]

    def given() -> list[int]:
        return [share["gpu_index"] for row in installation.tenants("node-a") for share in row["shares"]]

    eventually(lambda: order() == [0, 1], "both cards are empty")  # written once a second at most
    assert cards("packed") == [0, 0]
    try:
        installation.label("node-a", placement="spread")
        installation.apply(pod("spread-0", "one", *SLEEP, node="node-a"))
        installation.wait_for("spread-0", "Running")
        (card,) = given()
        eventually(lambda: order() == [1 - card, card], "the emptier card is first")
        installation.apply(pod("spread-1", "one", *SLEEP, node="node-a"))
        installation.wait_for("spread-1", "Running")
        assert sorted(given()) == [0, 1]
    finally:
        installation.label("node-a", placement=None)


def test_slices_that_somebody_deletes_are_written_again(installation: Installation):
    installation.kubectl("delete", "resourceslices", "--all")
    for worker in installation.cluster.workers:
        eventually(lambda name=worker.name: len(installation.devices(name)) == 2, "they are back")  # type: ignore[misc]


def test_an_agent_may_write_its_own_nodes_slices_only(installation: Installation):
    """With its own token, as somebody would who has taken over the node."""
    eventually(lambda: len(installation.devices("node-b")) == 2, "its cards are offered")
    (theirs,) = [item for item in installation.get("resourceslices") if item["spec"]["nodeName"] == "node-b"]
    script = (
        "import sys\n"
        "from cgpu.adapters.kube_objects import SLICES, connect\n"
        "from cgpu.errors import ClusterError\n"
        "try:\n"
        "    connect().{}\n"
        "except ClusterError as error:\n"
        "    print(error)\n"
    )
    agent = installation.agent_pod("node-a")

    def as_agent(call: str) -> str:
        command = ("python3", "-c", script.format(call))
        return installation.kubectl("exec", f"--namespace={AGENT_NAMESPACE}", agent, "-c=agent", "--", *command)

    name = theirs["metadata"]["name"]
    assert "node-a writes its own node's slices only" in as_agent(f"delete(SLICES, '', {name!r})")
    foreign = yaml.safe_load(yaml.safe_dump(theirs))
    foreign["metadata"] = {"name": "made-up"}
    assert "node-a writes its own node's slices only" in as_agent(f"create(SLICES, {foreign!r})")
    foreign["spec"] |= {"nodeName": "node-a", "driver": "gpu.nvidia.com"}
    assert "slices of the driver gpu.cgpu.dev only" in as_agent(f"create(SLICES, {foreign!r})")

"""One claim result is one tenant, however many containers and pods use it; a container has one share."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from cgpu.model.units import GIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import CLIENT, Installation, pod, template
from tests.e2e.kube.test_ack import ack_pod

NODE = "node-a"
SLEEP = ("sleep", "3600")


def two_requests(name: str) -> dict[str, Any]:
    """A template whose requests, ``big`` and ``small``, are on two cards."""
    made = template(name, "4Gi", "20")
    devices = made["spec"]["spec"]["devices"]
    big = devices["requests"][0] | {"name": "big"}
    small = template(name, "1Gi", "10")["spec"]["spec"]["devices"]["requests"][0] | {"name": "small"}
    constraint = {"requests": ["big", "small"], "distinctAttribute": "gpu.cgpu.dev/uuid"}
    made["spec"]["spec"]["devices"] = {"requests": [big, small], "constraints": [constraint]}
    return made


def container(name: str, *uses: str, command: tuple[str, ...] = SLEEP) -> dict[str, Any]:
    """Each use is "claim" or "claim/request"."""
    claims = [dict(zip(("name", "request"), use.split("/"), strict=False)) for use in uses]
    return {"name": name, "image": CLIENT, "command": list(command), "resources": {"claims": claims}}


def total(installation: Installation, name: str, of: str) -> int:
    """What a container sees of its first card."""
    said = installation.kubectl("exec", name, f"--container={of}", "--", "/client/quota")
    return int(json.loads(said)["total"])


def shares(installation: Installation) -> dict[str, list[tuple[int, int]]]:
    """Memory and compute on each card, by the last part of the tenants' names."""
    return {
        row["name"].rpartition("/")[2]: sorted((one["memory_bytes"], one["compute_percent"]) for one in row["shares"])
        for row in installation.tenants(NODE)
    }


def test_containers_that_name_a_request_each_have_a_share_each(installation: Installation):
    both = [container("main", "gpu/big"), container("second", "gpu/small"), container("third", "gpu/small")]
    installation.apply(two_requests("two-requests"), pod("apart", "two-requests", node=NODE, containers=both))
    installation.wait_for("apart", "Running")
    assert shares(installation) == {"big": [(4 * GIB, 20)], "small": [(GIB, 10)]}
    totals = [total(installation, "apart", name) for name in ("main", "second", "third")]
    assert totals == [4 * GIB, GIB, GIB]


def test_a_claim_that_is_used_as_a_whole_is_one_share_of_all_its_cards(installation: Installation):
    first = [container("prepare", "gpu", command=("/client/quota",))]
    both = [container("main", "gpu"), container("second", "gpu")]
    installation.apply(
        two_requests("two-requests"), pod("whole", "two-requests", node=NODE, containers=both, initContainers=first)
    )
    installation.wait_for("whole", "Running")
    ((name, has),) = shares(installation).items()
    assert name.startswith("whole-gpu-")
    assert has == [(GIB, 10), (4 * GIB, 20)]
    seen = total(installation, "whole", "main")
    assert seen == total(installation, "whole", "second")
    prepared = json.loads(installation.kubectl("logs", "whole", "--container=prepare"))
    assert prepared["total"] == seen


def test_pods_that_use_one_claim_are_one_tenant(installation: Installation):
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "mine"},
        "spec": two_requests("two-requests")["spec"]["spec"],
    }
    installation.apply(claim)
    try:
        for name, uses in (("first", "gpu"), ("later", "gpu"), ("latest", "gpu/small")):
            made = pod(name, "-", node=NODE, containers=[container("main", uses)])
            made["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "mine"}]
            installation.apply(made)
            installation.wait_for(name, "Running")
        assert shares(installation) == {"mine": [(GIB, 10), (4 * GIB, 20)]}
        assert len({total(installation, name, "main") for name in ("first", "later", "latest")}) == 1
        installation.delete("pod", "first")
        assert len(installation.tenants(NODE)) == 1
    finally:
        installation.delete("pod", "--all")
        installation.delete("resourceclaim", "mine")


def test_an_init_container_of_an_ack_pod_has_the_main_containers_share(installation: Installation):
    made = ack_pod("web", *SLEEP, mem="3", core="30")
    init = ack_pod("web", "/client/quota", mem="2")["spec"]["containers"][0] | {"name": "prepare"}
    made["spec"]["initContainers"] = [init]
    installation.apply(made)
    installation.wait_for("web", "Running")
    rows = [row for worker in installation.cluster.workers for row in installation.tenants(worker.name)]
    assert [[share["memory_bytes"] for share in row["shares"]] for row in rows] == [[3 * GIB]]
    assert json.loads(installation.kubectl("logs", "web", "--container=prepare"))["total"] == 3 * GIB
    assert total(installation, "web", "main") == 3 * GIB


def two_claims(name: str) -> dict[str, Any]:
    made = pod(name, "two-requests", node=NODE, containers=[container("main", "gpu", "more")])
    made["spec"]["resourceClaims"].append({"name": "more", "resourceClaimTemplateName": "two-requests"})
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (two_claims("two"), "container main uses two claims of our cards, gpu and more"),
        (
            pod("two", "two-requests", containers=[container("main", "gpu/big", "gpu/small")]),
            "container main names the requests big and small of claim gpu",
        ),
        (
            pod("two", "two-requests", containers=[container("main", "gpu"), container("second", "gpu/small")]),
            "container main uses claim gpu as a whole, and container second its request small",
        ),
    ],
)
def test_two_shares_of_a_container_are_refused_when_the_pod_is_made(
    installation: Installation, made: dict[str, Any], words: str
):
    installation.apply(two_requests("two-requests"))
    assert words in installation.cluster.control_plane.refused("apply", "-f", "-", text_in=yaml.safe_dump(made))


def events(installation: Installation, name: str) -> str:
    return installation.kubectl(
        "get", "events", "--namespace=kube-system", f"--field-selector=involvedObject.name={name}"
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        # The kubelet does not tell the node of containers: the runtime is the last line of defence.
        (two_claims("unseen"), "a-container-has-one-share"),
        (
            pod("unseen", "two-requests", node=NODE, containers=[container("main", "gpu/big", "gpu/small")]),
            "container main names the requests big and small of claim kube-system/",
        ),
    ],
)
def test_where_no_webhook_looks_the_node_refuses_them(installation: Installation, made: dict[str, Any], words: str):
    """Pods of kube-system are not looked at."""
    kubectl = installation.kubectl
    documents = yaml.safe_dump_all([two_requests("two-requests"), made])
    kubectl("apply", "--namespace=kube-system", "-f", "-", text_in=documents)
    try:
        eventually(lambda: words in events(installation, "unseen"), "the pod is told", 60)
        pods = installation.get("pods", "kube-system")
        assert not any(row["status"]["phase"] == "Running" for row in pods if row["metadata"]["name"] == "unseen")
    finally:
        kubectl("delete", "pod/unseen", "resourceclaimtemplate/two-requests", "--namespace=kube-system")
        kubectl("delete", "events", "--all", "--namespace=kube-system")

"""What examples/ shows happens on a real cluster, with the very files; only the images are the tests' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cgpu.model.units import GIB
from native import build
from tests.e2e.host import eventually
from tests.e2e.kube.installation import CLIENT, Installation

EXAMPLES = build.ROOT / "examples"
END_S = 240.0  # of a namespace with all that is in it, at most
Json = dict[str, Any]


def documents(path: str) -> list[Json]:
    """The objects of an example's file, whose containers run the tests' client."""
    found: list[Json] = list(yaml.safe_load_all((EXAMPLES / path).read_text()))
    for document in found:
        for pod in pod_specs(document):
            for container in pod["containers"]:
                container["image"] = CLIENT
    return found


def pod_specs(document: Json) -> Iterator[Json]:
    """The specs of the pods that an object is or makes."""
    if document["kind"] == "Pod":
        yield document["spec"]
    elif "template" in document.get("spec", {}):
        yield document["spec"]["template"]["spec"]


class Example:
    """The files of a case, applied and taken away again."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._applied: list[str] = []

    def apply(self, path: str) -> None:
        """As ``kubectl apply -f`` does."""
        text = yaml.safe_dump_all(documents(path))
        self.installation.kubectl("apply", "-f", "-", text_in=text)
        self._applied.append(text)

    def apply_once_allowed(self, path: str) -> None:
        """The same, as soon as the webhook lets it pass."""
        self.installation.apply_once_allowed(*documents(path))
        self._applied.append(yaml.safe_dump_all(documents(path)))

    def end(self) -> None:
        """As ``kubectl delete -f`` does, without the half minute that a sleeping pod takes to end."""
        for text in reversed(self._applied):
            arguments = ("delete", "-f", "-", "--grace-period=1", "--ignore-not-found")
            self.installation.kubectl(*arguments, text_in=text, seconds=END_S)
        self.installation.kubectl("delete", "pod", "--all", "--grace-period=1", seconds=END_S)

    def runs(self, pod: str, namespace: str = "default") -> None:
        """Wait until it does."""
        where = ("pod", pod, f"--namespace={namespace}")
        phase = ("get", *where, "-o=jsonpath={.status.phase}")
        try:
            eventually(lambda: self.installation.kubectl(*phase) == "Running", f"{pod} runs")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.installation.kubectl('describe', *where)}") from error

    def exec(self, pod: str, *command: str, container: str = "main") -> str:
        """What a command prints in a pod."""
        return self.installation.kubectl("exec", pod, f"--container={container}", "--", *command)

    def sees(self, pod: str, container: str = "main") -> int:
        """The bytes of the card that it sees."""
        return int(json.loads(self.exec(pod, "/client/quota", container=container))["total"])

    def shares(self) -> dict[str, list[Json]]:
        """The shares of all tenants of all nodes, by the tenant's name."""
        return {
            row["id"]: row["shares"]
            for worker in self.installation.cluster.workers
            for row in self.installation.tenants(worker.name)
        }


@pytest.fixture
def example(installation: Installation) -> Iterator[Example]:
    made = Example(installation)
    yield made
    made.end()


def test_a_pod_of_ack(example: Example):
    example.apply("ack-pod/pod.yaml")
    example.runs("gpu-share-sample")
    assert example.sees("gpu-share-sample") == 3 * GIB
    # What has just looked may have its context charged for a moment after its end.
    eventually(
        lambda: "memory 0MiB / 3072MiB" in example.exec("gpu-share-sample", "/.cgpu/bin/cgpu", "smi"),
        "the container sees its share",
    )
    (shares,) = example.shares().values()
    assert [(share["memory_bytes"], share["compute_percent"]) for share in shares] == [(3 * GIB, 30)]
    example.apply("ack-pod/pod.yaml")


def test_a_pod_with_a_claim_whose_containers_share_it(example: Example):
    example.apply("claim-template/pod.yaml")
    example.runs("infer")
    assert [example.sees("infer", container) for container in ("main", "helper")] == [6 * GIB] * 2
    ((share,),) = example.shares().values()
    assert (share["compute_percent"], share["compute_limit_percent"]) == (30, 60)


def test_two_cards_for_one_container(example: Example):
    for name in ("ack", "claim"):
        example.apply(f"multi-gpu/{name}-pod.yaml")
    for name in ("ack", "claim"):
        example.runs(f"two-cards-{name}")
        assert example.sees(f"two-cards-{name}") == 3 * GIB
    found = list(example.shares().values())
    assert len(found) == 2
    for shares in found:
        assert len({share["gpu_uuid"] for share in shares}) == 2
        assert [share["memory_bytes"] for share in shares] == [3 * GIB] * 2


def test_high_priority_where_the_administrator_allows_it(example: Example):
    pods = "priority/pods.yaml"
    (namespace,) = documents("priority/namespace.yaml")
    (name,) = {document["metadata"]["namespace"] for document in documents(pods)}
    assert namespace["metadata"]["name"] == name
    unlabelled = {**namespace, "metadata": {"name": name}}
    example.installation.apply(unlabelled)
    refuse = example.installation.cluster.control_plane.refused
    said = refuse("apply", "-f", "-", text_in=yaml.safe_dump_all(documents(pods)))
    assert "high priority is not allowed in this namespace" in said
    example.apply("priority/namespace.yaml")
    example.apply_once_allowed(pods)
    for pod in ("urgent", "urgent-ack"):
        example.runs(pod, name)
    found = sorted((share["priority"], share["weight"]) for (share,) in example.shares().values())
    assert found == [(1, 1), (1, 3)]


def test_a_deployment_whose_replicas_have_a_claim_each(example: Example):
    example.apply("deployment/deployment.yaml")
    example.installation.roll_out("deployment/web", "default")
    assert [share["memory_bytes"] for (share,) in example.shares().values()] == [2 * GIB] * 3
    example.installation.kubectl("scale", "deployment/web", "--replicas=5")
    eventually(lambda: len(example.shares()) == 5, "each of the new ones has one too")


@pytest.mark.parametrize(
    ("case", "pods", "cards"),
    [("together", {"encoder": 2, "decoder": 4}, 1), ("apart", {"left": 2, "right": 4}, 2)],
)
def test_pods_on_the_same_card_or_on_different_ones(example: Example, case: str, pods: dict[str, int], cards: int):
    example.apply(f"same-card/{case}.yaml")
    for pod, gib in pods.items():
        example.runs(pod)
        assert example.sees(pod) == gib * GIB
    found = [share for shares in example.shares().values() for share in shares]
    assert len(found) == 2
    assert len({share["gpu_uuid"] for share in found}) == cards


def test_what_is_noted_of_ray_is_taken_by_the_api_server(installation: Installation):
    template, cluster = yaml.safe_load_all((EXAMPLES / "kuberay/raycluster.yaml").read_text())
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"ray-{number}"}, "spec": group["template"]["spec"]}
        for number, group in enumerate(groups)
    ]
    text = yaml.safe_dump_all([template, *pods])
    installation.kubectl("apply", "-f", "-", "--dry-run=server", "--validate=strict", text_in=text)
    left = [item["metadata"]["name"] for item in installation.get("resourceclaimtemplates", "default")]
    assert template["metadata"]["name"] not in left

"""cgpu in a cluster, as a person installs it: our image on the nodes, our chart by Helm."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

from native import build
from tests.e2e import image
from tests.e2e.host import eventually
from tests.e2e.kube import cgpu_image, images, programs
from tests.e2e.kube.cluster import Cluster
from tests.e2e.node import SOURCE
from tests.e2e.tools import SEARCHED
from tests.e2e.wanted import Result

CHART: Final = build.ROOT / "deploy" / "helm" / "cgpu"
CLIENT: Final = "docker.io/local/client:1"
AGENT_NAMESPACE: Final = "cgpu-agent"
_RELEASE: Final = "cgpu"
NAMESPACE: Final = "cgpu-system"
_POD_S: Final = 150.0  # a kubelet whose call failed, as while an agent is replaced, tries again after a minute or two
_BEGIN_S: Final = 150.0
_HELM_S: Final = 300.0  # it waits for its hooks, which may have pods to wait for
_ALL_PODS_S: Final = 240.0  # in which dozens of pods that are deleted or made at once are gone or known
CARDS: Final = 2
"""Of each node."""

VALUES: Final[Mapping[str, Any]] = {
    "image": {"repository": cgpu_image.NAME.rpartition(":")[0], "tag": "1", "pullPolicy": "Never"},
    "simulated": {"enabled": True, "profile": "t4", "cards": CARDS},
}


class Installation:
    """The chart in a cluster."""

    def __init__(self, cluster: Cluster, values: Mapping[str, Any] = VALUES) -> None:
        self.cluster = cluster
        self._values = values
        self.kubectl = cluster.control_plane.kubectl
        self._folder = cluster.control_plane.host.folder / "installation"

    def begin(self) -> None:
        """Everything from the images to offered cards, whose memory and compute are divided."""
        self.load_images()
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        self.install()
        for worker in self.cluster.workers:
            self.label(worker.name, schedule="core_mem")
        self.wait_until_offered()

    def wait_until_offered(self) -> None:
        """All cards are there for pods, and webhook and controller work."""
        names = [worker.name for worker in self.cluster.workers]
        eventually(lambda: all(len(self.devices(name)) == CARDS for name in names), "all cards are offered", _BEGIN_S)
        self.wait_for_webhook()
        self.roll_out("deployment/cgpu-controller", NAMESPACE)

    def wait_for_webhook(self) -> None:
        """Its pods are ready, and the API server reaches them: kube-proxy is told of them after that."""
        self.roll_out("deployment/cgpu-webhook", NAMESPACE)
        metadata = {"name": "tried", "namespace": "default"}
        spec = template("tried", "1Gi")["spec"]["spec"]
        text = yaml.safe_dump(
            {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata, "spec": spec}
        )
        eventually(lambda: self._is_created(text), "the webhook answers the API server")

    def _is_created(self, text: str) -> bool:
        try:
            self.kubectl("create", "--dry-run=server", "-f", "-", text_in=text)
        except AssertionError:
            return False
        return True

    def roll_out(self, name: str, namespace: str) -> None:
        """Wait until all pods of a workload are of its newest form, and ready."""
        eventually(lambda: "successfully" in self.kubectl(
            "rollout", "status", name, f"--namespace={namespace}", "--watch=false"
        ), f"{name} is rolled out", _BEGIN_S)  # fmt: skip

    def load_images(self) -> None:
        """Make the images and put them on every node."""
        self._folder.mkdir()
        rootfs = image.make_rootfs(self._folder / "client")
        client = images.archive(rootfs, CLIENT, self._folder / "client.tar", environment={"PATH": image.PATH})
        for archive in (client, cgpu_image.make(self._folder)):
            for worker in self.cluster.workers:
                worker.import_image(archive)

    def install(self, values: Mapping[str, Any] | None = None, *options: str) -> str:
        """Install the chart, or change what is installed; what Helm says. ``options`` are Helm's own."""
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(dict(self._values if values is None else values)))
        return self._helm(
            "upgrade", "--install", _RELEASE, str(CHART), f"--namespace={NAMESPACE}", f"--values={file}", *options,
        )  # fmt: skip

    def uninstall(self) -> str:
        """Take it away."""
        return self._helm("uninstall", _RELEASE, f"--namespace={NAMESPACE}", "--wait")

    def refused_uninstall(self) -> str:
        """Try to take it away, which must fail; what Helm says."""
        result = self._run_helm("uninstall", _RELEASE, f"--namespace={NAMESPACE}")
        assert result.returncode != 0, result.stdout
        return result.stdout + result.stderr

    def roll_back(self) -> None:
        """Tell Helm after a refused uninstallation that the release is still there."""
        listed = json.loads(self._helm("history", _RELEASE, f"--namespace={NAMESPACE}", "--output=json"))
        self._helm("rollback", _RELEASE, str(listed[-1]["revision"]), f"--namespace={NAMESPACE}")

    def admin_cgpu(self, *arguments: str) -> Result:
        """Run cgpu as a person with a kubeconfig does."""
        plane = self.cluster.control_plane
        environment = {"PATH": SEARCHED, "HOME": str(self._folder), "KUBECONFIG": str(plane.admin)}
        environment["PYTHONPATH"] = str(SOURCE)
        return plane.host.run(sys.executable, "-m", "cgpu", *arguments, env=environment, seconds=_HELM_S)

    def label(self, node: str, **labels: str | None) -> None:
        """Set ACK's labels of a node; None removes one. ``schedule`` and ``placement`` are ack.node.gpu.<name>."""
        words = [
            f"ack.node.gpu.{name}={value}" if value is not None else f"ack.node.gpu.{name}-"
            for name, value in labels.items()
        ]
        self.kubectl("label", "node", node, "--overwrite", *words)

    def devices(self, node: str) -> list[dict[str, Any]]:
        """What the node offers now, in the scheduler's order."""
        return [device for item in self.get("resourceslices") if item["spec"]["nodeName"] == node
                for device in item["spec"].get("devices", [])]  # fmt: skip

    def get(self, kind: str, namespace: str = "") -> list[dict[str, Any]]:
        """All objects of a kind, in all namespaces or in one."""
        where = [f"--namespace={namespace}"] if namespace else ["--all-namespaces"]
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *where, "-o=json"))["items"]
        return items

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "-f", "-", text_in=yaml.safe_dump_all(documents), seconds=_ALL_PODS_S)

    def apply_once_allowed(self, *documents: Mapping[str, Any]) -> None:
        """Create or change objects as soon as the webhook lets them pass: it hears of a label after it is set."""

        def is_applied() -> bool:
            try:
                self.apply(*documents)
            except AssertionError as error:
                refusals.append(str(error))
                return False
            return True

        refusals: list[str] = []
        try:
            eventually(is_applied, "the objects are let in")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{refusals[-1]}") from error

    def delete(self, kind: str, *names: str) -> None:
        """Delete objects of the default namespace, and wait until they and the pods that they have made are gone."""
        arguments = ["--wait=true", "--ignore-not-found"]
        if kind in ("deployment", "job"):  # else a ReplicaSet that is still there makes a pod for each that is deleted
            arguments.append("--cascade=foreground")
        self.kubectl("delete", kind, *names, *arguments, seconds=_ALL_PODS_S)

    def phase(self, pod: str) -> str:
        """Of a pod in the default namespace."""
        return self.kubectl("get", "pod", pod, "-o=jsonpath={.status.phase}")

    def wait_for(self, pod: str, *phases: str) -> str:
        """Wait until the pod is in one of the phases."""
        try:
            eventually(lambda: self.phase(pod) in phases, f"pod {pod} is {' or '.join(phases)}", _POD_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'pod', pod)}") from error
        return self.phase(pod)

    def logs(self, pod: str) -> str:
        """What a pod in the default namespace has printed."""
        return self.kubectl("logs", pod)

    def agent_pod(self, node: str) -> str:
        """The name of the agent's pod on a node."""
        pods = self.get("pods", AGENT_NAMESPACE)
        return next(
            str(pod["metadata"]["name"])
            for pod in pods
            if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
        )

    def replace_agent(self, node: str) -> Callable[[], bool]:
        """Delete the agent's pod on a node, and wait for nothing; what is returned tells whether another is ready."""

        def is_ready(pod: dict[str, Any]) -> bool:
            conditions = pod["status"].get("conditions", ())
            return any(row["type"] == "Ready" and row["status"] == "True" for row in conditions)

        def is_replaced() -> bool:
            mine = [pod for pod in self.get("pods", AGENT_NAMESPACE) if pod["spec"].get("nodeName") == node]
            return [is_ready(pod) for pod in mine if pod["metadata"]["name"] != before] == [True]

        before = self.agent_pod(node)
        self.kubectl("delete", "pod", f"--namespace={AGENT_NAMESPACE}", before, "--wait=false")
        return is_replaced

    def cgpu(self, node: str, *arguments: str) -> str:
        """Run cgpu in the agent's pod on a node; what it prints."""
        command = ("python3", "-m", "cgpu", *arguments)
        return self.kubectl("exec", f"--namespace={AGENT_NAMESPACE}", self.agent_pod(node), "-c=agent", "--", *command)

    def tenants(self, node: str) -> list[dict[str, Any]]:
        """The agent's tenants on a node."""
        found: list[dict[str, Any]] = json.loads(self.cgpu(node, "ps", "--json"))
        return found

    def left_on(self, node: str) -> list[str]:
        """What is left of claims on a node: CDI files and views."""
        host = next(worker.host for worker in self.cluster.workers if worker.name == node)
        listed = host.run("find", "/var/run/cdi", "/run/cgpu", "-path", "*k8s*", "-o", "-name", "*.json").stdout
        return [path for path in listed.split() if "cgpu.dev-claim" in path or "/k8s/" in path]

    def _helm(self, *arguments: str) -> str:
        result = self._run_helm(*arguments)
        assert result.returncode == 0, f"helm {' '.join(arguments)}: {result.stderr}"
        return result.stdout

    def _run_helm(self, *arguments: str) -> Result:
        admin = self.cluster.control_plane.admin
        environment = {"PATH": SEARCHED, "HOME": str(self._folder)}
        host = self.cluster.control_plane.host
        return host.run(str(programs.helm()), f"--kubeconfig={admin}", *arguments, env=environment, seconds=_HELM_S)


def template(
    name: str, memory: str, compute: str | None = None, *, count: int = 1, **parameters: Any
) -> dict[str, Any]:
    """A claim template with one request, ``gpu``."""
    amounts = {"memory": memory} | ({"compute": compute} if compute else {})
    exactly = {"deviceClassName": "gpu.cgpu.dev", "count": count, "capacity": {"requests": amounts}}
    devices: dict[str, Any] = {"requests": [{"name": "gpu", "exactly": exactly}]}
    if parameters:
        head = {"apiVersion": "gpu.cgpu.dev/v1", "kind": "ShareParameters"}
        devices["config"] = [{"opaque": {"driver": "gpu.cgpu.dev", "parameters": head | parameters}}]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": devices}},
    }


def pod(name: str, claim_template: str, *command: str, node: str | None = None, **spec: Any) -> dict[str, Any]:
    """A pod of one container with a claim of a template."""
    container = {
        "name": "main",
        "image": CLIENT,
        "command": list(command),
        "resources": {"claims": [{"name": "gpu"}]},
    }
    chosen = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": claim_template}],
            "containers": [container],
            **chosen,
            **spec,
        },
    }

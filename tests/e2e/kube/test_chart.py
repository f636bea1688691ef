"""The chart says what the code says, and is refused with values that cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgpu.k8s.webhook_configuration import Service, configurations
from tests.e2e.conftest import needed
from tests.e2e.kube import programs
from tests.e2e.kube.installation import CHART, Installation
from tests.e2e.kube.installation import NAMESPACE as OF_THE_TESTS

NAMESPACE = "some-namespace"
Json = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    with needed():
        program = programs.helm()
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def rendered(*settings: str) -> dict[tuple[str, str], Json]:
    return by_name(helm("template", "cgpu", str(CHART), f"--namespace={NAMESPACE}", *set_each(settings)))


def set_each(settings: Iterable[str]) -> list[str]:
    return [f"--set={one}" for one in settings]


def by_name(result: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], Json]:
    assert result.returncode == 0, result.stderr
    documents = [document for document in yaml.safe_load_all(result.stdout) if document]
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents)
    return found


def manifests(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cgpu", "k8s", "manifests", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_webhooks_are_those_of_the_code():
    found = rendered()
    for document in configurations(Service(NAMESPACE)):
        assert found[document["kind"], document["metadata"]["name"]]["webhooks"] == document["webhooks"]


def test_nothing_but_the_agent_is_privileged():
    for (kind, name), document in rendered("simulated.enabled=true").items():
        if kind not in ("Deployment", "DaemonSet"):
            continue
        spec = document["spec"]["template"]["spec"]
        rights = [container.get("securityContext", {}) for container in spec["containers"]]
        if name == "cgpu-agent":
            assert spec["hostPID"]
            continue
        assert spec["securityContext"]["runAsNonRoot"]
        assert "hostPID" not in spec
        for right in rights:
            assert right["capabilities"] == {"drop": ["ALL"]}
            assert right["readOnlyRootFilesystem"]
            assert not right["allowPrivilegeEscalation"]


@pytest.mark.parametrize(
    "setting",
    ["simulated.cards=17", "webhook.replicas=0", "host.runtimeDir=run", "nonsense=1", "webhook.largestCard=big"],
)
def test_values_that_cannot_be_are_refused(setting: str):
    result = helm("template", "cgpu", str(CHART), f"--set={setting}")
    assert result.returncode != 0
    assert setting.split("=", maxsplit=1)[0].rsplit(".", maxsplit=1)[-1] in result.stderr
    ours = manifests(f"--set={setting}")
    assert ours.returncode == 2
    assert setting.split("=", maxsplit=1)[0].rsplit(".", maxsplit=1)[-1] in ours.stderr


VALUES = """
image: {repository: registry.example/team/cgpu, tag: "2", pullPolicy: Always}
imagePullSecrets: [{name: registry}]
agent:
  namespace: gpu-agents
  affinity: null
  nodeSelector: {pool: "on", "true": "yes", number: "1"}
  tolerations: [{key: gpu, operator: Equal, value: "1e3", effect: NoSchedule}]
  podAnnotations: {note: "a: b # c, {{ d }}", empty: ""}
  podLabels: {team: "007"}
  resources: {requests: {cpu: 0.5, memory: 1Gi}, limits: {}}
webhook: {nodeSelector: {a: b}, tolerations: [], largestCard: 80GiB}
controller: {replicas: 3, resources: {}}
host: {runtimeDir: /run/gpus, kubeletDir: /data/kubelet, cdiDir: /etc/cdi}
"""


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["simulated.enabled=true,simulated.cards=3", "simulated.profile=a10"],
        ["webhook.certManager.enabled=true", "webhook.certManager.issuer.name=ours,webhook.replicas=1"],
        ["webhook.unevenSplits=true,webhook.proportionalMemory=true,webhook.largestCard=24GiB"],
        ["agent.tolerations[1].operator=Exists,agent.tolerations[0].key=x", r"agent.nodeSelector.a\.b/c=d\,e"],
        ["agent.tolerations=null", "imagePullSecrets=null", "agent.podLabels.x=y,image.tag=0.9"],
    ],
)
@pytest.mark.parametrize("file", ["", VALUES])
def test_the_manifests_are_what_helm_makes_of_the_same_values(settings: list[str], file: str, tmp_path: Path):
    values = tmp_path / "values.yaml"
    values.write_text(file)
    same = [f"--namespace={NAMESPACE}", f"--values={values}", *set_each(settings)]
    theirs = helm("template", "a-name", str(CHART), "--no-hooks", *same)
    ours = manifests("--name=a-name", *same)
    assert ours.returncode == theirs.returncode, ours.stderr + theirs.stderr
    if theirs.returncode == 0:
        assert by_name(ours) == by_name(theirs)
        assert ours.stdout.startswith("---\n# Source: cgpu/templates/agent-namespace.yaml\n")


def test_the_manifests_are_written_as_files_that_kubectl_applies_in_order(tmp_path: Path):
    folder = tmp_path / "made"
    assert manifests(f"--output={folder}").stdout == ""
    written = sorted(folder.iterdir())
    assert written[0].name == "00-namespace-cgpu-agent.yaml"
    assert "".join(path.read_text() for path in written) == manifests().stdout
    assert manifests(f"--output={folder}").returncode == 0
    refused = manifests(f"--output={folder}", "--set=webhook.replicas=1,agent.namespace=other")
    assert refused.returncode == 2
    assert "other manifests: 00-namespace-cgpu-agent.yaml" in refused.stderr


def test_the_api_server_takes_the_manifests(installation: Installation):
    text = manifests(f"--namespace={OF_THE_TESTS}").stdout
    installation.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text_in=text)


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ((), "/"),
        (("driver.root=/run/nvidia/driver",), "/run/nvidia/driver"),
        (("driver.root=",), None),
        (("simulated.enabled=true",), None),
    ],
)
def test_the_agent_sees_the_driver_where_it_is(settings: tuple[str, ...], root: str | None):
    spec = rendered(*settings)["DaemonSet", "cgpu-agent"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    variables = {row["name"]: row.get("value") for row in container["env"]}
    volumes = {row["name"]: row.get("hostPath", {}).get("path") for row in spec["volumes"]}
    mounts = {row["name"]: (row["mountPath"], row.get("readOnly")) for row in container["volumeMounts"]}
    assert (variables.get("CGPU_DRIVER_ROOT"), volumes.get("driver")) == (root, root)
    assert mounts.get("driver") == (None if root is None else ("/driver", True))
    assert variables.get("CGPU_DRIVER_TREE") == (None if root is None else "/driver")

"""The chart says what the code says, and is refused with values that cannot be."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from cgpu.k8s.webhook_access import access
from cgpu.k8s.webhook_configuration import Service, configurations
from tests.e2e.conftest import needed
from tests.e2e.kube import programs
from tests.e2e.kube.installation import CHART

NAMESPACE = "some-namespace"
Json = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    with needed():
        program = programs.helm()
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def rendered(*settings: str) -> dict[tuple[str, str], Json]:
    result = helm("template", "cgpu", str(CHART), f"--namespace={NAMESPACE}", *(f"--set={one}" for one in settings))
    assert result.returncode == 0, result.stderr
    documents = [document for document in yaml.safe_load_all(result.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def test_the_webhooks_are_those_of_the_code():
    found = rendered()
    for document in configurations(Service(NAMESPACE)):
        assert found[document["kind"], document["metadata"]["name"]]["webhooks"] == document["webhooks"]


@pytest.mark.parametrize(("setting", "secret"), [("false", "cgpu-webhook-certificate"), ("true", "")])
def test_the_webhooks_rights_are_those_of_the_code(setting: str, secret: str):
    found = rendered(f"webhook.certManager.enabled={setting}")
    for document in access(Service(NAMESPACE), secret):
        same = found[document["kind"], document["metadata"]["name"]]
        for part in ("rules", "roleRef", "subjects"):
            assert same.get(part) == document.get(part)


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

"""The chart without Helm; the e2e suite compares it with the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cgpu.errors import UsageError
from cgpu.k8s import names
from cgpu.k8s.chart import Chart, Release
from cgpu.k8s.webhook_configuration import MUTATING, VALIDATING

RELEASE = Release("cgpu", "some-namespace")
FILES = {
    "Chart.yaml": "appVersion: 1.2.3\n",
    "values.yaml": "count: 1\n",
    "values.schema.json": '{"properties": {"count": {"type": "integer"}}}',
    "templates/_names.tpl": '{{ define "name" }}{{ .Release.Name }}{{ end }}',
    "templates/b.yaml": "kind: Pod\nmetadata: {name: {{ include \"name\" . }}-{{ .Values.count }}}\n---\n# nothing\n",
    "templates/c.yaml": "kind: Namespace\nmetadata: {name: {{ .Release.Namespace }}}\n",
    "templates/hook.yaml": "kind: Job\nmetadata: {name: x, annotations: {helm.sh/hook: pre-delete}}\n",
}  # fmt: skip


@pytest.fixture
def chart(tmp_path: Path) -> Chart:
    (tmp_path / "templates").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return Chart(tmp_path)


def test_namespaces_come_first_and_hooks_not_at_all(chart: Chart):
    found = [(manifest.kind, manifest.name) for manifest in chart.render(RELEASE, {"count": 2})]
    assert found == [("Namespace", "some-namespace"), ("Pod", "cgpu-2")]


def test_a_value_that_is_not_allowed_is_refused(chart: Chart):
    with pytest.raises(UsageError, match="count: 'x' is not of type 'integer'"):
        chart.render(RELEASE, {"count": "x"})


def test_our_own_chart_says_what_it_has_and_where_it_comes_from():
    manifests = Chart().render(RELEASE, {})
    (controller,) = (one for one in manifests if (one.kind, one.name) == ("Deployment", "cgpu-controller"))
    assert controller.source == "cgpu/templates/controller.yaml"
    document = yaml.safe_load(controller.text)
    assert document["metadata"]["namespace"] == "some-namespace"
    assert "# Which of the replicas leads." in "".join(one.text for one in manifests)
    assert yaml.safe_load(Chart().default_values())["webhook"]["replicas"] == 2


def rules_of_the_webhook(own_certificate: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind of role and of object, where there is one rule of it: the last has the names, if any."""
    values = {"webhook": {"certManager": {"enabled": not own_certificate}}}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in Chart().render(RELEASE, values):
        if one.name == "cgpu-webhook" and one.kind in ("Role", "ClusterRole"):
            for rule in yaml.safe_load(one.text)["rules"]:
                (kind,) = rule["resources"]
                assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
                if (one.kind, kind) not in found or "resourceNames" in rule:
                    found[one.kind, kind] = rule
    return found


def test_the_webhook_may_write_no_more_than_it_makes():
    rules = rules_of_the_webhook(own_certificate=False)
    writes = {key: set(rule["verbs"]) - {"get", "list", "watch"} for key, rule in rules.items()}
    assert {key: verbs for key, verbs in writes.items() if verbs} == {
        ("ClusterRole", "resourceclaimtemplates"): {"create", "patch"},
        ("Role", "configmaps"): {"create", "update"},
    }


def test_with_a_certificate_of_its_own_it_may_write_that_and_where_it_is_named():
    with_it, without = rules_of_the_webhook(own_certificate=True), rules_of_the_webhook(own_certificate=False)
    assert {key: rule["resourceNames"] for key, rule in with_it.items() if key not in without} == {
        ("Role", "secrets"): [names.SECRET],
        ("ClusterRole", "mutatingwebhookconfigurations"): [MUTATING],
        ("ClusterRole", "validatingwebhookconfigurations"): [VALIDATING],
    }

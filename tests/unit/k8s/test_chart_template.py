"""The part of Go's template language that the chart uses; the e2e suite compares whole charts with the real Helm."""

from __future__ import annotations

import pytest

from cgpu.k8s.chart_template import TemplateError, Templates

SCOPE = {"Values": {"on": True, "off": False, "n": 3, "text": "a: b", "map": {"k": "v"}, "empty": {}}, "Chart": {}}


def rendered(source: str, **more: str) -> str:
    return Templates({"it": source, **more}).render("it", SCOPE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x: {{ .Values.n }}", "x: 3"),
        ("{{ .Values.on }} {{ .Values.off }} <{{ .Values.absent }}>", "true false <>"),
        ("{{ if .Values.on }}a{{ else }}b{{ end }}{{ if .Values.off }}a{{ else }}b{{ end }}", "ab"),
        ("{{ if .Values.off }}a{{ else if .Values.on }}b{{ else }}c{{ end }}d", "bd"),
        ("{{ if .Values.off }}a{{ else if .Values.empty }}b{{ else if .Values.off }}c{{ else }}d{{ end }}e", "de"),
        ("{{ if .Values.on }}a{{ else if .Values.on }}b{{ end }}c", "ac"),
        ("{{ if not .Values.empty }}none{{ end }}", "none"),
        ("{{ with .Values.map }}{{ .k }}{{ end }}", "v"),
        ("{{ with .Values.empty }}{{ .k }}{{ else }}{{ .Values.n }}{{ end }}", "3"),
        ("a\n  {{- if .Values.on }}\nb\n  {{- end }}\nc", "a\nb\nc"),
        ("a {{- /* said\nby us */ -}} b", "ab"),
        ('{{- $x := printf "%s-%s" "a" .Values.n }}{{ if .Values.on }}{{ $x }}{{ end }}{{ $.Values.n }}', "a-33"),
        ('{{ .Values.absent | default .Values.n | quote }}{{ "" | default "x" }}', '"3"x'),
        ('{{ include "other" .Values.map | nindent 2 }}', "\n  v"),
        ("l: {{- toYaml .Values.map | nindent 4 }}", "l:\n    k: v"),
    ],
)  # fmt: skip
def test_an_action_means_what_it_means_to_helm(source: str, expected: str):
    assert rendered(source, names='{{ define "other" }}{{ .k }}{{ end }}') == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ range .Values.map }}{{ end }}", "{{ .Values.on | upper }}", "{{ (eq 1 2) }}", "{{ if .Values.on }}",
        "{{ end }}", "{{ else }}", '{{ include "absent" . }}', "{{ .Values.n.more }}", "{{ $absent }}", "{{ }}",
        "{{ .Values.n | }}", "{{ with .Values.on }}{{ else if .Values.off }}{{ end }}", "{{ .Values.n .Values.n }}",
        "{{ if .Values.off }}{{ range .Values.map }}{{ end }}{{ end }}",
        "{{ if .Values.on }}{{ else nonsense }}{{ end }}",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error_that_names_the_file(source: str):
    with pytest.raises(TemplateError, match=r"^it: "):
        rendered(source)

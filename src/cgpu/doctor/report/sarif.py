"""Reports as SARIF 2.1.0: a result per check, whose place is the node.

By the standard, a result that is no failure has the level ``none``: https://docs.oasis-open.org/sarif/sarif/v2.1.0/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from cgpu import __version__
from cgpu.compat.dataset import Dataset
from cgpu.compat.export import about
from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.outcome import Report
from cgpu.doctor.report.totals import Totals

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: Final = {
    Verdict.UNSUPPORTED: ("fail", "error"),
    Verdict.CONFLICT: ("fail", "warning"),
    Verdict.UNKNOWN: ("fail", "warning"),
    Verdict.NOT_OBSERVED: ("open", "none"),
    Verdict.SUPPORTED: ("pass", "none"),
}
_MEANINGS: Final = {
    "driver": "Alibaba's cGPU and the NVIDIA driver",
    "instance": "Alibaba's cGPU and the instance family",
    "toolkit": "Alibaba's cGPU and nvidia-container-toolkit",
    "kernel": "Alibaba's cGPU and the Linux kernel",
    "installer": "The component ack-ai-installer and the node's cGPU",
    "labels": "Labels that control how GPUs are shared",
    "isolation": "Isolation that a label turns on",
    "cgpu": "Alibaba's cGPU on the node",
    "cpu-manager": "The kubelet's CPU manager policy",
    "daemonsets": "DaemonSets that hand out GPUs",
    "two-cgpus": "Two systems that share the same GPU",
    "gpu": "NVIDIA GPUs on the node",
    "gpu-driver": "A GPU's driver",
}


def write_sarif(reports: Iterable[Report], totals: Totals) -> Iterator[str]:
    """The whole document, a node at a time."""
    index = {name: number for number, name in enumerate(totals.names)}
    driver = {
        "name": "cgpu doctor",
        "semanticVersion": _semantic(__version__),
        "rules": [{"id": name, "shortDescription": {"text": meaning(name, totals.dataset)}} for name in totals.names],
    }
    tool = json.dumps({"driver": driver})
    yield f'{{"$schema": {json.dumps(SCHEMA)}, "version": "2.1.0", "runs": [{{"tool": {tool},\n'
    yield f'"properties": {json.dumps({"data": about(totals.dataset)})}, "results": ['
    separator = "\n"
    for report in reports:
        for check in report.checks:
            yield separator + json.dumps(_result(check, report.node, index))
            separator = ",\n"
    yield "\n]}]}\n"


def meaning(name: str, dataset: Dataset) -> str:
    """What a check is about."""
    kind, _, rest = name.partition(":")
    if kind == "issue" and rest in dataset.issues:
        return dataset.issues[rest].title
    if kind == "ours":
        return f"This software and the node's {rest}"
    if kind == "requirement":
        return f"What a feature of Alibaba's cGPU needs: {rest}"
    return _MEANINGS.get(name, name) or "a check"


def _result(check: Check, node: str, index: Mapping[str, int]) -> dict[str, Any]:
    kind, level = _LEVELS[check.verdict]
    advice = f" {check.advice}." if check.advice else ""
    return {
        "ruleId": check.name,
        "ruleIndex": index[check.name],
        "kind": kind,
        "level": level,
        "message": {"text": f"{node}: {check.verdict.value}: {check.rule}.{advice}"},
        "locations": [{"logicalLocations": [{"name": node, "fullyQualifiedName": node, "kind": "resource"}]}],
        "partialFingerprints": {"check/v1": f"{node}/{check.name}"},
        "properties": {"verdict": check.verdict.value, "value": check.value, "source": check.source},
    }


def _semantic(version: str) -> str:
    """Without what Python's versions append."""
    return ".".join(version.partition("+")[0].split(".")[:3])

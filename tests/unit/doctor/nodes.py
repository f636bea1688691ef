"""Facts of nodes, written by hand."""

from __future__ import annotations

from typing import Any, Final

from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.facts import Fact, Facts
from cgpu.doctor.outcome import Report

# A node on which every check is made and nothing is wrong.
FINE: Final[dict[str, Any]] = {
    "node": "worker-1",
    "cgpu": "1.5.20",
    "driver": "570.86.15",
    "kernel": "5.10.134-16.3.al8.x86_64",
    "toolkit": "1.17.4-1",
    "instance": "ecs.gn7i-c8g1.2xlarge",
    "container_os": False,
    "modules": ["cgpu_procfs", "km"],
    "labels": {"ack.node.gpu.schedule": "cgpu"},
    "kubernetes": "v1.30.1-aliyun.1",
    "cpu_manager": "none",
    "pods_per_gpu": {"0": 3},
    "gpus": 1,
    "agent": False,
}


def facts_of(base: dict[str, Any] | None = None, **changes: Any) -> Facts:
    """Facts with these values; a change to None means that the fact is not observed."""
    values = {**({} if base is None else base), **changes}
    return Facts({name: Fact(value, "no such file" if value is None else "by hand") for name, value in values.items()})


def named(report: Report, name: str) -> Check:
    """The one check of that name."""
    (check,) = [check for check in report.checks if check.name == name]
    return check


def verdicts(report: Report) -> dict[str, Verdict]:
    """By name."""
    found = {check.name: check.verdict for check in report.checks}
    assert len(found) == len(report.checks), "a name stands twice"
    return found

"""Facts of a node tell which of the recognised causes apply to it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from cgpu.compat.dataset import shipped
from cgpu.doctor.explain import Confidence, recognise
from cgpu.doctor.facts import Fact, Facts
from cgpu.doctor.failures import Catalogue, catalogue
from cgpu.doctor.judge import Judged, judge
from tests.unit.doctor.messages import DOCUMENTED, HUNG

TIMEOUT = "CreateContainerError: context deadline exceeded"
TEXTS = {**dict(DOCUMENTED), "kernel-panic": HUNG, "create-timeout": TIMEOUT, "xid-79": "NVRM: Xid (0000:03:00): 79, x"}


@cache
def known() -> Catalogue:
    return catalogue(shipped())


def judged(failure: str, **values: Any) -> Judged:
    facts = Facts({name: Fact(value, "the test") for name, value in values.items()})
    (answer,) = judge(recognise(TEXTS[failure], known()), facts, shipped())
    assert answer.finding.id == failure
    return answer


@pytest.mark.parametrize(
    ("failure", "facts", "applies"),
    [
        ("kernel-panic", {"cgpu": "1.5.7"}, "yes"),
        ("kernel-panic", {"cgpu": "1.5.10"}, "no"),
        ("kernel-panic", {"cgpu": "1.5.9"}, "unknown"),
        ("kernel-panic", {}, "unknown"),
        ("kernel-panic", {"cgpu": "none"}, "no"),
        ("create-timeout", {"cgpu": "1.0.9", "toolkit": "1.13.5-1"}, "yes"),
        ("create-timeout", {"cgpu": "0.8.12", "toolkit": "1.13.5"}, "yes"),
        ("create-timeout", {"cgpu": "1.0.10", "toolkit": "1.13.5"}, "unknown"),
        ("create-timeout", {"cgpu": "1.5.7", "toolkit": "1.13.5"}, "no"),
        ("create-timeout", {"cgpu": "1.0.9", "toolkit": "1.10.0"}, "no"),
        ("create-timeout", {"cgpu": "1.0.9"}, "unknown"),
        ("container-os-hook", {"cgpu": "1.5.18", "container_os": True}, "yes"),
        ("container-os-hook", {"cgpu": "1.5.19", "container_os": True}, "no"),
        ("container-os-hook", {"cgpu": "1.5.18", "container_os": False}, "no"),
        ("container-os-hook", {"cgpu": "1.5.18"}, "unknown"),
        ("nvml-init", {"cgpu": "1.5.2", "driver": "535.129.03"}, "yes"),
        ("nvml-init", {"cgpu": "1.5.3", "driver": "535.129.03"}, "no"),
        ("nvml-init", {"cgpu": "1.5.2"}, "unknown"),
        ("pod-limit", {"pods_per_gpu": {"0": 21, "1": 3}}, "yes"),
        ("pod-limit", {"pods_per_gpu": {"0": 20}}, "yes"),
        ("pod-limit", {"pods_per_gpu": {"0": 19}}, "no"),
        ("pod-limit", {"cgpu": "none", "tenants_per_gpu": {"0": 20}}, "yes"),
        ("pod-limit", {}, "unknown"),
        ("modprobe", {"cgpu": "0.8.13", "kernel": "5.10.134"}, "yes"),
        ("modprobe", {"cgpu": "1.5.20", "kernel": "5.10.134"}, "unknown"),
        ("modprobe", {"cgpu": "none"}, "no"),
        ("modprobe", {"kernel": "5.10.134"}, "unknown"),
        ("xid-79", {"cgpu": "1.5.7"}, "unknown"),
    ],
)
def test_what_applies(failure: str, facts: dict[str, Any], applies: str):
    answer = judged(failure, **facts)
    assert (answer.applies, bool(answer.why)) == (applies, True)


@pytest.mark.parametrize(
    ("failure", "facts"),
    [("kernel-panic", {"cgpu": "1.5.7"}), ("create-timeout", {"cgpu": "1.0.5", "toolkit": "1.11"})],
)
def test_what_was_possible_is_certain_once_facts_confirm_it(failure: str, facts: dict[str, Any]):
    assert judged(failure).finding.confidence == Confidence.POSSIBLE
    assert judged(failure, **facts).finding.confidence == Confidence.CERTAIN


def test_what_facts_rule_out_stays_possible():
    assert judged("kernel-panic", cgpu="1.5.20").finding.confidence == Confidence.POSSIBLE


def test_the_facts_that_are_missing_are_named():
    assert "toolkit" in judged("create-timeout", cgpu="1.0.5").why
    assert "cgpu" in judged("kernel-panic").why
    assert "kernel" in judged("modprobe", cgpu="1.5.3").why
    assert "pods_per_gpu" in judged("pod-limit").why


def test_without_facts_everything_is_unknown_and_stays_as_it_is():
    findings = recognise("\n".join(TEXTS.values()), known())
    answers = judge(findings, None, shipped())
    assert {answer.applies for answer in answers} == {"unknown"}
    assert tuple(answer.finding for answer in answers) == findings

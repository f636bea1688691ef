"""What is checked on which node, and what it comes to."""

from __future__ import annotations

from typing import Any

import pytest

from cgpu.compat.dataset import shipped
from cgpu.compat.verdict import Verdict
from cgpu.doctor.checks import examine
from cgpu.doctor.facts import ABSENT
from cgpu.doctor.outcome import Exit, Report
from tests.unit.doctor.nodes import FINE, facts_of, named, verdicts

MATRICES = ("driver", "instance", "toolkit", "kernel")
UNSUPPORTED, CONFLICT, UNKNOWN = Verdict.UNSUPPORTED, Verdict.CONFLICT, Verdict.UNKNOWN
NOT_OBSERVED, SUPPORTED = Verdict.NOT_OBSERVED, Verdict.SUPPORTED


def examined(base: dict[str, Any] | None = None, *, ours: bool = False, **changes: Any) -> Report:
    return examine(shipped(), facts_of(base, **changes), ours=ours)


def test_a_node_on_which_everything_fits_is_fine():
    report = examined(FINE)
    assert {check.name: check for check in report.checks if check.verdict is not SUPPORTED} == {}
    assert {*MATRICES, "isolation", "labels", "cpu-manager", "gpu-driver", "issue:kernel-panic"} <= set(
        verdicts(report)
    )
    assert (report.node, report.verdict, report.exit_code) == ("worker-1", SUPPORTED, Exit.FINE)
    assert report.advice is not None
    assert not report.advice.needed


@pytest.mark.parametrize(
    ("changes", "name", "verdict", "exit_code"),
    [
        ({"cgpu": "1.5.7"}, "issue:kernel-panic", UNSUPPORTED, 2),
        ({"cgpu": "1.5.8"}, "issue:kernel-panic", CONFLICT, 1),
        ({"cgpu": "1.5.2", "driver": "535.129.03"}, "driver", UNSUPPORTED, 2),
        ({"cgpu": "1.5.18", "container_os": True}, "issue:container-os-hook", UNSUPPORTED, 2),
        ({"kernel": "6.1.0"}, "kernel", UNKNOWN, 1),
        ({"toolkit": "1.18.0"}, "toolkit", UNKNOWN, 1),
        ({"instance": "ecs.gn5-c4g1.xlarge"}, "instance", UNKNOWN, 1),
        ({"pods_per_gpu": {"0": 3, "1": 21}}, "issue:pod-limit", UNSUPPORTED, 2),
        ({"pods_per_gpu": {"0": 20}}, "issue:pod-limit", SUPPORTED, 0),
        ({"cpu_manager": "static"}, "cpu-manager", UNSUPPORTED, 2),
        ({"cgpu": "none", "modules": []}, "isolation", UNSUPPORTED, 2),
        ({"cgpu": None, "modules": []}, "isolation", UNSUPPORTED, 2),
        ({"cgpu": None, "modules": None}, "isolation", NOT_OBSERVED, 3),
        ({"gpus": 0}, "gpu", UNSUPPORTED, 2),
        ({"driver": "none"}, "gpu-driver", UNSUPPORTED, 2),
        ({"agent": True}, "two-cgpus", UNSUPPORTED, 2),
        (
            {"labels": {"ack.node.gpu.schedule": "core_mem"}, "kubernetes": "1.18.8"},
            "requirement:core-mem-kubernetes",
            UNSUPPORTED,
            2,
        ),
        ({"cgpu": "1.5.18", "installer": "1.12.6"}, "installer", None, None),
    ],
    ids=str,
)
def test_what_one_fact_changes(changes: dict[str, Any], name: str, verdict: Verdict | None, exit_code: int | None):
    report = examined(FINE, **changes)
    check = named(report, name)
    assert check.verdict is not SUPPORTED if verdict is None else check.verdict is verdict
    if exit_code is not None:
        assert report.exit_code == exit_code
    assert check.rule
    assert check.source
    assert check.verdict is SUPPORTED or check.advice or verdict in (None, CONFLICT, UNKNOWN, UNSUPPORTED)


def test_the_worst_stands_first():
    ranks = [check.verdict.rank for check in examined(FINE, cgpu="1.5.7", kernel="6.1.0", instance=None).checks]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 4


@pytest.mark.parametrize("missing", ["cgpu", "driver", "instance", "toolkit", "kernel"])
def test_a_matrix_that_lacks_a_fact_is_not_silently_fine(missing: str):
    report = examined({**FINE, missing: None})
    names = MATRICES if missing == "cgpu" else (missing,)
    for name in names:
        check = named(report, name)
        assert check.verdict is NOT_OBSERVED
        assert f"{missing}: no such file" in check.rule
        assert check.advice
    assert report.exit_code == Exit.NOT_CHECKED


def test_a_label_is_enough_to_ask_for_a_version():
    report = examined(labels={"cgpu": "true"})
    assert {*MATRICES, "isolation"} <= {name for name, verdict in verdicts(report).items() if verdict is NOT_OBSERVED}
    assert report.exit_code == Exit.NOT_CHECKED


def test_an_issue_that_is_fixed_or_ruled_out_needs_no_other_fact():
    fixed = verdicts(examined(FINE, container_os=None))
    assert fixed.get("issue:container-os-hook", SUPPORTED) is SUPPORTED
    ruled_out = verdicts(examined(FINE, cgpu=None, toolkit="1.10.0"))
    assert ruled_out.get("issue:create-timeout", SUPPORTED) is SUPPORTED
    open_ = verdicts(examined(FINE, cgpu="1.5.18", container_os=None))
    assert open_["issue:container-os-hook"] is NOT_OBSERVED


@pytest.mark.parametrize("fact", ["pods_per_gpu", "cpu_manager", "labels", "installer"])
def test_what_only_the_cluster_knows_does_not_make_a_node_unchecked(fact: str):
    assert examined({**FINE, fact: None}).exit_code == Exit.FINE


def test_a_node_without_cgpu_is_fine_and_told_so_in_one_check():
    report = examined(cgpu=ABSENT, driver="580.65.06", kernel="6.8.0-45-generic", gpus=2, modules=[])
    assert named(report, "cgpu").verdict is SUPPORTED
    assert not {*MATRICES, "isolation"} & set(verdicts(report))
    assert report.advice is None
    assert any(name.startswith("ours:") for name in verdicts(report))


def test_a_node_whose_labels_do_not_turn_isolation_on_is_fine():
    report = examined(labels={"ack.node.gpu.schedule": "default"}, gpus=1)
    assert named(report, "cgpu").verdict is SUPPORTED
    assert report.advice is None


def test_nothing_known_is_not_fine():
    report = examined()
    assert named(report, "cgpu").verdict is NOT_OBSERVED
    assert report.exit_code == Exit.NOT_CHECKED
    assert report.node == "this node"


def test_without_a_gpu_there_is_nothing_to_check():
    report = examined(gpus=0, cgpu=ABSENT, kernel="5.10.134", driver=ABSENT)
    assert named(report, "gpu").verdict is NOT_OBSERVED
    assert report.exit_code == Exit.NOT_CHECKED
    assert not any(name.startswith("ours:") for name in verdicts(report))


def test_ours_is_checked_where_asked_or_where_our_agent_is():
    assert not any(name.startswith("ours:") for name in verdicts(examined(FINE)))
    assert "ours:kernel" in verdicts(examined(FINE, ours=True))
    assert named(examined(FINE, ours=True), "ours:alibaba").verdict is UNSUPPORTED
    with_agent = examined(cgpu=ABSENT, agent=True, gpus=1)
    assert named(with_agent, "ours:driver").verdict is NOT_OBSERVED
    assert named(with_agent, "two-cgpus").verdict is SUPPORTED
    assert with_agent.exit_code == Exit.NOT_CHECKED


@pytest.mark.parametrize(
    ("labels", "verdict"),
    [
        ({"cgpu": "false", "ack.node.gpu.schedule": "cgpu"}, CONFLICT),
        ({"cgpu": "false", "ack.node.gpu.schedule": "core_mem"}, CONFLICT),
        ({"cgpu": "false", "ack.node.gpu.schedule": "default"}, SUPPORTED),
        ({"cgpu": "true", "ack.node.gpu.schedule": "default"}, CONFLICT),
        ({"cgpu": "true", "ack.node.gpu.schedule": "topology"}, CONFLICT),
        ({"cgpu": "true", "ack.node.gpu.schedule": "mig"}, CONFLICT),
        ({"cgpu": "true", "ack.node.gpu.schedule": "disabled"}, CONFLICT),
        ({"cgpu": "true", "ack.node.gpu.schedule": "share"}, CONFLICT),
        ({"cgpu": "true", "ack.node.gpu.schedule": "mps"}, SUPPORTED),
        ({"cgpu": "true", "ack.node.gpu.schedule": "cgpu"}, SUPPORTED),
        ({"gpushare": "true", "ack.node.gpu.schedule": "mig"}, CONFLICT),
        ({"cgpu.disable.isolation": "true", "cgpu": "true"}, CONFLICT),
        ({"cgpu.disable.isolation": "true", "ack.node.gpu.schedule": "core_mem"}, CONFLICT),
        ({"cgpu.disable.isolation": "true", "ack.node.gpu.schedule": "share"}, SUPPORTED),
        ({"cgpu.disable.isolation": "false", "cgpu": "true"}, SUPPORTED),
        ({"ack.node.gpu.schedule": "cGPU"}, UNKNOWN),
        ({"ack.node.gpu.schedule": "cgpu", "ack.node.gpu.placement": "pack"}, UNKNOWN),
        ({"ack.node.gpu.schedule": "cgpu", "ack.node.gpu.placement": "spread"}, SUPPORTED),
        ({"cgpu": "yes"}, UNKNOWN),
        ({"cgpu": "yes", "gpushare": "true", "ack.node.gpu.schedule": "mig"}, CONFLICT),
    ],
    ids=str,
)
def test_labels_that_contradict_each_other_or_mean_nothing(labels: dict[str, str], verdict: Verdict):
    check = named(examined(labels=labels), "labels")
    assert check.verdict is verdict
    assert bool(check.advice) == (verdict is not SUPPORTED)
    assert all(f"{name}={value}" in check.value for name, value in labels.items())


def test_labels_that_have_nothing_to_do_with_sharing_are_no_check():
    assert "labels" not in verdicts(examined(labels={"kubernetes.io/os": "linux"}))


@pytest.mark.parametrize(
    ("sets", "agent", "verdict"),
    [
        (["kube-system/cgpu-installer", "cgpu/cgpu-agent"], False, UNSUPPORTED),
        (["kube-system/gpushare-device-plugin-ds"], True, UNSUPPORTED),
        (["kube-system/cgpu-installer", "kube-system/gpushare-device-plugin-ds"], False, SUPPORTED),
        (["cgpu/cgpu-agent"], True, SUPPORTED),
        (["kube-system/kube-proxy"], True, None),
        ([], False, None),
    ],
    ids=str,
)
def test_daemonsets_of_two_kinds_on_one_node_are_a_finding(sets: list[str], agent: bool, verdict: Verdict | None):
    assert verdicts(examined(FINE, daemonsets=sets, agent=agent)).get("daemonsets") is verdict


def test_the_json_of_a_report_is_complete():
    document = examined(FINE, cgpu="1.5.7").as_json()
    assert (document["node"], document["verdict"], document["exit_code"]) == ("worker-1", "unsupported", 2)
    assert document["data"]["date"] == shipped().date.isoformat()
    assert document["facts"]["cgpu"] == {"value": "1.5.7", "how": "by hand"}
    assert document["checks"][0]["verdict"] == "unsupported"
    assert document["advice"]["changes"][0]["fact"] == "cgpu"

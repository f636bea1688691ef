"""Known issues: their bounds, their conditions, and what they say where the source is at odds with itself."""

from __future__ import annotations

from typing import Any

import pytest

from cgpu.compat.alibaba import check, not_checked
from cgpu.compat.dataset import shipped
from cgpu.compat.verdict import Check, Verdict, worst

S, U, X, C = Verdict.SUPPORTED, Verdict.UNSUPPORTED, Verdict.UNKNOWN, Verdict.CONFLICT
FITTING = {"driver": "535.129.03", "kernel": "5.10.134", "toolkit": "1.13.5", "instance": "ecs.gn7i-c8g1.2xlarge"}


def checks(**given: Any) -> dict[str, Check]:
    return {one.name: one for one in check(shipped(), given)}


def issue(name: str, **given: Any) -> Verdict:
    return checks(**given)[f"issue:{name}"].verdict


@pytest.mark.parametrize(
    ("cgpu", "expected"),
    [("0.8.9", U), ("1.5.6", U), ("1.5.7", U), ("1.5.8", C), ("1.5.9", C), ("1.5.10", S), ("1.5.20", S), ("2.0", S)],
)
def test_the_kernel_panic(cgpu: str, expected: Verdict):
    assert issue("kernel-panic", cgpu=cgpu) is expected


def test_a_version_that_passes_all_four_matrices_still_panics():
    found = checks(cgpu="1.5.7", **FITTING)
    assert [found[table].verdict for table in ("driver", "instance", "toolkit", "kernel")] == [S] * 4
    assert found["issue:kernel-panic"].verdict is U
    assert worst(found.values()) is U
    assert next(iter(found)) == "issue:kernel-panic"


@pytest.mark.parametrize(("cgpu", "expected"), [("1.5.7", U), ("1.5.18", U), ("1.5.19", S), ("1.5.20", S)])
def test_the_hook_on_the_container_optimized_os(cgpu: str, expected: Verdict):
    assert issue("container-os-hook", cgpu=cgpu, container_os=True) is expected
    assert issue("container-os-hook", cgpu=cgpu, container_os=False) is S


@pytest.mark.parametrize(
    ("cgpu", "toolkit", "expected"),
    [
        ("1.0.9", "1.11.0", U), ("1.0.9", "1.10.5", S), ("1.0.10", "1.18.0", U), ("1.0.10", "1.13.5", C),
        ("1.0.11", "1.13.5", S), ("0.8.1", "1.11", U),
    ],
)  # fmt: skip
def test_the_timeout_at_creation(cgpu: str, toolkit: str, expected: Verdict):
    assert issue("create-timeout", cgpu=cgpu, toolkit=toolkit) is expected


@pytest.mark.parametrize(
    ("cgpu", "driver", "expected"),
    [
        ("1.5.2", "535.104.05", U), ("1.5.3", "535.104.05", S),
        # June 2023: before the date of the rule, beyond the limits of the table all the same.
        ("1.5.2", "470.199.02", S), ("1.5.2", "525.125.06", S), ("1.5.2", "535.54.03", S),
        ("1.5.2", "470.223.02", U), ("1.5.2", "550.1.1", U), ("0.8.1", "570.86.15", U),
        ("1.5.2", "535.99.99", X), ("1.5.2", "470.210.01", X),
    ],
)  # fmt: skip
def test_nvml_by_the_drivers_release_date(cgpu: str, driver: str, expected: Verdict):
    assert issue("nvml-init", cgpu=cgpu, driver=driver) is expected


def test_a_driver_beyond_the_limit_is_unsupported_whatever_its_date():
    assert checks(cgpu="1.5.2", driver="470.199.02")["driver"].verdict is U


def test_a_known_issue_decides_where_no_row_speaks():
    found = checks(cgpu="1.0.4", driver="535.129.03")
    assert found["driver"].verdict is U
    assert "no row names cGPU 1.0.4" in found["driver"].rule
    assert "nvml-init" in found["driver"].rule


@pytest.mark.parametrize(("most", "expected"), [(0, S), (19, S), (20, S), (21, U), (1000, U)])
def test_pods_per_gpu(most: int, expected: Verdict):
    assert issue("pod-limit", pods_per_gpu={"0": 3, "1": most}) is (expected if most > 2 else S)


def test_what_is_not_given_is_not_checked_and_said():
    assert [name for name in checks(cgpu="1.0.9") if name != "issue:kernel-panic"] == []
    assert not_checked(shipped(), {"cgpu": "1.0.9"}) == {
        "driver": "driver",
        "instance": "instance",
        "toolkit": "toolkit",
        "kernel": "kernel",
        "issue:container-os-hook": "container_os",
        "issue:create-timeout": "toolkit",
        "issue:nvml-init": "driver",
        "issue:pod-limit": "pods_per_gpu",
    }


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("requirement:core-mem-cgpu", {"cgpu": "1.0.4"}, U),
        ("requirement:core-mem-cgpu", {"cgpu": "1.0.5"}, S),
        ("requirement:core-mem-kubernetes", {"kubernetes": "v1.19.9-aliyun.1"}, U),
        ("requirement:core-mem-kubernetes", {"kubernetes": "1.20.0"}, S),
        ("requirement:core-mem-installer", {"installer": "1.2.0"}, U),
        ("requirement:core-mem-installer", {"installer": "1.2.1"}, S),
    ],
)
def test_what_isolation_of_computing_power_needs(name: str, given: dict[str, Any], expected: Verdict):
    labels = {"ack.node.gpu.schedule": "core_mem"}
    assert checks(labels=labels, **given)[name].verdict is expected
    assert name not in checks(labels={"ack.node.gpu.schedule": "cgpu"}, **given)


def test_the_oldest_driver_and_docker():
    assert checks(driver="418.67")["requirement:minimum-driver"].verdict is U
    assert "requirement:minimum-driver" not in checks(driver="418.87.01")
    assert checks(docker="19.03.4")["requirement:minimum-docker"].verdict is U


def test_a_component_that_is_ahead_of_its_node_is_a_contradiction():
    assert checks(cgpu="1.5.18", installer="1.12.6")["installer"].verdict is C
    assert checks(cgpu="1.5.19", installer="1.12.6")["installer"].verdict is S
    assert checks(cgpu="1.5.7", installer="1.2.1")["installer"].verdict is S
    assert "installer" not in checks(cgpu="1.5.7", installer="1.1.0")


def test_what_is_absent_is_not_judged():
    assert checks(cgpu="none", driver="535.129.03", toolkit=None) == {}

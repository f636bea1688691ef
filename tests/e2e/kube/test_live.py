"""Shares and policies are changed while pods compute: at or below what their claims have."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from cgpu.model.units import GIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import AGENT_NAMESPACE, Installation, pod, template
from tests.e2e.kube.test_failures import COMPUTE, NODE, answers, busy_ns, kill_agent, kill_kubelet


def the_tenant(installation: Installation) -> dict[str, Any]:
    (tenant,) = installation.tenants(NODE)
    return tenant


def amounts(installation: Installation) -> tuple[int, int | None, int | None]:
    (share,) = the_tenant(installation)["shares"]
    return share["memory_bytes"], share["compute_percent"], share["compute_limit_percent"]


def change(installation: Installation, *amounts: str) -> None:
    installation.cgpu(NODE, "set", the_tenant(installation)["name"], *amounts)


def refusal(installation: Installation, *amounts: str) -> str:
    """Of a change that is refused."""
    agent = f"--namespace={AGENT_NAMESPACE}", installation.agent_pod(NODE), "-c=agent"
    command = "python3", "-m", "cgpu", "set", the_tenant(installation)["name"], *amounts
    return installation.cluster.control_plane.refused("exec", *agent, "--", *command)


def seen_total(installation: Installation) -> int:
    """What a program in the pod sees of its card."""
    return int(json.loads(installation.kubectl("exec", "live", "--", "/client/quota"))["total"])


def compute_on(installation: Installation, before: dict[str, int]) -> bool:
    """Whether all tenants have had more time than that."""
    return all(now > before[name] for name, now in busy_ns(installation).items())


@pytest.mark.timeout(900)
def test_a_share_is_changed_while_its_pod_computes(installation: Installation):
    installation.apply(template("live", "4Gi", "40"), pod("live", "live", *COMPUTE, node=NODE))
    installation.wait_for("live", "Running")
    eventually(lambda: all(busy_ns(installation).values()), "it computes")
    assert amounts(installation) == (4 * GIB, 40, 40)

    change(installation, "--memory", "2GiB", "--compute", "20", "--compute-limit", "30")
    assert amounts(installation) == (2 * GIB, 20, 30)
    assert seen_total(installation) == 2 * GIB
    for disturb in (kill_agent, kill_kubelet):
        disturb(installation)
        eventually(lambda: answers(installation), "the agent answers again")
        assert amounts(installation) == (2 * GIB, 20, 30)

    for words, *more in (
        ("5GiB of memory on GPU", "--memory", "5GiB"),
        ("50 % of compute", "--compute", "50", "--compute-limit", "50"),
        ("no limit of compute", "--compute-limit", "none"),
        ("weight 3", "--weight", "3"),
        ("priority 1", "--priority", "1"),
    ):
        said = refusal(installation, *more)
        assert words in said
        assert f"more than the claim {the_tenant(installation)['name']} has there" in said
        assert "make the pod anew with a claim that asks for it" in said

    change(installation, "--memory", "4GiB", "--compute", "40", "--compute-limit", "40")
    assert seen_total(installation) == 4 * GIB
    eventually(partial(compute_on, installation, busy_ns(installation)), "it computes on")
    assert installation.phase("live") == "Running"


@pytest.mark.timeout(900)
def test_a_policy_is_changed_while_pods_compute(installation: Installation):
    installation.apply(template("live-part", "2Gi", "30"))
    installation.apply(*(pod(f"part-{number}", "live-part", *COMPUTE, node=NODE) for number in range(2)))
    for number in range(2):
        installation.wait_for(f"part-{number}", "Running")
    try:
        for policy in ("fixed", "fair", "preemptive"):
            installation.cgpu(NODE, "policy", policy)
            eventually(partial(compute_on, installation, busy_ns(installation)), f"both compute under {policy}")
        assert all(installation.phase(f"part-{number}") == "Running" for number in range(2))
    finally:
        installation.cgpu(NODE, "policy", "soft")

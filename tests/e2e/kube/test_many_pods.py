"""200 pods on four cards, which have room for 80 at a time: all run to the end, and nothing is given away twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cgpu.k8s.quantity import parse_quantity
from cgpu.model.units import GIB, MIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import Installation, pod, template
from tests.e2e.kube.test_ack import ack_pod

EACH = 100
TENANTS_MAX = 20
FULL_S = 250.0
DONE_S = 350.0  # on two idle processors both take a fourth of that
SMALL_MIB = 384
ACK_AT_ONCE = 40
"""Some card then has at most ten of them, which leaves memory for ten small ones: that card fills up."""


def job(name: str, made: dict[str, Any], at_once: int, gate: Path) -> dict[str, Any]:
    """One pod that fails fails the job. Its pods see the gate's folder."""
    spec = {**made["spec"], "volumes": [{"name": "gate", "hostPath": {"path": str(gate), "type": "Directory"}}]}
    spec["containers"][0]["volumeMounts"] = [{"name": "gate", "mountPath": "/gate", "readOnly": True}]
    of_job = {"parallelism": at_once, "completions": EACH, "backoffLimit": 0, "template": {"spec": spec}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": of_job}


def command(total_bytes: int) -> tuple[str, ...]:
    """Fails unless the container has that quota; stays until the gate is open, so that others have to wait."""
    seen = f"/client/quota | grep -q '\"total\": {total_bytes},'"
    return "sh", "-c", f"{seen} && until [ -e /gate/open ]; do sleep 1; done"


@pytest.fixture
def gate(installation: Installation, tmp_path: Path) -> Iterator[Path]:
    """Of all pods, half of which are ACK's and half have claims: they end when its folder has a file ``open``."""
    installation.apply(
        template("small", f"{SMALL_MIB}Mi"),
        job("claims", pod("x", "small", *command(SMALL_MIB * MIB)), EACH, tmp_path),
        job("ack", ack_pod("x", *command(GIB), mem="1", core="5"), ACK_AT_ONCE, tmp_path),
    )
    yield tmp_path
    installation.delete("job", "claims", "ack")


def given(installation: Installation) -> dict[tuple[str, str], Counter[str]]:
    """What claims have of each card, by node and device."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for claim in installation.get("resourceclaims", "default"):
        for row in claim["status"].get("allocation", {}).get("devices", {}).get("results", ()):
            amounts = {
                name.rpartition("/")[2]: parse_quantity(value) for name, value in row["consumedCapacity"].items()
            }
            found.setdefault((row["pool"], row["device"]), Counter()).update(amounts)
    return found


def capacities(installation: Installation) -> dict[tuple[str, str], dict[str, int]]:
    return {
        (worker.name, device["name"]): {name: parse_quantity(row["value"]) for name, row in device["capacity"].items()}
        for worker in installation.cluster.workers
        for device in installation.devices(worker.name)
    }


def done(installation: Installation) -> int:
    statuses = [item.get("status", {}) for item in installation.get("jobs", "default")]
    assert not sum(status.get("failed", 0) for status in statuses)
    return sum(status.get("succeeded", 0) for status in statuses)


@pytest.mark.timeout(700)
def test_two_hundred_pods_run_to_the_end_and_no_card_is_given_away_twice(installation: Installation, gate: Path):
    room = capacities(installation)
    most: Counter[tuple[str, str]] = Counter()

    def look() -> None:
        for card, amounts in given(installation).items():
            assert all(amount <= room[card][name] for name, amount in amounts.items()), (card, amounts)
            most[card] = max(most[card], amounts["shares"])

    def is_full() -> bool:
        look()
        return len(most) == len(room) and max(most.values()) == TENANTS_MAX

    def are_all_done() -> bool:
        look()
        return done(installation) == 2 * EACH

    eventually(is_full, "every card has somebody, and one is full", FULL_S)
    for worker in installation.cluster.workers:
        tenants = Counter(share["gpu_uuid"] for row in installation.tenants(worker.name) for share in row["shares"])
        assert all(count <= TENANTS_MAX for count in tenants.values())
    (gate / "open").touch()
    eventually(are_all_done, "all have run", DONE_S)

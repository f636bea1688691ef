"""200 pods on four cards, which have room for 80 at a time: all run to the end, and nothing is given away twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from cgpu.k8s.quantity import parse_quantity
from cgpu.model.units import GIB, MIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import Installation, pod, template
from tests.e2e.kube.test_ack import ack_pod

EACH = 100
TENANTS_MAX = 20
DONE_S = 500.0  # on two idle processors it takes a fourth of that
SMALL_MIB = 384


def job(name: str, made: dict[str, Any]) -> dict[str, Any]:
    """All its pods at once; one that fails fails the job."""
    spec = {"parallelism": EACH, "completions": EACH, "backoffLimit": 0, "template": {"spec": made["spec"]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def command(total_bytes: int) -> tuple[str, ...]:
    """Fails unless the container has that quota; stays for a while, so that others have to wait."""
    return "sh", "-c", f"/client/quota | grep -q '\"total\": {total_bytes},' && sleep 10"


@pytest.fixture
def jobs(installation: Installation) -> Iterator[None]:
    """Half of the pods are ACK's, half have claims."""
    installation.apply(
        template("small", f"{SMALL_MIB}Mi"),
        job("claims", pod("x", "small", *command(SMALL_MIB * MIB))),
        job("ack", ack_pod("x", *command(GIB), mem="1", core="5")),
    )
    yield
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
@pytest.mark.usefixtures("jobs")
def test_two_hundred_pods_run_to_the_end_and_no_card_is_given_away_twice(installation: Installation):
    room = capacities(installation)
    most: Counter[tuple[str, str]] = Counter()

    def look() -> bool:
        for card, amounts in given(installation).items():
            assert all(amount <= room[card][name] for name, amount in amounts.items()), (card, amounts)
            most[card] = max(most[card], amounts["shares"])
        return done(installation) == 2 * EACH

    eventually(lambda: len(given(installation)) == len(room), "every card has somebody")
    for worker in installation.cluster.workers:
        tenants = Counter(share["gpu_uuid"] for row in installation.tenants(worker.name) for share in row["shares"])
        assert all(count <= TENANTS_MAX for count in tenants.values())
    eventually(look, "all have run", DONE_S)
    assert max(most.values()) == TENANTS_MAX

"""Cards that fail: nobody new comes to them, pods are told or moved, and all is as before once they are well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.e2e.host import eventually
from tests.e2e.kube.installation import Installation, pod, template

NODE: Final = "node-b"
SLEEP: Final = ("sleep", "3600")
TAINT: Final = "gpu.cgpu.dev/unhealthy"


def fault(installation: Installation, name: str, value: int, card: int) -> None:
    """On a card of the node; its Xids count until it was lost and is back."""
    installation.cgpu(NODE, "sim", "fault", name, str(value), f"--card={card}")


@contextmanager
def reset_afterwards(installation: Installation, card: int) -> Iterator[None]:
    """Whatever happens to the card meanwhile."""
    try:
        yield
    finally:
        fault(installation, "lost", 1, card)
        eventually(lambda: taints(installation, card) == [("lost", "NoExecute")], "the card is known to be lost")
        fault(installation, "lost", 0, card)
        eventually(lambda: not taints(installation, card), "the card is well")


def device(installation: Installation, card: int) -> dict[str, Any]:
    return next(one for one in installation.devices(NODE) if one["attributes"]["index"]["int"] == card)


def taints(installation: Installation, card: int) -> list[tuple[str, str]]:
    rows = device(installation, card).get("taints", [])
    assert {row["key"] for row in rows} <= {TAINT}
    return [(row["value"], row["effect"]) for row in rows]


def card_of(installation: Installation, name: str) -> int:
    """The card that a pod has."""
    (row,) = [row for row in installation.tenants(NODE) if row["name"].startswith(f"default/{name}-")]
    index: int = row["shares"][0]["gpu_index"]
    return index


def health(installation: Installation, name: str) -> list[tuple[str, str]]:
    """What the pod's status says of its devices."""
    (status,) = json.loads(installation.kubectl("get", "pod", name, "-o=json"))["status"]["containerStatuses"]
    rows = [row for one in status.get("allocatedResourcesStatus", ()) for row in one.get("resources", ())]
    return [(row["health"], row.get("message", "")) for row in rows]


def test_a_card_with_a_critical_xid_keeps_its_pods_and_gets_no_others(installation: Installation):
    installation.apply(template("one", "1Gi"), pod("there", "one", *SLEEP, node=NODE))
    installation.wait_for("there", "Running")
    card = card_of(installation, "there")
    eventually(lambda: [state for state, _ in health(installation, "there")] == ["Healthy"], "its card is well")
    with reset_afterwards(installation, card):
        fault(installation, "xid", 31, card)  # a program's own
        fault(installation, "xid", 48, card)
        eventually(lambda: taints(installation, card) == [("xid-48", "NoSchedule")], "the card is tainted")
        eventually(lambda: [state for state, _ in health(installation, "there")] == ["Unhealthy"], "the pod says so")
        assert installation.phase("there") == "Running"
        installation.apply(pod("next", "one", *SLEEP, node=NODE))
        installation.wait_for("next", "Running")
        assert card_of(installation, "next") == 1 - card
        installation.delete("pod", "there")


def test_the_pods_of_a_lost_card_are_evicted(installation: Installation):
    installation.apply(template("one", "1Gi"), pod("there", "one", *SLEEP, node=NODE))
    installation.wait_for("there", "Running")
    card = card_of(installation, "there")
    with reset_afterwards(installation, card):
        fault(installation, "lost", 1, card)
        eventually(lambda: taints(installation, card) == [("lost", "NoExecute")], "the card is tainted")
        gone = "{.items[?(@.metadata.name=='there')].metadata.name}"
        eventually(lambda: not installation.kubectl("get", "pods", f"-o=jsonpath={gone}"), "the pod is evicted")
        installation.apply(pod("next", "one", *SLEEP, node=NODE))
        installation.wait_for("next", "Running")
        assert card_of(installation, "next") == 1 - card

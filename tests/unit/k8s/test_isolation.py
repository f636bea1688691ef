from __future__ import annotations

import pytest

from cgpu.k8s.isolation import Isolation, Placement, Sharing, sharing_of

SCHEDULE, PLACEMENT = "ack.node.gpu.schedule", "ack.node.gpu.placement"


@pytest.mark.parametrize(
    ("labels", "isolation"),
    [
        ({SCHEDULE: "cgpu"}, Isolation.MEMORY),
        ({"cgpu": "true"}, Isolation.MEMORY),
        ({SCHEDULE: "core_mem"}, Isolation.MEMORY_AND_COMPUTE),
        ({SCHEDULE: "share"}, Isolation.NONE),
        ({SCHEDULE: "core_mem", "cgpu": "true"}, Isolation.MEMORY_AND_COMPUTE),
        ({"cgpu": "true", "cgpu.disable.isolation": "true"}, Isolation.NONE),
    ],
)
def test_labels_mean_what_they_mean_on_ack(labels: dict[str, str], isolation: Isolation):
    assert sharing_of(labels) == Sharing(isolation, Placement.BINPACK)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"cgpu": "false"},
        {"cgpu": "True"},
        {"gpushare": "true"},
        *({SCHEDULE: value} for value in ("default", "topology", "mig", "mps", "disabled", "exclusive", "")),
        {SCHEDULE: "default", "cgpu": "true"},
    ],
)
def test_other_nodes_are_left_alone(labels: dict[str, str]):
    assert sharing_of(labels) is None


def test_placement():
    assert sharing_of({SCHEDULE: "cgpu", PLACEMENT: "spread"}) == Sharing(Isolation.MEMORY, Placement.SPREAD)
    assert sharing_of({SCHEDULE: "cgpu", PLACEMENT: "other"}) == Sharing(Isolation.MEMORY, Placement.BINPACK)

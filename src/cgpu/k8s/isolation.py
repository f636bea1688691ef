"""What a node's labels say about how its GPUs are shared. Pure.

The labels are ACK's: `ack.node.gpu.schedule`, the older `cgpu`, and `ack.node.gpu.placement`
(Alibaba Cloud Container Service for Kubernetes, "labels for GPU scheduling").
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cgpu.doctor.labels import CGPU, DISABLED, PLACEMENT, SCHEDULE


class Isolation(enum.StrEnum):
    """What is kept from neighbours on the cards of a node."""

    MEMORY = "memory"
    MEMORY_AND_COMPUTE = "memory-and-compute"
    NONE = "none"  # cards are shared, nothing is enforced


class Placement(enum.StrEnum):
    """Which card of a node is tried first."""

    BINPACK = "binpack"  # always the same, until it is full
    SPREAD = "spread"  # the emptiest


_SCHEDULES: Final = {
    "cgpu": Isolation.MEMORY,
    "core_mem": Isolation.MEMORY_AND_COMPUTE,
    "share": Isolation.NONE,
}


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a node's cards are to be shared."""

    isolation: Isolation
    placement: Placement


def sharing_of(labels: Mapping[str, str]) -> Sharing | None:
    """What the labels of a Node ask for; None: the node is left alone.

    ``ack.node.gpu.schedule`` decides where it is set, whatever the older ``cgpu`` says;
    ``cgpu.disable.isolation=true`` turns the older label's isolation off, as on ACK.
    """
    schedule = labels.get(SCHEDULE)
    if schedule is None and labels.get(CGPU) == "true":
        isolation: Isolation | None = Isolation.NONE if labels.get(DISABLED) == "true" else Isolation.MEMORY
    else:
        isolation = _SCHEDULES.get(schedule or "")
    if isolation is None:
        return None
    spread = labels.get(PLACEMENT) == Placement.SPREAD
    return Sharing(isolation, Placement.SPREAD if spread else Placement.BINPACK)

"""Whether a card can take tenants: what the driver says of it and which Xids it has told. Pure.

Xids: NVIDIA, "Xid Errors" and its "Xid Catalog" (https://docs.nvidia.com/deploy/xid-errors/). The recovery
action: NVML's field NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, which older drivers do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NO_RECOVERY: Final = 0
"""The driver's recovery action where nothing need be done."""

FALLEN_OFF_THE_BUS: Final = 79

HARMLESS_XIDS: Final = frozenset({8, 11, 13, 31, 32, 41, 43, 45, 63, 68, 69, 94, 109, 154})
"""After which the card itself goes on. Most are one program's doing, or end one program: what NVIDIA's catalog
advises is to start it again. 63 tells of memory that was taken out of use, 154 of a new recovery action, which is
read by itself."""

_ACTIONS: Final = {
    1: "gpu-reset",
    2: "node-reboot",
    3: "drain-p2p",
    4: "drain-and-reset",
    6: "bus-reset",
    7: "system-reboot",
}


@dataclass(frozen=True, slots=True)
class CardLook:
    """What the driver said of a card when it was asked."""

    lost: bool = False  # it cannot be reached any more
    failure: str = ""  # the driver's words, where it could not answer for another reason
    recovery: int | None = None  # the action that it asks for; None: it does not tell

    @property
    def answers(self) -> bool:
        """Whether the card did."""
        return not self.lost and not self.failure


@dataclass(frozen=True, slots=True)
class Ailment:
    """Why a card takes nobody new."""

    name: str  # as a label's value may be
    message: str
    lost: bool = False  # who is there cannot go on either


def counting_xids(xids: tuple[int, ...], before: CardLook, look: CardLook) -> tuple[int, ...]:
    """Those of a card's Xids that still count after a look.

    None where the driver says that nothing need be done, or the card was lost and is back, and so was reset.
    Otherwise only a reset of the card takes them away, which needs all programs off it, the agent too.
    """
    is_back = before.lost and look.answers
    return () if is_back or (look.answers and look.recovery == NO_RECOVERY) else xids


def with_xid(xids: tuple[int, ...], xid: int) -> tuple[int, ...]:
    """The Xids that count for a card, now that it has told this one."""
    return xids if xid in HARMLESS_XIDS or xid in xids else (*xids, xid)


def ailment_of(look: CardLook, xids: tuple[int, ...]) -> Ailment | None:
    """What is wrong with a card; None: nothing."""
    if look.lost or FALLEN_OFF_THE_BUS in xids:
        return Ailment("lost", "the GPU is lost: the driver cannot reach it any more; reboot the node", lost=True)
    if look.failure:
        return Ailment("no-answer", f"the driver does not answer for the GPU: {look.failure}")
    if look.recovery not in (None, NO_RECOVERY):
        action = _ACTIONS.get(look.recovery, f"action-{look.recovery}")
        return Ailment(action, f"the driver asks for recovery of the GPU: {action.replace('-', ' ')}")
    if xids:
        numbers = ", ".join(str(xid) for xid in xids)
        return Ailment(f"xid-{xids[0]}", f"the GPU had Xid {numbers}; `cgpu explain` says what that means")
    return None

"""The packed words of the region: pure packing and the rule of an operation in flight.

    account = used units:36 | slot:10 | seq:18
    charge  = units:37      | seq:27
    intent  = delta units, two's complement:37 | seq:27

``region.h`` has the protocol. A reader that sees an account whose operation is not completed in
the slot's charge yet adds the intent's delta: the operation has happened when account named it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cgpu.region.layout import CGPU_ACCOUNT_SEQ_BITS, CGPU_ACCOUNT_SLOT_BITS, CGPU_CHARGE_SEQ_BITS, CGPU_UNIT_BYTES

_ACCOUNT_SEQ: Final = (1 << CGPU_ACCOUNT_SEQ_BITS) - 1
_ACCOUNT_SLOT: Final = (1 << CGPU_ACCOUNT_SLOT_BITS) - 1
_CHARGE_SEQ: Final = (1 << CGPU_CHARGE_SEQ_BITS) - 1
_DELTA_BITS: Final = 64 - CGPU_CHARGE_SEQ_BITS
_WORD: Final = (1 << 64) - 1


class Account(NamedTuple):
    """What a tenant has charged on a GPU, and the last operation."""

    used_units: int
    slot: int
    seq: int

    @property
    def used_bytes(self) -> int:
        """Bytes charged, overhead not included."""
        return self.used_units * CGPU_UNIT_BYTES

    @classmethod
    def unpack(cls, word: int) -> Account:
        """From the 64-bit word."""
        return cls(
            word >> (CGPU_ACCOUNT_SEQ_BITS + CGPU_ACCOUNT_SLOT_BITS),
            word >> CGPU_ACCOUNT_SEQ_BITS & _ACCOUNT_SLOT,
            word & _ACCOUNT_SEQ,
        )

    def pack(self) -> int:
        """The 64-bit word."""
        return (
            (self.used_units << CGPU_ACCOUNT_SLOT_BITS | self.slot) << CGPU_ACCOUNT_SEQ_BITS | (self.seq & _ACCOUNT_SEQ)
        ) & _WORD


class Charge(NamedTuple):
    """What one process has charged on a GPU, or (as an intent) is about to add to it."""

    units: int
    seq: int

    @classmethod
    def unpack(cls, word: int) -> Charge:
        """From a charge word."""
        return cls(word >> CGPU_CHARGE_SEQ_BITS, word & _CHARGE_SEQ)

    @classmethod
    def unpack_intent(cls, word: int) -> Charge:
        """From an intent word, whose units are signed."""
        units, seq = word >> CGPU_CHARGE_SEQ_BITS, word & _CHARGE_SEQ
        if units >> (_DELTA_BITS - 1):
            units -= 1 << _DELTA_BITS
        return cls(units, seq)

    def pack(self) -> int:
        """The 64-bit word, of a charge or an intent."""
        return (self.units << CGPU_CHARGE_SEQ_BITS | (self.seq & _CHARGE_SEQ)) & _WORD


def effective_units(account: Account, slot: int, charge: Charge, intent: Charge) -> int:
    """The slot's charge in units, with the operation that account names although nobody completed it yet."""
    following = (charge.seq + 1) & _CHARGE_SEQ
    pending = account.slot == slot and intent.seq == following and account.seq == following & _ACCOUNT_SEQ
    return charge.units + intent.units if pending else charge.units

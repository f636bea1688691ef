"""How much memory ``3 of 14`` is: cGPU gives a container its part of the card, not that many GiB."""

from __future__ import annotations

from dataclasses import dataclass

from cgpu.errors import RefusedError
from cgpu.model.units import MIB


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a card, in cGPU's words."""

    units: int  # ALIYUN_COM_GPU_MEM_CONTAINER, 1 or more
    of_units: int | None  # ALIYUN_COM_GPU_MEM_DEV; None: as many whole units as the card has
    unit_bytes: int  # GiB or MiB

    def bytes_of(self, total_bytes: int) -> int:
        """The quota on a card: whole MiB, rounded down, as cGPU shows it.

        On a card of 15079 MiB, which has 14 whole GiB, 3 GiB are 3231 MiB. Raises RefusedError when it is
        more than the card, or less than a MiB.
        """
        total_mib = total_bytes // MIB
        units = self.of_units if self.of_units is not None else total_bytes // self.unit_bytes
        if self.units > units:
            raise RefusedError(f"{self.units} of {units} units of memory are more than the whole card")
        part_mib = total_mib * self.units // units
        if part_mib == 0:
            raise RefusedError(f"{self.units} of {units} units of memory are less than 1 MiB of this card")
        return part_mib * MIB

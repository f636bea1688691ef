"""A tenant's region as the agent that serves it has it open."""

from __future__ import annotations

from dataclasses import dataclass

from cgpu.errors import RegionError
from cgpu.region.reader import RegionReader
from cgpu.region.writer import GrantsWriter


@dataclass(slots=True)
class Live:
    """A tenant's region, open in this agent."""

    reader: RegionReader
    writer: GrantsWriter

    def close(self) -> None:
        """Release the files."""
        self.reader.close()
        self.writer.close()

    def has_slot(self) -> bool:
        """Whether a living process is registered in it; no more can be told of one that its tenant has damaged."""
        try:
            return any(slot.alive for slot in self.reader.usage(0).slots)
        except RegionError:
            return False

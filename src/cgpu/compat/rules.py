"""What a cell of a table says: series, limits and ranges of versions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cgpu.compat.versions import Version

_NUMBER: Final = r"[0-9]{1,4}(?:\.[0-9]{1,6}){0,3}"
_FORM: Final = re.compile(
    rf"(?P<series>[0-9]{{1,4}})(?:<=(?P<limit>{_NUMBER}))?"
    rf"|(?P<relation><=|>=|<|>)(?P<bound>{_NUMBER})"
    rf"|(?P<low>{_NUMBER})-(?P<high>{_NUMBER})"
)
_RELATIONS: Final = {"<=": (-1, 0), ">=": (0, 1), "<": (-1,), ">": (1,)}


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a cell.

    ``535`` is a series: every version that begins with it. ``470<=470.161.03`` is a series up to a
    limit, itself included. ``<=1.10``, ``>1.5.18`` and ``1.11-1.17`` are ranges, ends included. A
    version counts as far as the bound is written: 1.10.4 is within ``<=1.10``.
    """

    text: str
    low: Version | None = None
    high: Version | None = None
    relation: str = ""
    series: int | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises ValueError for anything else than the forms above."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"not a rule: {text!r}; write 535, 470<=470.161.03, <=1.10, >=1.11 or 1.11-1.17")
        if match["relation"]:
            return cls(text, low=Version.of(match["bound"]), relation=match["relation"])
        if match["low"]:
            return cls(text, low=Version.of(match["low"]), high=Version.of(match["high"]))
        limit = Version.of(match["limit"]) if match["limit"] else None
        return cls(text, high=limit, series=int(match["series"]))

    def names(self, version: Version) -> bool:
        """Whether the rule speaks about the version: of a series, the part beyond its limit too."""
        return version.numbers[0] == self.series if self.series is not None else self.holds(version)

    def holds(self, version: Version) -> bool:
        """Whether the version is within."""
        if self.series is not None:
            return version.numbers[0] == self.series and (self.high is None or version.compare(self.high) <= 0)
        if self.relation:
            assert self.low is not None
            return version.compare(self.low) in _RELATIONS[self.relation]
        assert self.low is not None
        assert self.high is not None
        return version.compare(self.low) >= 0 and version.compare(self.high) <= 0

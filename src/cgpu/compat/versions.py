"""Versions as numbers, and instance types as families. Strict: what is not exactly understood is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cgpu.errors import FactError

_FORMS: Final = {
    "cgpu": (re.compile(r"v?([0-9]{1,4}(?:\.[0-9]{1,6}){1,3})"), "1.5.7"),
    "driver": (re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,6}){1,2})"), "535.129.03"),
    # What a distribution appends says nothing about compatibility: 5.10.134-16.3.al8.x86_64.
    "kernel": (re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,6}){1,3})(?:[-+._~][0-9A-Za-z-+._~]{0,80})?"), "5.10.134"),
}
# Packages have an epoch before and a revision behind: 1:1.13.5-1, 1.17.0~rc.1-1, 20.10.24+dfsg1.
_PACKAGE: Final = (
    re.compile(r"(?:[0-9]{1,4}:)?v?([0-9]{1,4}(?:\.[0-9]{1,6}){1,3})(?:[-+~_][0-9A-Za-z-+._~]{0,80})?"),
    "1.13.5-1",
)
_INSTANCE: Final = re.compile(r"(?:ecs\.)?([a-z][a-z0-9]{1,31})(?:-[a-z0-9]{1,32}){0,4}(?:\.[a-z0-9-]{1,32})?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version that compares as numbers: 5.10 is above 5.1, and 1.5 equals 1.5.0."""

    key: tuple[int, ...]
    """The numbers without zeros at the end."""

    numbers: tuple[int, ...] = field(compare=False)
    """The numbers as written, at least one."""

    text: str = field(compare=False)
    """As it was written."""

    @classmethod
    def of(cls, text: str, numbers: str | None = None) -> Version:
        """From digits and dots: ``numbers``, or ``text`` itself."""
        parts = tuple(int(part) for part in (text if numbers is None else numbers).split("."))
        end = len(parts)
        while end > 1 and parts[end - 1] == 0:
            end -= 1
        return cls(parts[:end], parts, text)

    def compare(self, bound: Version) -> int:
        """Below, at or above a bound: -1, 0 or 1. Only as many numbers count as the bound has: 5.15.134 is at 5.15."""
        length = len(bound.numbers)
        mine = (self.numbers + (0,) * length)[:length]
        return (mine > bound.numbers) - (mine < bound.numbers)

    def __str__(self) -> str:
        return self.text


def parse_version(field_name: str, text: str) -> Version:
    """The version of a component: ``cgpu``, ``driver``, ``kernel``, or any package's.

    Raises FactError, which names the field, for anything else than digits, dots and what the
    component's packagers append.
    """
    form, example = _FORMS.get(field_name, _PACKAGE)
    match = form.fullmatch(text.strip())
    if match is None:
        raise FactError(field_name, f"not a version: {text!r}", f"write for example {example}")
    return Version.of(text.strip().removeprefix("v"), match[1])


def known(given: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are known of something that is there: without None and without ``none``."""
    return {name: value for name, value in given.items() if value not in (None, "none")}


def instance_family(text: str) -> str:
    """The family of an instance type: ``gn7i`` of ``ecs.gn7i-c8g1.2xlarge``, ``ebmgn9t`` of itself.

    Raises FactError for what is no instance type.
    """
    match = _INSTANCE.fullmatch(text.strip().lower())
    if match is None:
        raise FactError(
            "instance", f"not an instance type: {text!r}", "write for example ecs.gn7i-c8g1.2xlarge or gn7i"
        )
    return match[1]

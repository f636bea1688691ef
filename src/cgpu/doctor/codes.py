"""The codes of the errors that cgpu itself can produce, and what each means."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from cgpu.errors import PUBLIC_PREFIX

_FORM: Final = re.compile(rf"\s*({re.escape(PUBLIC_PREFIX)}[A-Z0-9]+(?:-[A-Z0-9]+)*)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Code:
    """An error code."""

    code: str
    """Such as ``CGPU-CAPACITY``."""

    meaning: str
    causes: tuple[str, ...]
    """The usual ones."""

    fix: str
    said: tuple[str, ...] = ()
    """Formats of C's printf: the lines on stderr that mean this."""


@cache
def codes() -> Mapping[str, Code]:
    """All codes, in the order of their data: the command line's, the API's, the shim's, the simulated GPU's."""
    table = tomllib.loads(files("cgpu.doctor").joinpath("data/codes.toml").read_text())
    rows = (
        Code(row["code"], row["meaning"], tuple(row["causes"]), row["fix"], tuple(row.get("said", ())))
        for row in table["code"]
    )
    return {row.code: row for row in rows}


def code_of(text: str) -> str | None:
    """The code that a text is, in capitals, whether or not there is such a code; None when it is something else."""
    match = _FORM.fullmatch(text)
    return match[1].upper() if match else None

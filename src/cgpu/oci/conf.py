"""cgpu-runtime.conf: what the runtime in front of the real one must know. ``native/programs/conf.c`` reads the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.errors import BundleError

_REQUIRED: Final = ("runtime", "python", "socket", "tenants")
_OPTIONAL: Final = ("sim_state",)
_PROGRAM: Final = "cgpu-runtime"  # beside the file


@dataclass(frozen=True, slots=True)
class Conf:
    """The settings of one installed cgpu-runtime."""

    program: Path  # cgpu-runtime itself
    runtime: Path  # the real runtime
    socket: Path  # the agent's
    sim_state: Path | None  # None: real GPUs

    @classmethod
    def read(cls, path: Path) -> Conf:
        """Read the file. Raises BundleError."""
        try:
            values = _parsed(path.read_text())
        except OSError as error:
            raise BundleError(f"cannot use {path}: {error.strerror}") from error
        except ValueError as error:
            raise BundleError(f"cannot use {path}: {error}") from error
        return cls(path.absolute().parent / _PROGRAM, values["runtime"], values["socket"], values.get("sim_state"))


def _parsed(text: str) -> dict[str, Path]:
    values: dict[str, Path] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            continue
        key, separator, value = (part.strip(" \t\r") for part in stripped.partition("="))
        if not separator:
            raise ValueError(f"line {number} is not `key = value`")
        if key not in _REQUIRED + _OPTIONAL:
            continue  # of a later version
        if key in values:
            raise ValueError(f"line {number} says `{key}` a second time")
        if not value.startswith("/"):
            raise ValueError(f"line {number}: `{key}` is not an absolute path")
        values[key] = Path(value)
    for key in _REQUIRED:
        if key not in values:
            raise ValueError(f"it does not say `{key}`")
    return values

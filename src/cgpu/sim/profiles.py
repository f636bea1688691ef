"""The profiles of simulated machines: data files, a strict subset of TOML that the C side reads too.

Which keys there are, and in what range, only native/simgpu/card_profile.c says; it names file, line
and cause of what it refuses.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from cgpu.errors import UsageError

_FOLDER: Final = Path(str(files("cgpu"))) / "sim" / "profiles"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a profile says about its machine."""

    name: str
    """As in ``cgpu sim create``: the file's name without ``.toml``, for instance ``t4``."""
    path: Path
    card: str
    """The card's name as NVML gives it."""
    total_bytes: int
    cards: int
    driver_version: str


def profile_names() -> tuple[str, ...]:
    """The names of the profiles that cgpu brings along."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_profile(name: str) -> Profile:
    """The profile of that name, or in that file. Raises UsageError when there is none."""
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Profile(
            name=path.stem,
            path=path.resolve(),
            card=str(values["name"]),
            total_bytes=int(values["total_bytes"]),
            cards=int(values["cards"]),
            driver_version=str(values["driver_version"]),
        )
    except FileNotFoundError as error:
        known = ", ".join(profile_names())
        raise UsageError(
            f"there is no profile {name!r}", f"there are {known}, or give the path of a .toml file"
        ) from error
    except (OSError, KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path} is not a profile: {error}") from error

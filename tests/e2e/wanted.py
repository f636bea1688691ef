"""What a test asks a container to be, whatever the engine."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Result = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Volume:
    """A folder of the host in a container."""

    source: Path
    destination: str
    writable: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a container is asked to be."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    user: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    """CDI devices, by their whole names."""
    memory_bytes: int | None = None
    """Of the host, at most; then the kernel kills a process."""

"""Podman: ``[engine.runtimes]`` of containers.conf, in a file of its own that Podman merges with the others.

https://github.com/containers/common/blob/main/docs/containers.conf.5.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.adapters.engines.engine import RUNTIME, ConfigFile, read_config

_PATH: Final = ("engine", "runtimes", RUNTIME)
_RUNTIMES: Final = _PATH[:-1]
_NEW: Final = """\
# From `cgpu runtime install`; `cgpu runtime uninstall` removes it.
[engine.runtimes]
"""


@dataclass(frozen=True, slots=True)
class Podman:
    """The engine ``podman``."""

    name: str = "podman"
    default_config: Path = Path("/etc/containers/containers.conf.d/50-cgpu.conf")
    runtimes: tuple[str, ...] = ("crun", "runc")
    reload: str = "nothing: each podman command reads it"

    def locate(self, config: Path) -> ConfigFile:
        """The file itself."""
        return read_config(config)

    def registered(self, text: str) -> str | None:
        """See ``Engine``."""
        from cgpu.adapters.engines.toml_text import parse, value_at

        programs = value_at(parse(text, "containers.conf"), _PATH)
        return str(programs[0]) if isinstance(programs, list) and programs else None

    def with_runtime(self, file: ConfigFile, program: str) -> str:
        """See ``Engine``."""
        from cgpu.adapters.engines.toml_text import parse, value_at, with_table

        text = _NEW if file.text is None else file.text
        runtimes = value_at(parse(text, "containers.conf"), _RUNTIMES) or {}
        if not isinstance(runtimes, dict):
            runtimes = {}
        return with_table(text, _RUNTIMES, {**runtimes, RUNTIME: [program]}, "containers.conf")

    def without_runtime(self, text: str, before: str | None) -> str | None:
        """See ``Engine``."""
        from cgpu.adapters.engines.toml_text import parse, without

        text = without(text, _PATH, "containers.conf")
        values = parse(text, "containers.conf")
        if before is not None:
            return before if parse(before, "containers.conf") == values else text
        return text if values else None

"""containerd: a runtime class in its CRI plugin, in config.toml of version 2 (1.x) or 3 (2.x).

https://github.com/containerd/containerd/blob/main/docs/cri/config.md and man containerd-config.toml(5).
Files that are imported replace the whole CRI section in 1.x and are merged into it from 2.0 on, so a
drop-in serves version 3 alone. A list of runtimes replaces the built-in one: where it names none, the
default ``runc`` has to be named with ours.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.engines.engine import RUNTIME, ConfigFile, read_config
from cgpu.errors import StateError

_RUNC_V2: Final = "io.containerd.runc.v2"
_RUNC: Final = {"runtime_type": _RUNC_V2}
_PLUGINS: Final = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
_NAME: Final = "config.toml"
_DROP_IN: Final = "50-cgpu.toml"
_DROP_INS_SINCE: Final = 3


def installed_config_version() -> int:
    """The version of the configuration that the installed containerd writes; 3 where none is found."""
    try:
        answer = subprocess.run(["containerd", "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return 3
    words = answer.stdout.split()  # containerd github.com/containerd/containerd v2.1.0 <commit>
    return 2 if len(words) > 2 and words[2].lstrip("v").startswith("1.") else 3


@dataclass(frozen=True, slots=True)
class Containerd:
    """The engine ``containerd``."""

    name: str = "containerd"
    default_config: Path = Path("/etc/containerd/config.toml")
    runtimes: tuple[str, ...] = ("runc", "crun")
    reload: str = "systemctl restart containerd: running containers go on; then a RuntimeClass with handler cgpu"
    new_version: Callable[[], int] = field(default=installed_config_version)  # of a file that is not there yet

    def locate(self, config: Path) -> ConfigFile:
        """A drop-in beside the file, where that imports a folder of them and its version merges them."""
        main = read_config(config)
        if main.text is None or self.registered(main.text) is not None:
            return main
        folder = _drop_ins(main.text, main.path)
        if folder is None:
            return main
        drop_in = read_config(folder / _DROP_IN)
        return ConfigFile(drop_in.path, drop_in.text, main.text)

    def registered(self, text: str) -> str | None:
        """See ``Engine``."""
        from cgpu.adapters.engines.toml_text import value_at

        values, path = _read(text)
        return value_at(values, (*path, RUNTIME, "options", "BinaryName")) if value_at(values, path) else None

    def with_runtime(self, file: ConfigFile, program: str) -> str:
        """See ``Engine``."""
        from cgpu.adapters.engines.toml_text import value_at, with_table

        text = f"version = {self._version(file)}\n" if file.text is None else file.text
        values, path = _read(text)
        if not value_at(values, path) and not (file.main and value_at(_read(file.main)[0], path)):
            text = with_table(text, (*path, "runc"), _RUNC, _NAME)
        entry = {"runtime_type": _RUNC_V2, "options": {"BinaryName": program}}
        return with_table(text, (*path, RUNTIME), entry, _NAME)

    def _version(self, file: ConfigFile) -> int:
        return self.new_version() if file.main is None else _version(file.main)

    def without_runtime(self, text: str, before: str | None) -> str | None:
        """See ``Engine``."""
        from cgpu.adapters.engines.toml_text import parse, value_at, without

        _, path = _read(text)
        text = without(text, (*path, RUNTIME), _NAME)
        had = value_at(_read(before)[0], path) if before is not None else None
        if value_at(_read(text)[0], path) == {"runc": _RUNC} and not had:
            text = without(text, (*path, "runc"), _NAME)
        values = parse(text, _NAME)
        if before is not None:
            return before if parse(before, _NAME) == values else text
        return None if values.keys() <= {"version"} else text


def _read(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values, and where the runtimes are in them."""
    from cgpu.adapters.engines.toml_text import parse

    values = parse(text, _NAME)
    version = values.get("version", 1)
    if version not in _PLUGINS:
        raise StateError(
            f"{_NAME} is of version {version}, not 2 or 3",
            "let containerd rewrite it: containerd config migrate; nothing was changed",
        )
    return values, ("plugins", _PLUGINS[version], "containerd", "runtimes")


def _version(text: str) -> int:
    return int(_read(text)[0]["version"])


def _drop_ins(text: str, path: Path) -> Path | None:
    """The folder whose ``*.toml`` the file imports, where such files are merged into it."""
    values, _ = _read(text)
    imports = values.get("imports", [])
    if values["version"] < _DROP_INS_SINCE or not isinstance(imports, list):
        return None
    # A relative pattern counts from the folder of the file that has it.
    patterns = [path.parent / pattern for pattern in imports if isinstance(pattern, str)]
    return next((pattern.parent for pattern in patterns if pattern.name == "*.toml"), None)

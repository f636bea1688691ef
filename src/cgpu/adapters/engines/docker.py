"""Docker: ``runtimes`` in daemon.json.

https://docs.docker.com/reference/cli/dockerd/#configure-container-runtimes
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.engines.engine import RUNTIME, ConfigFile, read_config
from cgpu.errors import RefusedError, StateError

_RUNTIMES: Final = "runtimes"
_DEFAULT: Final = "default-runtime"
_CORRECT: Final = "correct daemon.json first; nothing was changed"


@dataclass(frozen=True, slots=True)
class Docker:
    """The engine ``docker``."""

    name: str = "docker"
    default_config: Path = Path("/etc/docker/daemon.json")
    runtimes: tuple[str, ...] = ("runc", "crun")
    reload: str = "systemctl reload docker, or SIGHUP to dockerd: running containers are not touched"

    def locate(self, config: Path) -> ConfigFile:
        """The file itself."""
        return read_config(config)

    def registered(self, text: str) -> str | None:
        """See ``Engine``."""
        entry = _runtimes(_parse(text)).get(RUNTIME)
        return str(entry.get("path", "")) if isinstance(entry, dict) else None

    def with_runtime(self, file: ConfigFile, program: str) -> str:
        """See ``Engine``. The order of the keys and the indentation stay."""
        text = file.text or ""
        document = _parse(text)
        runtimes = _runtimes(document)
        if runtimes.get(RUNTIME) == {"path": program}:
            return text
        runtimes[RUNTIME] = {"path": program}
        document[_RUNTIMES] = runtimes
        return _dump(document, text)

    def without_runtime(self, text: str, before: str | None) -> str | None:
        """See ``Engine``. Raises RefusedError while it is the default runtime."""
        document = _parse(text)
        runtimes = _runtimes(document)
        if RUNTIME not in runtimes:
            return text
        if document.get(_DEFAULT) == RUNTIME:
            raise RefusedError(
                f'"{_DEFAULT}" in daemon.json is "{RUNTIME}"', "choose another one there first; nothing was changed"
            )
        del runtimes[RUNTIME]
        if not runtimes and _RUNTIMES not in (_parse(before) if before else {}):
            del document[_RUNTIMES]
        if not document and before is None:
            return None
        if before is not None and document == _parse(before):
            return before
        return _dump(document, text)


def _parse(text: str) -> dict[str, Any]:
    """An empty file is an empty object, as for dockerd."""
    if not text.strip():
        return {}
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise StateError(f"daemon.json is not JSON: {error}", _CORRECT) from error
    if not isinstance(document, dict):
        raise StateError("daemon.json is not a JSON object", _CORRECT)
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):  # one of the two would be lost
        raise ValueError(f"a key is there twice: {', '.join(sorted(key for key, _ in pairs))}")
    return values


def _runtimes(document: dict[str, Any]) -> dict[str, Any]:
    runtimes = document.get(_RUNTIMES)
    if runtimes is None:
        return {}
    if not isinstance(runtimes, dict):
        raise StateError(f'"{_RUNTIMES}" in daemon.json is not an object', _CORRECT)
    return runtimes


def _dump(document: dict[str, Any], like: str) -> str:
    indentation = re.search(r"\{[ \t]*\r?\n([ \t]+)\"", like)
    text = json.dumps(document, indent=indentation[1] if indentation else 2, ensure_ascii=False)
    return text + "\n"

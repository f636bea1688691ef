"""The unit of the agent's service: the template, filled in for one host. Pure."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from cgpu.errors import UsageError
from cgpu.settings import Settings

UNIT: Final = "cgpu-agent.service"
VARIABLES: Final = ("CGPU_RUNTIME_DIR", "CGPU_AGENT_SOCKET", "CGPU_LOCK_DIR", "CGPU_SIM_STATE", "CGPU_HOST_ROOT")
"""The variables of an agent that `cgpu install` keeps for the service."""

_MARK: Final = "# From `cgpu install`"
_RUN: Final = Path("/run")
_NOT_QUOTED: Final = frozenset("\\\"'$%`\n\r\t ")


def is_ours(text: str) -> bool:
    """Whether a unit, or another file with our first line, was written by `cgpu install`."""
    return text.startswith(_MARK)


def unit_text(program: Path, environment_file: Path, settings: Settings) -> str:
    """The unit. ``program``: the absolute path of `cgpu`. Raises UsageError for a path that a unit cannot hold."""
    runtime = settings.runtime_dir
    writable = [f"-{settings.lock_dir}"]  # with -: where there is none, the agent says so
    if runtime.is_relative_to(_RUN):
        # Over a restart of the agent the tenants' regions stay.
        folder = (
            f"RuntimeDirectory={runtime.relative_to(_RUN)}\nRuntimeDirectoryPreserve=yes\nRuntimeDirectoryMode=0755"
        )
    else:
        folder = f"# The agent makes its folder, {runtime}, itself."
        writable.append(f"-{runtime.parent}")
    if settings.sim_state is not None:
        writable.append(f"-{settings.sim_state}")
    for path in (program, environment_file, runtime, settings.lock_dir, settings.sim_state):
        if path is not None and _NOT_QUOTED & set(str(path)):
            raise UsageError(f"{str(path)!r} cannot be written into a unit", "choose a path without spaces and quotes")
    template = (files("cgpu.adapters.host") / UNIT).read_text()
    values = {
        "PROGRAM": str(program),
        "ENVIRONMENT": str(environment_file),
        "RUNTIME_DIRECTORY": folder,
        "WRITABLE": " ".join(dict.fromkeys(writable)),
    }
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


def environment_text(variables: dict[str, str]) -> str:
    """The environment file. Raises UsageError for a value that it cannot hold."""
    for name, value in variables.items():
        if _NOT_QUOTED & set(value):
            raise UsageError(f"{name}={value!r} cannot be written into an environment file", "choose a simple path")
    rows = [f"{name}={value}\n" for name, value in variables.items()]
    return "".join([f"{_MARK}, once: edit it, then systemctl restart cgpu-agent\n", *rows])


def parse_environment(text: str) -> dict[str, str]:
    """The variables of an environment file, without the quotes that systemd takes away."""
    rows = (line.strip().partition("=") for line in text.splitlines() if line.strip()[:1] not in ("", "#", ";"))
    return {name.strip(): _bare(value.strip()) for name, separator, value in rows if separator}


def _bare(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value

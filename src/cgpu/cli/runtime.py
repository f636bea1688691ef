"""``cgpu runtime``: the OCI runtime that makes containers tenants, beside Docker, Podman and containerd."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.errors import UsageError
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.adapters.engines.installation import Installation, RuntimeSettings

EXAMPLES = """\
examples:
  cgpu runtime install --engine docker
  docker run --runtime cgpu -e CGPU_MEMORY=6GiB IMAGE
  cgpu runtime install --engine containerd --dry-run     what would be done
  cgpu runtime status --engine podman
  cgpu runtime uninstall --engine docker                 the engine's file as it was, our files gone

Without --config: /etc/docker/daemon.json, /etc/containers/containers.conf.d/50-cgpu.conf,
/etc/containerd/config.toml (or 50-cgpu.toml in a folder that it imports, from version 3 on).
"""
_ENGINES: Final = ("docker", "podman", "containerd")
_NOT_SOUND: Final = 1


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb and what it can do."""
    parser = add_verb(subparsers, "runtime", _status, "put the OCI runtime for containers into an engine", EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    install = add_verb(actions, "install", _install, "install it, or bring it up to date", EXAMPLES)
    uninstall = add_verb(actions, "uninstall", _uninstall, "take it away", EXAMPLES)
    status = add_verb(actions, "status", _status, "show whether it is installed and sound", EXAMPLES)
    for action in (install, uninstall, status):
        action.add_argument("--engine", required=True, choices=_ENGINES, help="the engine")
        action.add_argument("--config", type=Path, metavar="FILE", help="the engine's file, where it is elsewhere")
        action.add_argument(
            "--runtime-path",
            type=Path,
            metavar="DIR",
            help="folder of our program and its settings; /usr/local/lib/cgpu/ENGINE when not given",
        )
    install.add_argument(
        "--real-runtime", metavar="PATH", help="the runtime below ours; runc or crun, as the engine prefers"
    )
    for action in (install, uninstall):
        action.add_argument("--dry-run", action="store_true", help="only print what would be done")
    add_json(status)


def installation_of(engine: str, *, config: Path | None = None, folder: Path | None = None) -> Installation:
    """The installation beside an engine, by default in the usual places."""
    from cgpu.adapters.engines.installation import ENGINES, FOLDER, Installation

    known = ENGINES[engine]
    return Installation(known, (config or known.default_config).absolute(), (folder or FOLDER / engine).absolute())


def settings_for(real_runtime: Path, settings: Settings) -> RuntimeSettings:
    """What the runtime has to know of this installation and its agent."""
    from cgpu.adapters.engines.installation import RuntimeSettings
    from cgpu.adapters.host.layout import stable_python

    return RuntimeSettings(
        runtime=real_runtime,
        python=stable_python(Path(sys.executable)),
        socket=settings.agent_socket,
        tenants=settings.tenants_dir,
        sim_state=settings.sim_state,
    )


def runtime_program() -> bytes:
    """The program that this version brings. Raises StateError where it is not installed."""
    from cgpu.adapters.native import RUNTIME, native_library

    return native_library(RUNTIME).read_bytes()


def _given(options: argparse.Namespace) -> Installation:
    return installation_of(options.engine, config=options.config, folder=options.runtime_path)


def _install(options: argparse.Namespace, settings: Settings) -> int:
    from cgpu.adapters.host_files import carry_out

    installation = _given(options)
    known = installation.settings().get("runtime")
    real = _real_runtime(options.real_runtime or known, installation.engine.runtimes, installation.program)
    changes = installation.install(runtime_program(), settings_for(real, settings))
    lines = carry_out(changes, dry_run=options.dry_run)
    _tell(lines, f"to make {options.engine} read it: {installation.engine.reload}", dry_run=options.dry_run)
    return 0


def _uninstall(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - as each verb has it
    from cgpu.adapters.host_files import carry_out

    installation = _given(options)
    lines = carry_out(installation.uninstall(), dry_run=options.dry_run)
    _tell(lines, f"to make {options.engine} read it: {installation.engine.reload}", dry_run=options.dry_run)
    return 0


def _tell(lines: tuple[str, ...], afterwards: str, *, dry_run: bool) -> None:
    for line in lines:
        print(f"would {line}" if dry_run else line)
    print(afterwards if lines else "nothing to do")


def _real_runtime(given: str | None, names: tuple[str, ...], ours: Path) -> Path:
    """The runtime below ours. Raises UsageError where there is none, or where it is ours."""
    if given is None:
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            raise UsageError(f"no {' or '.join(names)} in PATH", "name one: --real-runtime /usr/sbin/runc")
        given = found
    path = Path(given).absolute()
    if not path.is_file():
        raise UsageError(f"{given}: no such file", "name the runtime: --real-runtime /usr/sbin/runc")
    if path.name == ours.name:
        raise UsageError(f"{given} is our own runtime", "name the one below it: --real-runtime /usr/sbin/runc")
    return path


def _status(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - as each verb has it
    installation = _given(options)
    faults = installation.faults(runtime_program())
    values = installation.settings()
    file = installation.config_file().path
    if options.json:
        document = {
            "engine": options.engine,
            "sound": not faults,
            "faults": faults,
            "config": str(file),
            "program": str(installation.program),
            "settings": dict(values),
        }
        print(render.as_json(document))
    else:
        print(f"{options.engine}: {'installed' if not faults else '; '.join(faults)}")
        rows = {"config": file, "program": installation.program, **values}
        print("\n".join(f"  {key:<8} {value}" for key, value in rows.items()))
    return _NOT_SOUND if faults else 0

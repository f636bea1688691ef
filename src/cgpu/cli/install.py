"""``cgpu install``: this version on the host, as a service."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgpu.adapters.agent_client import AgentClient
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.errors import AgentError, RefusedError, UsageError
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.adapters.host.layout import HostLayout

EXAMPLES = """\
examples:
  sudo cgpu install                what it does: a copy in /opt/cgpu, cgpu-agent.service, /usr/local/bin/cgpu
  sudo cgpu install --dry-run      what it would do
  cgpu install --root /mnt/image   into an image; the service starts with its first boot
  sudo /usr/local/bin/cgpu runtime install --engine docker      then: containers with a share

It may be repeated, and then mends what is missing. Another version takes over with `cgpu upgrade`.
CGPU_RUNTIME_DIR and the like, where they are set, are kept for the service in /etc/cgpu/agent.env.
"""
_ROOT: Final = Path("/")
_VOLATILE: Final = tuple(map(Path, ("/home", "/root", "/tmp", "/var/tmp", "/run")))


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "install", run, "put this version on the host, as a service", EXAMPLES)
    parser.add_argument("--no-enable", action="store_true", help="neither start the agent now nor at boot")
    add_host_options(parser)


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """What ``install``, ``upgrade`` and ``uninstall`` have in common."""
    parser.add_argument("--root", type=Path, metavar="DIR", default=_ROOT, help="the host's root folder; no service")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - the service has its own
    """Plan, do, start."""
    from cgpu.adapters.host import systemd
    from cgpu.adapters.host.layout import CURRENT
    from cgpu.adapters.host.program import COMMAND, running_program
    from cgpu.adapters.host_files import carry_out

    layout = layout_of(options)
    layout.refuse_foreign()
    program = running_program()
    if layout.current not in (None, program.name):
        raise RefusedError(f"{layout.current} is installed, this is {program.name}", "use `cgpu upgrade`")
    live = options.root == _ROOT and systemd.runs_here()
    service = service_settings(layout)
    if live and not options.no_enable:
        refuse_agent_by_hand(service)
    changes = [
        *layout.place(program),
        *layout.switch(program.name, service),
        *layout.complete(service_variables(layout), enable=not options.no_enable),
    ]
    lines = list(carry_out(changes, dry_run=options.dry_run))
    notes = _notes(layout, program.name)
    if options.root != _ROOT:
        notes.append("nothing was started: --root is given")
    elif options.no_enable:
        notes.append("to start the agent, now and at boot: systemctl enable --now cgpu-agent")
    elif not live:
        notes.append(f"systemd does not run here, so nothing was started; by hand: {CURRENT / COMMAND} agent")
    elif lines or systemd.SystemdService().main_pid() is None:
        lines.append("start cgpu-agent.service")
        if not options.dry_run:
            systemd.SystemdService().start()
    tell(lines, notes, options)
    return 0


def layout_of(options: argparse.Namespace) -> HostLayout:
    """The host that is meant. Raises UsageError for a folder that is none, RefusedError without the right to write."""
    from cgpu.adapters.host.layout import HostLayout

    root: Path = options.root.absolute()
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder", "name the host's root folder")
    if root == _ROOT and os.geteuid() != 0 and not options.dry_run:
        raise RefusedError("only root may change the host", "use sudo; --dry-run shows what would be done")
    return HostLayout(root)


def service_variables(layout: HostLayout) -> dict[str, str]:
    """The agent's variables: those of the host's file, or, without one, of the present environment, made absolute."""
    from cgpu.adapters.host.layout import ENVIRONMENT
    from cgpu.adapters.host.unit import VARIABLES

    if layout.at(ENVIRONMENT).exists():
        return layout.variables()
    return {name: str(Path(os.environ[name]).absolute()) for name in VARIABLES if os.environ.get(name)}


def service_settings(layout: HostLayout) -> Settings:
    """The settings of the service, which is root's."""
    return Settings.from_environment(service_variables(layout), uid=0)


def settings_below(layout: HostLayout, settings: Settings) -> Settings:
    """The same, as they are seen from here, where the host's root is elsewhere."""
    if layout.root == _ROOT:
        return settings
    return replace(
        settings,
        runtime_dir=layout.at(settings.runtime_dir),
        agent_socket=layout.at(settings.agent_socket),
        lock_dir=layout.at(settings.lock_dir),
    )


def agent_of(settings: Settings) -> int | None:
    """The pid of the agent that answers at these settings; None where none does."""
    try:
        return int(AgentClient(settings.agent_socket, settings.agent_answer_seconds).get("/v1/info")["pid"])
    except AgentError:
        return None


def refuse_agent_by_hand(settings: Settings) -> None:
    """Raises RefusedError where an agent runs that systemd did not start: the unit's would not get the GPUs."""
    from cgpu.adapters.host import systemd

    pid = agent_of(settings)
    if pid is not None and pid != systemd.SystemdService().main_pid():
        raise RefusedError(
            f"an agent that systemd did not start runs here (pid {pid})",
            f"end it (kill {pid}: the tenants run on, the next agent takes them over), then repeat this",
        )


def tell(lines: list[str], notes: list[str], options: argparse.Namespace) -> None:
    """What was done, or would be, and what else there is to know."""
    if options.json:
        print(render.as_json({"dry_run": options.dry_run, "changes": lines, "notes": notes}))
        return
    for line in lines:
        print(f"would {line}" if options.dry_run else line)
    for note in notes if lines else ["nothing to do", *notes]:
        print(note)


def _notes(layout: HostLayout, name: str) -> list[str]:
    from cgpu.adapters.host.layout import CURRENT, SYSTEM_COMMAND
    from cgpu.adapters.host.program import COMMAND

    python = Path(sys.base_exec_prefix)
    notes = [f"installed: {name}"]
    if any(python.is_relative_to(folder) for folder in _VOLATILE):
        notes.append(
            f"warning: its Python is in {python}, which may go with its user or a reboot; one of the system's lasts"
        )
    if not layout.has_own_command():
        notes.append(f"{SYSTEM_COMMAND} is somebody else's; the command is {CURRENT / COMMAND}")
    return notes

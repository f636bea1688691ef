"""``cgpu upgrade``: this version takes over from the one that is installed, or leaves it as it was."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from cgpu.cli.install import add_host_options, layout_of, service_settings, tell
from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.errors import RefusedError
from cgpu.settings import Settings

EXAMPLES = """\
examples, with the new version in an environment of its own:
  python3 -m venv /tmp/new && /tmp/new/bin/pip install cgpu==0.2.0
  sudo /tmp/new/bin/cgpu upgrade --dry-run
  sudo /tmp/new/bin/cgpu upgrade

Only the agent is restarted: tenants and containers run on. Where the new agent does not come up, or does not know the
old one's tenants, the old version runs again. An agent that was started by hand goes on in the background.
"""
_ROOT: Final = Path("/")


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    add_host_options(add_verb(subparsers, "upgrade", run, "take over from the version that is installed", EXAMPLES))


def run(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - the service has its own
    """Check, place, switch, compare."""
    from cgpu.adapters.host.program import running_program
    from cgpu.adapters.host_files import carry_out
    from cgpu.cli.host_engines import engine_updates
    from cgpu.cli.host_upgrade import Upgrade

    layout = layout_of(options)
    layout.refuse_foreign()
    if layout.current is None:
        raise RefusedError("no version is installed on this host", "use `cgpu install`")
    program = running_program()
    upgrade = Upgrade(layout, program, service_settings(layout), live=options.root == _ROOT)
    lines = list(carry_out(layout.place(program), dry_run=options.dry_run))
    lines += upgrade.switch(dry_run=options.dry_run)
    lines += carry_out(engine_updates(layout), dry_run=options.dry_run)
    lines += carry_out(upgrade.obsolete(), dry_run=options.dry_run)
    tell(lines, [f"installed: {program.name}", *upgrade.notes], options)
    return 0

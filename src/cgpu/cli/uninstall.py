"""``cgpu uninstall``: everything that ``cgpu install`` has brought, and what its agent has left, away."""

from __future__ import annotations

import argparse

from cgpu.cli.install import add_host_options, layout_of, tell
from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  sudo cgpu uninstall --dry-run
  sudo cgpu runtime uninstall --engine docker      first, where an engine has the runtime
  sudo cgpu uninstall                              the ledger of time stays (--purge: nothing does)

It refuses while tenants run. With --force they run on without an agent, at their shares; what they need of the
installation stays until this is repeated after their end.
"""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "uninstall", run, "take the installation away from the host", EXAMPLES)
    parser.add_argument("--force", action="store_true", help="also while tenants run, or an engine has the runtime")
    parser.add_argument("--purge", action="store_true", help="with the ledger of time (cgpu account)")
    add_host_options(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - the service has its own
    """Refuse, stop, remove."""
    from cgpu.cli.host_removal import Removal  # with all that it needs: the modules may be among what goes

    removal = Removal(layout_of(options))
    if not options.force:
        removal.refuse()
    lines = removal.carry_out(purge=options.purge, dry_run=options.dry_run)
    tell(lines, removal.notes(), options)
    return 0

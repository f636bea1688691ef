"""The entry point: parse, run one verb, and turn what went wrong into an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from cgpu import __version__
from cgpu.cli import (
    account,
    agent,
    cdi,
    compat,
    demo,
    doctor,
    explain,
    info,
    install,
    k8s,
    policy,
    ps,
    run,
    runtime,
    set,  # noqa: A004 - named as the verb
    sim,
    smi,
    top,
    tree,
    uninstall,
    upgrade,
)
from cgpu.cli.exit_code import exit_code_of
from cgpu.errors import UsageError
from cgpu.settings import Settings

_VERBS: Final = (
    run,
    ps,
    top,
    smi,
    set,
    policy,
    account,
    info,
    doctor,
    compat,
    explain,
    agent,
    install,
    upgrade,
    uninstall,
    runtime,
    cdi,
    tree,
    k8s,
    sim,
    demo,
)
_EPILOG = """\
exit codes:
  0 done            2 malformed request      3 refused by the node (no such GPU or tenant, no room)
  4 agent           5 NVIDIA driver          6 region or state
  `cgpu run` exits as its command does.
"""


class _Parser(argparse.ArgumentParser):
    """Errors as exceptions, so that they are printed as all others are."""

    def error(self, message: str) -> None:  # type: ignore[override]  # it does not return either
        raise UsageError(message, f"see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = _Parser(
        prog="cgpu",
        description="Share one NVIDIA GPU: quotas of memory and shares of time that hold.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cgpu {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in _VERBS:
        verb.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``cgpu`` and return its exit code."""

    def work() -> int:
        options = build_parser().parse_args(arguments)
        return int(options.run(options, Settings.from_environment()))

    return exit_code_of("cgpu", work)

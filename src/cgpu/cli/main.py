"""The entry point: parse, run one verb, and turn what went wrong into an exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from cgpu import __version__
from cgpu.cli.exit_code import exit_code_of
from cgpu.errors import UsageError
from cgpu.settings import Settings

VERBS: Final = (
    "run",
    "ps",
    "top",
    "smi",
    "set",
    "policy",
    "account",
    "info",
    "doctor",
    "compat",
    "explain",
    "agent",
    "install",
    "upgrade",
    "uninstall",
    "runtime",
    "cdi",
    "tree",
    "k8s",
    "sim",
    "demo",
)
"""In the order in which they are shown. Each is the name of its module, which is imported when it is wanted: a start of
`cgpu run` is waited for."""

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


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The parser of these verbs."""
    parser = _Parser(
        prog="cgpu",
        description="Share one NVIDIA GPU: quotas of memory and shares of time that hold.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cgpu {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in verbs:
        importlib.import_module(f"cgpu.cli.{verb}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``cgpu`` and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> int:
        verbs = given[:1] if given and given[0] in VERBS else VERBS
        options = build_parser(verbs).parse_args(given)
        return int(options.run(options, Settings.from_environment()))

    return exit_code_of("cgpu", work)

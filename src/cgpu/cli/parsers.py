"""What the parsers of all verbs have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from cgpu.model.units import parse_memory, parse_percent, parse_weight
from cgpu.settings import Settings

_AMOUNTS = {
    "memory": "memory_bytes",
    "compute": "compute_percent",
    "compute_limit": "compute_limit_percent",
    "weight": "weight",
    "priority": "priority",
}

_NONE = "none"

Subparsers = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it
Verb = Callable[[argparse.Namespace, Settings], int]


def add_verb(
    subparsers: Subparsers[argparse.ArgumentParser], name: str, run: Verb, summary: str, examples: str
) -> argparse.ArgumentParser:
    """A parser for one verb, whose ``run`` is called with the options."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # argparse takes `-1GiB` for an option unless it looks like a negative number; the error should be
    # about the amount. No option of ours begins with a digit.
    parser._negative_number_matcher = re.compile(r"-\d")  # noqa: SLF001
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse._ActionsContainer) -> None:
    """``--json``, the machine-readable form of a listing."""
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes and nanoseconds")


def add_share(parser: argparse.ArgumentParser, *, change: bool) -> None:
    """The amounts of a share. Malformed ones raise AmountError.

    ``change``: of a share that is there already; nothing is required, and a percentage may be taken away.
    """
    percent = _percent_or_none if change else parse_percent
    taken_away = "; none: none any more" if change else ""
    parser.add_argument(
        "--memory",
        metavar="AMOUNT",
        type=parse_memory,
        required=not change,
        help="quota of GPU memory: 6GiB, 512MiB, 6G",
    )
    parser.add_argument(
        "--compute",
        metavar="PERCENT",
        type=percent,
        help=f"share of time: 30 or 30%%; enforced under policies 3 and 4 only{taken_away}",
    )
    parser.add_argument(
        "--compute-limit",
        metavar="PERCENT",
        type=percent,
        help=f"never more of the time than that, whoever else is idle; not under policy 5{taken_away}",
    )
    parser.add_argument("--weight", metavar="N", type=parse_weight, help="weight under policy 2: 1 to 1000")
    parser.add_argument(
        "--priority", type=int, choices=(0, 1), help="1: high, served before the others up to the GPU's prio_ratio"
    )


def share_amounts(options: argparse.Namespace) -> dict[str, int | None]:
    """What was given of ``add_share``'s amounts, by the API's names; None takes an amount away."""
    given = ((name, getattr(options, option)) for option, name in _AMOUNTS.items())
    return {name: None if value == _NONE else value for name, value in given if value is not None}


def _percent_or_none(text: str) -> int | str:
    return _NONE if text == _NONE else parse_percent(text)

"""The examples of docs/policies.md, played on the arbiter: each tenant gets what the table says."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from cgpu.cli import policy as policy_verb
from cgpu.cli.parsers import add_share
from cgpu.model.tenant import Policy
from tests.parity.policy_model import Kind, Settings, Share
from tests.property.turns_card import IDLE, MS, SECOND, Card, Load

DOCUMENT = Path(__file__).parents[2] / "docs" / "policies.md"
EXAMPLE = re.compile(r"^Example: `cgpu policy ([^`]+)`\n\n\| tenant .*\n\|[-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
POINTS = 1.0
KERNELS_NS = (MS // 10, 5 * MS)
FEWEST = 10


@dataclass(frozen=True)
class Row:
    """A tenant of an example."""

    share: Share
    works: bool
    gets_percent: float


@dataclass(frozen=True)
class Example:
    """One table, and the policy above it."""

    command: str
    settings: Settings
    rows: tuple[Row, ...]


def settings_of(words: list[str]) -> Settings:
    parser = argparse.ArgumentParser()
    policy_verb.add_parser(parser.add_subparsers())
    options = parser.parse_args(["policy", *words])
    given = {name: getattr(options, name) for name in ("max_inst", "prio_ratio") if getattr(options, name) is not None}
    return Settings(Kind[Policy[options.policy.upper()].name], **given)


def share_of(words: list[str]) -> Share:
    parser = argparse.ArgumentParser()
    add_share(parser, change=True)
    options = parser.parse_args(words)
    return Share(options.weight or 1, options.compute or 0, options.compute_limit or 0, options.priority or 0)


def row_of(line: str) -> Row:
    _, _, given, works, gets, _ = (cell.strip() for cell in line.split("|"))
    return Row(share_of(given.strip("`").split()), {"yes": True, "no": False}[works], float(gets.removesuffix("%")))


def examples() -> list[Example]:
    found = []
    for command, rows in EXAMPLE.findall(DOCUMENT.read_text()):
        found.append(Example(command, settings_of(command.split()), tuple(map(row_of, rows.splitlines()))))
    return found


EXAMPLES = examples()


def test_every_example_is_found():
    text = DOCUMENT.read_text()
    assert len(EXAMPLES) == text.count("Example: ") >= FEWEST
    assert {example.settings.kind for example in EXAMPLES} == set(Kind) - {Kind.NATIVE}


@pytest.mark.parametrize("kernel_ns", KERNELS_NS, ids=["0.1ms", "5ms"])
@pytest.mark.parametrize("example", EXAMPLES, ids=[example.command for example in EXAMPLES])
def test_tenants_get_what_the_document_says(example: Example, kernel_ns: int):
    card = Card(example.settings)
    for row in example.rows:
        card.join(row.share, Load(kernel_ns) if row.works else IDLE)
    card.run(SECOND)
    card.measure()
    card.run(5 * SECOND)
    assert card.parts() == pytest.approx([row.gets_percent for row in example.rows], abs=POINTS)

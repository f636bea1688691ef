"""docs/cli.md names every verb, every option and every exit code there is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgpu.cli.main import build_parser
from cgpu.errors import CgpuError

TEXT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
_NOT_FOR_USERS = {"--ready-fd", "--private"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


ALL = list(parsers(build_parser()))


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_every_option_is_documented(parser: argparse.ArgumentParser):
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--") and option not in {"--help", "--version", *_NOT_FOR_USERS}:
                assert option in TEXT, option


def test_every_verb_is_documented():
    for parser in ALL:
        words = parser.prog.split()
        assert len(words) == 1 or f"`cgpu {words[1]}" in TEXT


def test_every_exit_code_is_documented():
    codes = {kind.exit_code for kind in CgpuError.__subclasses__()}
    assert all(f"| {code} |" in TEXT for code in codes)

"""docs/explain.md shows what happens, and lists every failure and every code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import cgpu
from cgpu.compat.dataset import shipped
from cgpu.doctor.codes import codes
from cgpu.doctor.failures import catalogue

PAGE: Final = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
SECONDS: Final = 60.0


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a console block with what it prints. Lines of a here-document follow its command."""
    found: list[tuple[str, str]] = []
    document = False
    for line in block.splitlines(keepends=True):
        if document:
            found[-1] = (found[-1][0] + line, "")
            document = line != "END\n"
        elif line.startswith("$ "):
            found.append((line[2:], ""))
            document = "<<'END'" in line
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


BLOCKS: Final = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_prints_what_the_page_shows(block: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "cgpu"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cgpu "$@"\n')
    program.chmod(0o755)
    source = str(Path(cgpu.__file__).parents[1])
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": source}
    for command, shown in commands(block):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert done.stderr == ""
        assert done.stdout.rstrip("\n") == shown.rstrip("\n"), command


def failure_table() -> str:
    """The table of failures as it should stand on the page."""
    failures = [failure for failure in catalogue(shipped()).failures.values() if failure.id not in codes()]
    rows = [f"| `{failure.id}` | {failure.title} |" for failure in failures]
    return "\n".join(["| id | failure |", "|---|---|", *rows]) + "\n"


def code_table() -> str:
    """The table of codes as it should stand on the page."""
    rows = [f"| `{code.code}` | {code.meaning} |" for code in codes().values()]
    return "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"


def test_the_page_lists_every_failure() -> None:
    assert failure_table() in PAGE


def test_the_page_lists_every_code() -> None:
    assert code_table() in PAGE

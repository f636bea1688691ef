"""What the command line makes of words that it does not know."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cgpu.cli.main import VERBS, build_parser, main


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["ps", "--jso"], ["run", "--memory"], ["set"]])
def test_a_malformed_command_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_understood_without_the_others(verb: str):
    (subparsers,) = (action for action in build_parser([verb])._actions if action.dest != "help" and action.choices)
    assert list(subparsers.choices or ()) == [verb]


def test_what_waits_for_a_start_imports_no_other_verb():
    program = "import sys; from cgpu.cli.main import build_parser; build_parser(['run']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "cgpu.cli.run" in loaded
    unneeded = {f"cgpu.cli.{verb}" for verb in VERBS if verb != "run"} | {"cgpu.sim.machine", "cgpu.region.reader"}
    assert unneeded.isdisjoint(loaded)


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("cgpu 0")

"""What the command line makes of words that it does not know."""

from __future__ import annotations

import pytest

from cgpu.cli.main import main


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["ps", "--jso"], ["run", "--memory"], ["set"]])
def test_a_malformed_command_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    assert "--help" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("cgpu 0")

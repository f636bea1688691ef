"""``cgpu account``: what is asked, and the forms of the answer."""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from cgpu.adapters.agent_client import AgentClient
from cgpu.agent.ledger import Ledger
from cgpu.cli import account
from cgpu.cli.main import main
from cgpu.errors import UsageError
from cgpu.model.account import AccountQuery
from cgpu.settings import Settings
from cgpu.testing.fakes import GPU_UUIDS, gpu
from tests.unit.agent.conftest import tenant

S = 10**9
ROW: dict[str, Any] = {
    "tenant_id": "run-1",
    "name": 'a, "b"',
    "gpu_uuid": GPU_UUIDS[0],
    "gpu_index": 0,
    "from": 1_700_000_000,
    "to": 1_700_000_060,
    "got_ns": 15 * S + 1_234_567,
    "waited_ns": 2 * S,
    "turns": 12,
    "preempted": 3,
    "preempting": 4,
    "simulated": True,
}
NAMES = [*ROW]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the agent was asked for; it answers ``ROW``."""
    paths: list[str] = []

    def get(_: AgentClient, path: str) -> list[dict[str, Any]]:
        paths.append(path)
        return [ROW]

    monkeypatch.setattr(AgentClient, "get", get)
    return paths


def query(*arguments: str, now: float = 1_700_000_000.5) -> AccountQuery:
    parser = argparse.ArgumentParser()
    account.add_parser(parser.add_subparsers())
    return account.query_of(parser.parse_args(["account", *arguments]), now)


def test_what_is_asked():
    assert query() == AccountQuery()
    assert query(
        "--since", "2h", "--until", "@1699999990", "--tenant", "t", "--gpu", "1", "--step", "1h"
    ) == AccountQuery(1_700_000_000 - 7200, 1_699_999_990, "t", "1", 3600)


@pytest.mark.parametrize("arguments", [("--since", "@1800000000"), ("--since", "1h", "--until", "2h")])
def test_an_interval_that_ends_before_it_begins_is_refused(arguments: tuple[str, ...]):
    with pytest.raises(UsageError, match="is not before") as refused:
        query(*arguments)
    assert "--since" in refused.value.remedy


def test_the_agent_is_asked_for_it(asked: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["account", "--since", "@1700000000", "--tenant", "a/b", "--step", "60s", "--json"]) == 0
    assert asked == ["/v1/account?since=1700000000&tenant=a%2Fb&step=60"]
    assert json.loads(capsys.readouterr().out) == [ROW]


def test_csv_has_a_header_row_and_quotes_as_rfc_4180(asked: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["account", "--csv"]) == 0
    text = capsys.readouterr().out
    assert text.count("\r\n") == 2
    assert '"a, ""b"""' in text
    header, values = csv.reader(io.StringIO(text))
    assert header == NAMES
    assert values == [str(ROW[name]) for name in NAMES[:-1]] + ["true"]


def test_the_table_has_seconds_and_the_part_of_the_interval(asked: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["account"]) == 0
    header, row, interval, simulated = capsys.readouterr().out.splitlines()
    assert header.split() == ["TENANT", "NAME", "GPU", "GOT", "GOT%", "WAITED", "SLOTS", "PREEMPTED", "PREEMPTING"]
    assert row.split() == ["run-1", "a,", '"b"', "0", "15.001s", "25.0%", "2.000s", "12", "3", "4"]
    assert interval.startswith("from 2023-11-1")
    assert " to 2023-11-1" in interval
    assert "simulated" in simulated


def test_history_names_the_beginning_of_each_step(asked: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["account", "--step", "1m"]) == 0
    header, row, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "FROM"
    assert row.startswith("2023-11-1")


def test_an_account_of_nobody_says_so():
    assert "no tenant had a share" in account.listing([], history=False)


@pytest.mark.parametrize(
    "arguments", [["--since", "yesterday"], ["--until", "5"], ["--step", "90s"], ["--json", "--csv"], ["--since"]]
)
def test_what_is_malformed_is_told(arguments: list[str], asked: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["account", *arguments]) == 2
    assert arguments[-1].removeprefix("--") in capsys.readouterr().err
    assert asked == []


def test_the_ledger_of_a_private_agent_that_has_ended_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("cgpu.adapters.agent_client.SYSTEM_SOCKET", tmp_path / "none")
    monkeypatch.setenv("CGPU_RUNTIME_DIR", str(tmp_path))
    settings = Settings.from_environment()
    assert main(["account"]) == 4  # neither agent nor ledger
    ledger = Ledger(settings.account)
    ledger.begin(tenant("was"), {GPU_UUIDS[0]: gpu()})
    ledger.close()
    capsys.readouterr()
    assert main(["account", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["tenant_id"] == "was"
    assert list(row) == NAMES
    assert main(["account", "--tenant", "nobody"]) == 3
    assert "no tenant 'nobody'" in capsys.readouterr().err


def test_the_ledger_of_a_folder_is_not_taken_for_that_of_another_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CGPU_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CGPU_AGENT_SOCKET", str(tmp_path / "other.sock"))
    ledger = Ledger(Settings.from_environment().account)
    ledger.begin(tenant("was"), {GPU_UUIDS[0]: gpu()})
    ledger.close()
    assert main(["account"]) == 4

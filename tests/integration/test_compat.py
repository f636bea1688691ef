"""``cgpu compat`` as users run it, and its page of documentation."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import cgpu
from cgpu.compat.dataset import shipped
from cgpu.compat.export import export
from tests.integration.conftest import CGPU, SECONDS

PAGE = Path(__file__).parents[2] / "docs" / "compat.md"
ALL = {
    "cgpu": "1.5.7",
    "driver": "535.129.03",
    "kernel": "5.10.134",
    "toolkit": "1.13.5",
    "instance": "ecs.gn7i-c8g1.2xlarge",
}


def compat(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
    environment["PYTHONPATH"] = str(Path(cgpu.__file__).parents[1])
    return subprocess.run(
        [*CGPU, "compat", *arguments], env=environment, text=True, capture_output=True, timeout=SECONDS
    )


def answer(**facts: str) -> tuple[int, Any]:
    result = compat(*(part for name, value in facts.items() for part in (f"--{name}", value)), "--json")
    return result.returncode, json.loads(result.stdout)


def test_a_version_that_fits_everything_and_panics():
    code, document = answer(**ALL)
    assert code == 2
    assert document["verdict"] == "unsupported"
    assert document["checks"][0]["name"] == "issue:kernel-panic"
    by_name = {check["name"]: check for check in document["checks"]}
    assert all(by_name[name]["verdict"] == "supported" for name in ("driver", "instance", "toolkit", "kernel"))
    assert all(set(check) >= {"name", "verdict", "value", "rule", "source"} for check in document["checks"])
    assert by_name["driver"]["value"] == "535.129.03"
    assert "1.5.10" in document["advice"]
    assert document["changes"] == [
        {
            "fact": "cgpu",
            "from": "1.5.7",
            "to": "1.5.10",
            "why": "issue:kernel-panic is unsupported with cGPU 1.5.7",
        }
    ]
    assert document["data"]["date"] == "2026-03-31"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"cgpu": "1.5.10"}, 0), ({"cgpu": "1.5.9"}, 1), ({"cgpu": "1.5.21"}, 1), ({"cgpu": "1.5.2"}, 2)],
)
def test_the_exit_code_is_that_of_the_worst_check(change: dict[str, str], code: int):
    assert answer(**{**ALL, **change})[0] == code


@pytest.mark.parametrize("name", ["driver", "instance", "toolkit", "kernel"])
def test_any_subset_is_answered(name: str):
    _, document = answer(cgpu="1.5.20", **{name: ALL[name]})
    matrices = [check["name"] for check in document["checks"] if not check["name"].startswith("issue:")]
    assert matrices == [name]
    assert set(document["not_checked"]) >= {"driver", "instance", "toolkit", "kernel"} - {name}


def test_without_a_version_those_that_fit_are_listed():
    result = compat("--driver", "570.86.15", "--kernel", "5.15.0-91-generic", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 0
    assert document["fitting"] == ["1.5.10", "1.5.18", "1.5.19", "1.5.20"]
    assert compat("--kernel", "5.16.0").returncode == 2
    assert compat("--kernel", "6.6.0").returncode == 1


def test_the_container_optimized_os_needs_a_later_version():
    assert compat("--cgpu", "1.5.18", "--container-os").returncode == 2
    assert "to 1.5.19" in compat("--cgpu", "1.5.18", "--container-os").stdout
    assert compat("--cgpu", "1.5.18").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--driver", "latest"), "driver: not a version: 'latest'"),
        (("--cgpu", "1.5.7", "--kernel", "five"), "kernel: not a version"),
        (("--instance", "-"), "instance: "),
        ((), "nothing to check"),
        (("--cgpu", "1.5.7", "--glibc", "2.17"), "with --ours only"),
        (("--cgpu", "1.5.7", "--label", "x"), "not a label"),
        (("--cgpu", "1.5.7", "--pods-per-gpu", "-1"), "negative"),
        (("--cgpu", "1.5.7", "--data", "/nonexistent.toml"), "/nonexistent.toml: No such file"),
        (("--export", "xml"), "invalid choice"),
    ],
)
def test_a_malformed_request_says_what_is_wrong(arguments: tuple[str, ...], words: str):
    result = compat(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_rows_of_the_users_own(tmp_path: Path):
    own = tmp_path / "own.toml"
    own.write_text('[[kernel]]\ncgpu = ["1.5.20", "1.5.20"]\nsupported = ["6"]\nsource = "tried"\n')
    assert compat("--cgpu", "1.5.20", "--kernel", "6.6.1").returncode == 1
    result = compat("--cgpu", "1.5.20", "--kernel", "6.6.1", "--data", str(own))
    assert result.returncode == 0
    assert "own.toml" in result.stdout
    own.write_text("[[kernel]]\ncgpu = 1\n")
    result = compat("--cgpu", "1.5.20", "--data", str(own))
    assert result.returncode == 2
    assert "own.toml: kernel 1: cgpu is not a list" in result.stderr


def test_ours():
    result = compat("--ours", "--kernel", "5.4.0", "--glibc", "2.17", "--driver", "535.1.1", "--cgroup", "2", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 0
    assert {check["name"] for check in document["checks"]} == {
        "ours:kernel", "ours:glibc", "ours:driver", "ours:cgroup", "ours:layer",
    }  # fmt: skip
    assert document["data"].keys() == json.loads(compat("--export", "json").stdout)["data"].keys()
    assert compat("--ours", "--kernel", "4.19").returncode == 2
    assert "data of 20" in compat("--ours", "--kernel", "4.19").stdout


def test_the_tables_in_the_page_are_the_data():
    made = re.search(r"<!-- begin: cgpu compat --export markdown -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert made
    assert made[1] == export(shipped(), "markdown")
    assert compat("--export", "markdown").stdout == made[1]


def test_what_the_page_shows_is_what_happens():
    shown = re.findall(r"```console\n\$ cgpu compat (.*?)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(shown) >= 3
    for command, output in shown:
        assert compat(*command.split()).stdout == output, command


def test_ours_names_what_is_not_known_and_what_it_does_not_check():
    given = ("--ours", "--kernel", "7.1", "--toolkit", "3.0", "--instance", "gn7i")
    result = compat(*given, "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 1
    assert {check["name"]: check["verdict"] for check in document["checks"]} == {
        "ours:kernel": "unknown",
        "ours:toolkit": "unknown",
    }
    assert document["not_checked"] == ["instance"]
    assert "not checked, since this cgpu needs nothing of it: instance\n" in compat(*given).stdout

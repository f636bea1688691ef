"""The report of `make test-gpu`: what card it was and how each check ended, and no name of anybody's in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.calls import LAUNCH_NS
from bench.calls import Figure as Measured
from tests.gpu.report import About, Check, Figure, Findings, check_name, document, markdown, without_names

ABOUT = About(
    simulated=False, card="Tesla T4", memory_bytes=15 << 30, driver="550.163.01", memory_layer="shim",
    memory_layers=("shim",), compute_layer="slots", kernel="Linux 6.1", cgroups="version 2",
    machine="x86_64, 4 processors, glibc 2.36", load=0.25, cgpu="0.1.0", day="2026-11-28",
)  # fmt: skip
FOUND = Findings([Figure("escapes", 0, asked="0"), Figure("worst", 1.23456, "ms")], [("cuMemCreate", "held: a | b")])
CHECKS = (
    Check("escapes", "no function gets more", "passed", 2.0, findings=FOUND),
    Check("memory", "the charge", "failed", 1.0, "AssertionError: assert 1 == 2"),
    Check("time", "weights", "skipped", 0.0, "needs a PID namespace"),
)


def test_the_table_tells_card_driver_layer_and_every_verdict():
    text = markdown(ABOUT, CHECKS)
    assert "# cgpu on a real GPU" in text
    for row in (
        "| card | Tesla T4, 15.0 GiB |",
        "| driver | 550.163.01 |",
        "| memory layer in force | shim (there are: shim) |",
        "| kernel | Linux 6.1 |",
        "| cgroups | version 2 |",
        "| machine | x86_64, 4 processors, glibc 2.36; load 0.2 when the run began |",
        "1 passed, 1 failed, 1 skipped.",
        "| escapes | no function gets more | passed | escapes 0 (asked: 0); worst 1.235 ms |",
        "| memory | the charge | failed | AssertionError: assert 1 == 2 |",
        "| cuMemCreate | held: a / b |",
    ):
        assert row in text


def test_a_simulated_card_is_called_one():
    about = replace(ABOUT, simulated=True)
    assert "SIMULATED" in markdown(about, ())
    assert document(about, ())["simulated"] is True


def test_the_document_is_json():
    told = json.loads(json.dumps(document(ABOUT, CHECKS)))
    assert told["totals"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert told["about"]["driver"] == "550.163.01"
    assert told["checks"][0]["findings"]["figures"][0] == {"name": "escapes", "value": 0, "unit": "", "asked": "0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FileNotFoundError: '/home/ann/work/cgpu/x.py'", "FileNotFoundError: 'PATH'"),
        ("agent on /tmp/cgpu-x/run/agent.sock\nmore", "agent on PATH"),
        ("card GPU-11111111-2222-3333 of ann-laptop", "card GPU of NAME"),
        ("AssertionError: assert 3 / 4 == 1/2", "AssertionError: assert 3 / 4 == 1/2"),
    ],
)
def test_names_of_files_machines_and_cards_stay_at_home(text: str, said: str):
    assert without_names(text, "ann-laptop", "") == said


@given(st.lists(st.from_regex(r"[a-z0-9_.-]{1,8}", fullmatch=True), min_size=2, max_size=5), st.text(max_size=20))
def test_no_path_is_left(parts: list[str], around: str):
    path = "/" + "/".join(parts)
    assert path not in without_names(f"{around} {path}")


def test_a_test_is_named_by_its_sentence():
    assert check_name("tests/gpu/test_time.py::test_a_b[5-(1, 2)]") == ("time", "a b [5-(1, 2)]")


def test_what_is_ten_times_too_dear_is_far_off():
    assert Measured("launch", 4.0, 90.0, LAUNCH_NS).far_off(LAUNCH_NS, noise=0.0)
    assert not Measured("launch", 2000.0, 2100.0, LAUNCH_NS).far_off(LAUNCH_NS, noise=0.1)

"""A file of the user's own: it adds and overrides rows, and what is wrong with it is said."""

from __future__ import annotations

import csv
import io
import json

import pytest

from cgpu.compat import EXPORT_FORMATS
from cgpu.compat.alibaba import check
from cgpu.compat.dataset import Dataset, overlaid, shipped
from cgpu.compat.export import export
from cgpu.compat.ours import check_ours
from cgpu.compat.rules import Rule
from cgpu.compat.verdict import Verdict
from cgpu.errors import DataError

OWN = """
[dataset]
date = 2026-11-01
versions = ["1.5.21"]

[[driver]]
cgpu = ["1.5.21", "1.5.21"]
supported = ["580"]
source = "tried here"

[[driver]]
cgpu = ["1.5.3", "1.5.20"]
supported = ["535<=535.129.03"]
source = "tried here"

[[issue]]
id = "kernel-panic"
title = "panic"
affected = "<=1.5.6"
fixed = ">1.5.6"
cause = "a deadlock"
fix = "upgrade"
procedure = "ours"
source = "tried here"
"""


def verdict(dataset: Dataset, cgpu: str, driver: str) -> Verdict:
    return next(one.verdict for one in check(dataset, {"cgpu": cgpu, "driver": driver}) if one.name == "driver")


def test_a_file_adds_rows_and_replaces_those_of_the_same_versions():
    own = overlaid(shipped(), OWN, "own.toml")
    assert verdict(own, "1.5.21", "580.95.05") is Verdict.SUPPORTED
    assert verdict(own, "1.5.10", "535.129.03") is Verdict.SUPPORTED
    assert verdict(own, "1.5.10", "535.154.05") is Verdict.UNSUPPORTED
    assert verdict(own, "1.5.10", "470.57.02") is Verdict.UNKNOWN
    assert verdict(own, "1.5.2", "470.57.02") is Verdict.SUPPORTED
    assert own.issues["kernel-panic"].affected == Rule.parse("<=1.5.6")
    assert own.own == ("own.toml",)
    assert own.date.isoformat() == "2026-11-01"
    assert shipped().own == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("driver = 1", "own.toml: driver is not a list of tables"),
        ("[drivers]", "there is no table 'drivers'"),
        ("[[driver]]\ncgpu = ['1.5.3']\nsupported = []\nsource = ''", "driver 1: cgpu is the first and the last"),
        ("[[driver]]\ncgpu = ['1.5.3', '1.5.2']\nsupported = []\nsource = ''", "1.5.3 is above 1.5.2"),
        ("[[driver]]\ncgpu = ['1.5.3', 'x']\nsupported = []\nsource = ''", "driver 1: cgpu: not a version: 'x'"),
        ("[[driver]]\ncgpu = ['1.5.3', '1.5.4']\nsupported = ['~5']\nsource = ''", "not a rule: '~5'"),
        ("[[driver]]\ncgpu = ['1.5.3', '1.5.4']\nsource = ''", "supported is missing"),
        ("[[driver]]\ncgpu = ['1.5.3', '1.5.4']\nsupported = ['535']", "source is missing"),
        ("[[issue]]\nid = 'x'", "issue 1: title is missing"),
        ("[[driver]", "own.toml: "),
        ("issue = ['x']", "issue 1: not a table"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name_and_row(text: str, words: str):
    with pytest.raises(DataError) as error:
        overlaid(shipped(), text, "own.toml")
    assert words in str(error.value)
    assert "own.toml" in str(error.value)


def test_a_row_that_stands_twice_is_refused():
    row = "[[kernel]]\ncgpu = ['1.5.3', '1.5.4']\nsupported = ['5']\nsource = ''\n"
    with pytest.raises(DataError, match="twice"):
        overlaid(shipped(), row * 2, "own.toml")


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_every_export_tells_the_date_and_all_rows(form: str):
    text = export(shipped(), form)
    assert "2026-03-31" in text
    for row in (row for rows in shipped().rows.values() for row in rows):
        assert row.low.text in text
        assert row.high.text in text
    assert all(issue in text for issue in shipped().issues)


def test_the_exports_agree():
    document = json.loads(export(shipped(), "json"))
    rows = list(csv.DictReader(io.StringIO(export(shipped(), "csv"))))
    for table, entries in document["matrices"].items():
        mine = [row for row in rows if row["table"] == table]
        assert [row["supported"].split() for row in mine] == [entry["supported"] for entry in entries]
        assert [(row["from"], row["to"]) for row in mine] == [(entry["from"], entry["to"]) for entry in entries]


def test_our_own_needs_have_both_sides():
    def ours(**given: object) -> dict[str, Verdict]:
        return {one.name: one.verdict for one in check_ours(given)}

    assert ours(kernel="5.3.0") == {"ours:kernel": Verdict.SUPPORTED}
    assert ours(kernel="5.2.21") == {"ours:kernel": Verdict.UNSUPPORTED}
    assert ours(kernel="7.1") == {"ours:kernel": Verdict.UNKNOWN}
    assert ours(driver="999.1") == {"ours:driver": Verdict.UNKNOWN}
    assert ours(toolkit="1.18.1-1") == {"ours:toolkit": Verdict.SUPPORTED}
    assert ours(toolkit="3.0") == {"ours:toolkit": Verdict.UNKNOWN}
    assert ours(glibc="2.17") == {"ours:glibc": Verdict.SUPPORTED}
    assert ours(glibc="2.12") == {"ours:glibc": Verdict.UNSUPPORTED}
    assert ours(kubernetes="v1.36.0")["ours:kubernetes"] is Verdict.SUPPORTED
    assert ours(kubernetes="v1.35.9")["ours:kubernetes"] is Verdict.UNKNOWN
    assert ours(kubernetes="v1.33.1")["ours:kubernetes"] is Verdict.UNSUPPORTED
    assert ours(driver="440.33")["ours:driver"] is Verdict.UNSUPPORTED
    assert ours(driver="620.10.1")["ours:driver"] is Verdict.SUPPORTED
    assert ours(driver="630.1.1")["ours:driver"] is Verdict.UNKNOWN


def test_the_layer_that_would_enforce_memory_is_named():
    def layer(driver: str, cgroup: int) -> str:
        return next(one.rule for one in check_ours({"driver": driver, "cgroup": cgroup}) if one.name == "ours:layer")

    assert "layer driver would" in layer("615.10.1", 2)
    assert "layer shim would" in layer("615.10.1", 1)
    assert "layer shim would" in layer("610.43.02", 2)


def test_ours_does_not_manage_a_node_on_which_alibabas_is_active():
    def alibaba(**given: object) -> Verdict:
        return next(one.verdict for one in check_ours(given) if one.name == "ours:alibaba")

    assert alibaba(cgpu="1.5.20") is Verdict.UNSUPPORTED
    assert alibaba(cgpu="none", modules=["km"]) is Verdict.UNSUPPORTED
    assert alibaba(cgpu="none", modules=[]) is Verdict.SUPPORTED

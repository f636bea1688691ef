"""Reports in their formats: complete, ordered, well-formed whatever the texts are."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgpu.cli.doctor_spool import Spool, rank_of
from cgpu.compat.advice import Advice, Change
from cgpu.compat.dataset import shipped
from cgpu.compat.verdict import Check, Verdict, worst_first
from cgpu.doctor.checks import examine
from cgpu.doctor.outcome import Exit, Report
from cgpu.doctor.report import junit, markdown, sarif
from cgpu.doctor.report.json_report import write_many, write_one
from cgpu.doctor.report.text import printable, write_reports, write_upgrades
from cgpu.doctor.report.totals import Totals
from cgpu.doctor.upgrade import compare, parse_planned, planned_facts
from tests.unit.doctor.nodes import FINE, facts_of

DATA: Final = shipped()
BAD: Final = examine(DATA, facts_of(FINE, node="bad", cgpu="1.5.7"))
ODD: Final = examine(DATA, facts_of(FINE, node="odd", kernel="6.6.30"))
FINE_NODE: Final = examine(DATA, facts_of(FINE, node="fine"))
NODES: Final = (BAD, ODD, FINE_NODE)
Writer = Callable[[Iterable[Report], Totals], Iterator[str]]


def totals_of(reports: Iterable[Report]) -> Totals:
    totals = Totals(DATA)
    for report in reports:
        totals.add(report)
    return totals


def written(writer: Writer, reports: tuple[Report, ...] = NODES) -> str:
    return "".join(writer(reports, totals_of(reports)))


# --- Text


def test_the_text_of_one_node_has_a_line_per_check_the_worst_first_then_the_advice_and_the_date():
    lines = written(write_reports, (BAD,)).splitlines()
    assert lines[0] == "bad: unsupported"
    checks = lines[1 : 1 + len(BAD.checks)]
    assert [line.split("  ")[1].strip() for line in checks] == [check.verdict.value for check in BAD.checks]
    assert "issue:kernel-panic" in checks[0]
    assert lines[1 + len(BAD.checks)] == "  advice:"
    assert lines[-1] == "data: Alibaba Cloud cGPU, 2026-03-31"


def test_the_text_of_several_nodes_counts_them_and_leaves_out_what_is_supported():
    text = written(write_reports)
    assert text.startswith("3 nodes: 1 unsupported, 1 unknown, 1 supported\n")
    assert f"fine: supported ({len(FINE_NODE.checks)} checks supported)" in text
    assert text.index("bad: ") < text.index("odd: ") < text.index("fine: ")
    assert "isolation is on" not in text


def test_no_node_at_all_is_said():
    text = written(write_reports, ())
    assert "0 nodes: none that has a GPU was found" in text
    assert totals_of(()).exit_code == Exit.NOT_CHECKED


def test_an_upgrades_text_says_what_breaks_and_what_is_mended():
    before = facts_of(FINE, node="n", cgpu="1.5.7")
    planned = parse_planned("cgpu=1.5.20,kernel=6.6.30")
    after = examine(DATA, planned_facts(before, planned))
    upgrade = compare(planned, examine(DATA, before), after)
    text = "".join(write_upgrades([upgrade], totals_of([after])))
    assert "n: unsupported now, unknown with cgpu=1.5.20, kernel=6.6.30" in text
    assert "newly broken: 1\n    kernel: supported -> unknown" in text
    assert "mended: 1\n    issue:kernel-panic: unsupported -> supported" in text


def test_what_a_terminal_would_obey_is_written_out():
    assert printable("a\x1b[31m\r\nb\x9b\u202e\u2028\ud800") == r"a\x1b[31m\r\nb\x9b\u202e\u2028\ud800"
    assert printable("naïve 雪 é") == "naïve 雪 é"


@given(st.text())
def test_printable_text_is_one_printable_line_of_the_same_words(text: str):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    if text.isprintable():
        assert shown == text


# --- JSON


def test_the_json_of_one_node_is_its_report():
    document = json.loads("".join(write_one(BAD.as_json(), totals_of([BAD]))))
    assert document["verdict"] == "unsupported"
    assert document["data"]["date"] == "2026-03-31"
    assert document["data"]["source"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_json_of_several_nodes_is_an_object_with_a_list(count: int):
    reports = NODES[:count]
    document = json.loads("".join(write_many((report.as_json() for report in reports), totals_of(reports))))
    assert [node["node"] for node in document["nodes"]] == ["bad", "odd", "fine"][:count]
    assert (document["exit_code"], document["verdict"]) == ((3, "not observed") if count == 0 else (2, "unsupported"))
    assert sum(document["counts"].values()) == count


# --- JUnit


def test_junit_counts_its_cases_and_fails_what_is_unsupported():
    root = ET.fromstring(written(junit.write_junit))
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["bad", "odd", "fine"]
    for element, cases in [
        (root, root.findall(".//testcase")),
        *((suite, suite.findall("testcase")) for suite in suites),
    ]:
        assert element.get("tests") == str(len(cases))
        assert element.get("failures") == str(sum(case.find("failure") is not None for case in cases))
        assert element.get("skipped") == str(sum(case.find("skipped") is not None for case in cases))
        assert element.get("errors") == "0"
    failure = suites[0].find("testcase[@name='issue:kernel-panic']/failure")
    assert failure is not None
    assert failure.get("type") == "unsupported"
    assert "1.5.10" in (failure.text or "")
    skipped = suites[1].find("testcase[@name='kernel']/skipped")
    assert skipped is not None
    assert (skipped.get("message") or "").startswith("unknown: ")
    dates = [item.get("value") for item in root.findall(".//property[@name='data']")]
    assert dates == ["Alibaba Cloud cGPU, 2026-03-31"] * 3


XML_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def allowed_by_xml(text: str) -> str:
    return "".join(c if c in "\t\n\r" or " " <= c <= "\ufffd" or c >= "\U00010000" else "\ufffd" for c in text)


@given(XML_TEXT)
def test_text_comes_back_from_xml_as_it_was(text: str):
    element = ET.fromstring(f'<a b="{junit.escape(text)}">{junit.escape(text)}</a>')
    expected = allowed_by_xml(text)
    assert element.get("b") == expected
    assert (element.text or "") == expected


# --- SARIF

SARIF_ESSENTIALS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["tool"],
                "additionalProperties": False,
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "additionalProperties": False,
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"type": "string"},
                                    "semanticVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+(-.+)?$"},
                                    "rules": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/rule"}},
                                },
                            }
                        },
                    },
                    "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
                    "properties": {"type": "object"},
                },
            },
        },
    },
    "$defs": {
        "message": {
            "type": "object",
            "required": ["text"],
            "additionalProperties": False,
            "properties": {"text": {"type": "string", "minLength": 1}},
        },
        "rule": {
            "type": "object",
            "required": ["id"],
            "additionalProperties": False,
            "properties": {"id": {"type": "string"}, "shortDescription": {"$ref": "#/$defs/message"}},
        },
        "result": {
            "type": "object",
            "required": ["message", "ruleId"],
            "additionalProperties": False,
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": 0},
                "kind": {"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
                "level": {"enum": ["none", "note", "warning", "error"]},
                "message": {"$ref": "#/$defs/message"},
                "locations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "logicalLocations": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "properties": {
                                        "name": {"type": "string"},
                                        "fullyQualifiedName": {"type": "string"},
                                        "kind": {"type": "string"},
                                    },
                                },
                            }
                        },
                    },
                },
                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
                "properties": {"type": "object"},
            },
            "if": {"properties": {"kind": {"not": {"const": "fail"}}}},
            "then": {"properties": {"level": {"const": "none"}}},
        },
    },
}
"""What the schema of SARIF 2.1.0 demands of the objects that are used here, and of no others."""


def test_sarif_has_the_essentials_of_its_schema():
    document = json.loads(written(sarif.write_sarif))
    jsonschema.validate(document, SARIF_ESSENTIALS)
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    assert len(run["results"]) == sum(len(report.checks) for report in NODES)
    first = run["results"][0]
    assert (first["level"], first["locations"][0]["logicalLocations"][0]["name"]) == ("error", "bad")
    assert run["properties"]["data"]["date"] == "2026-03-31"
    fingerprints = [result["partialFingerprints"]["check/v1"] for result in run["results"]]
    assert len(fingerprints) == len(set(fingerprints))


def test_sarif_of_no_node_is_valid_too():
    jsonschema.validate(json.loads(written(sarif.write_sarif, ())), SARIF_ESSENTIALS)


# --- Markdown

CELL = re.compile(r"(?<!\\)(?:\\\\)*\|")


def test_markdown_has_a_table_per_node():
    text = written(markdown.write_markdown)
    assert text.count("\n| verdict | check | value | rule | source |\n") == 3
    assert "## bad: unsupported" in text
    assert "Data: Alibaba Cloud cGPU, 2026-03-31." in text


@given(st.text())
def test_markdown_obeys_nothing_of_an_escaped_text(text: str):
    escaped = markdown.escape(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|&~#$]", escaped)
    assert not re.match(r"([-+]|\d+[.)])(\s|$)", escaped)
    assert re.sub(r"\\([^a-zA-Z0-9])", r"\1", escaped) == printable(text).strip()


# --- Any text, in every format

TEXTS = st.text(max_size=40)
CHECKS = st.builds(Check, TEXTS, st.sampled_from(Verdict), TEXTS, TEXTS, TEXTS, TEXTS)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    advice = draw(
        st.none()
        | st.builds(
            Advice,
            possible=st.booleans(),
            text=TEXTS,
            changes=st.tuples(st.builds(Change, fact=TEXTS, current=TEXTS, to=TEXTS, why=TEXTS)),
        )
    )
    checks = worst_first(draw(st.lists(CHECKS, max_size=4)))
    return Report(draw(TEXTS), checks, facts_of(), advice, DATA.date)


@pytest.mark.timeout(20)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(reports(), max_size=3).map(tuple))
def test_every_format_is_well_formed_whatever_the_texts_are(some: tuple[Report, ...]):
    root = ET.fromstring(written(junit.write_junit, some).encode())
    assert len(root.findall(".//testcase")) == sum(len(report.checks) for report in some)
    jsonschema.validate(json.loads(written(sarif.write_sarif, some)), SARIF_ESSENTIALS)
    rows = [line for line in written(markdown.write_markdown, some).split("\n") if line.startswith("|")]
    assert len(rows) == sum(2 + len(report.checks) for report in some)
    assert all(len(CELL.findall(row)) == 6 for row in rows)
    text = written(write_reports, some)
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.timeout(20)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(reports(), max_size=8))
def test_a_spool_gives_everything_back_the_worst_first(some: list[Report]):
    with Spool[Report]() as spool:
        for report in some:
            spool.add(rank_of(report), report)
        back = list(spool)
        assert len(spool) == len(some)
        assert list(spool) == back, "it can be read again"
    assert back == sorted(some, key=rank_of)
    assert [report.verdict.rank for report in back] == sorted(report.verdict.rank for report in some)

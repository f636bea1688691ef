"""Reports as JUnit XML, as CI systems read it: a suite per node, a case per check.

``unsupported`` is a failure. ``conflict``, ``unknown`` and ``not observed`` are skipped cases, since the
format has no warnings: CI systems show their messages, and the exit code of ``cgpu doctor`` tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.outcome import Report
from cgpu.doctor.report.totals import Totals

# What XML 1.0 allows as a character; anything else cannot be written at all, not even by its number.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)


def escape(text: str) -> str:
    """For an element or an attribute in double quotes. A character that XML forbids becomes U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text).translate(_ESCAPES)


def write_junit(reports: Iterable[Report], totals: Totals) -> Iterator[str]:
    """The whole document, a suite at a time."""
    tests = sum(totals.checks.values())
    failures = totals.checks.get(Verdict.UNSUPPORTED, 0)
    skipped = tests - failures - totals.checks.get(Verdict.SUPPORTED, 0)
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f'<testsuites name="cgpu doctor" tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}">\n'
    for report in reports:
        yield from _suite(report, totals)
    yield "</testsuites>\n"


def _suite(report: Report, totals: Totals) -> Iterator[str]:
    verdicts = [check.verdict for check in report.checks]
    failures = verdicts.count(Verdict.UNSUPPORTED)
    skipped = len(verdicts) - failures - verdicts.count(Verdict.SUPPORTED)
    node = escape(report.node)
    yield (
        f'  <testsuite name="{node}" hostname="{node}" tests="{len(verdicts)}" failures="{failures}" errors="0"'
        f' skipped="{skipped}">\n    <properties>\n'
    )
    properties = {"verdict": report.verdict.value, "data": totals.data}
    if report.advice is not None:
        properties["advice"] = report.advice.text
    for name, value in properties.items():
        yield f'      <property name="{name}" value="{escape(value)}"/>\n'
    yield "    </properties>\n"
    for check in report.checks:
        yield _case(check, node)
    yield "  </testsuite>\n"


def _case(check: Check, node: str) -> str:
    head = f'    <testcase classname="cgpu.doctor.{node}" name="{escape(check.name)}"'
    if check.verdict is Verdict.SUPPORTED:
        return f"{head}/>\n"
    message = escape(f"{check.verdict.value}: {check.rule}")
    if check.verdict is not Verdict.UNSUPPORTED:
        return f'{head}>\n      <skipped message="{message}"/>\n    </testcase>\n'
    lines = (f"value: {check.value}", f"rule: {check.rule}", f"source: {check.source}", f"advice: {check.advice}")
    text = escape("\n".join(lines))
    failure = f'<failure type="{check.verdict.value}" message="{message}">{text}</failure>'
    return f"{head}>\n      {failure}\n    </testcase>\n"

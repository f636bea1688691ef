"""Reports as Markdown: a table per node, for an issue or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from cgpu.doctor.outcome import Report
from cgpu.doctor.report.text import printable
from cgpu.doctor.report.totals import Totals, counted

_SPECIAL: Final = re.compile(r"[\\`*_\[\]<>|&~#$]")
_LISTED: Final = re.compile(r"^([-+]|[0-9]+[.)])(?=\s|$)")  # what would begin a list


def escape(text: str) -> str:
    """For a heading, a table's cell or a list: on one line, with nothing that Markdown would obey."""
    return _LISTED.sub(_escaped_mark, _SPECIAL.sub(lambda match: f"\\{match[0]}", printable(text).strip()))


def _escaped_mark(match: re.Match[str]) -> str:
    return f"{match[1][:-1]}\\{match[1][-1]}"


def write_markdown(reports: Iterable[Report], totals: Totals) -> Iterator[str]:
    """The whole document, a node at a time."""
    yield "# cgpu doctor\n\n"
    nodes = counted(totals.nodes) or "none that has a GPU was found"
    yield f"{totals.count} node{'' if totals.count == 1 else 's'}: {nodes}. Data: {escape(totals.data)}.\n"
    for report in reports:
        yield from _node(report)


def _node(report: Report) -> Iterator[str]:
    yield f"\n## {escape(report.node)}: {report.verdict.value}\n\n"
    yield "| verdict | check | value | rule | source |\n|---|---|---|---|---|\n"
    for check in report.checks:
        cells = (check.verdict.value, check.name, check.value, check.rule, check.source)
        yield f"| {' | '.join(map(escape, cells))} |\n"
    lines = [] if report.advice is None else [report.advice.text]
    if report.advice is not None and report.advice.possible:
        lines += [f"{change.fact}: {change.current} to {change.to}: {change.why}" for change in report.advice.changes]
    lines += [f"{check.name}: {check.advice}" for check in report.checks if check.advice]
    if lines:
        yield "\n"
        yield from (f"- {escape(line)}\n" for line in dict.fromkeys(lines))

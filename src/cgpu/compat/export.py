"""The matrices and issues as JSON, CSV and Markdown. The tables in the documentation are made by this. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, Final

from cgpu.compat.dataset import MATRICES, Dataset, Row
from cgpu.compat.rules import Rule

_TITLES: Final = {
    "driver": "NVIDIA driver",
    "instance": "Instance family",
    "toolkit": "nvidia-container-toolkit",
    "kernel": "Kernel",
}
_FIELDS: Final = ("table", "from", "to", "supported", "unsupported", "source")


def export(dataset: Dataset, form: str) -> str:
    """The whole dataset in one of ``EXPORT_FORMATS``, ending with a newline."""
    return {"json": _json, "csv": _csv, "markdown": _markdown}[form](dataset)


def as_document(dataset: Dataset) -> dict[str, Any]:
    """The dataset as plain JSON values."""
    return {
        "data": about(dataset),
        "max_tenants_per_gpu": dataset.max_tenants_per_gpu,
        "isolation_labels": list(dataset.isolation_labels),
        "versions": [version.text for version in dataset.versions],
        "matrices": {table: [_row(row) for row in dataset.rows[table]] for table in MATRICES},
        "issues": [
            {
                "id": issue.id,
                "title": issue.title,
                "affected": issue.affected.text if issue.affected else None,
                "fixed": issue.fixed.text if issue.fixed else None,
                "when": {name: _plain(value) for name, value in issue.when.items()},
                "cause": issue.cause,
                "fix": issue.fix,
                "source": issue.source,
            }
            for issue in dataset.issues.values()
        ],
        "requirements": [
            {"id": one.id, "label": one.label, "fact": one.fact, "needs": one.needs.text, "source": one.source}
            for one in dataset.requirements.values()
        ],
        "installers": [
            {"installer": one.installer, "cgpu": one.cgpu, "inferred": one.inferred, "source": one.source}
            for one in dataset.installers
        ],
        "driver_releases": {one.version: one.released.isoformat() for one in dataset.releases.values()},
    }


def about(dataset: Dataset) -> dict[str, Any]:
    """What every output says of the data: its name, date and source, and the user's own files."""
    return {
        "name": dataset.name,
        "date": dataset.date.isoformat(),
        "source": dataset.source,
        "own": list(dataset.own),
    }


def date_line(dataset: Dataset) -> str:
    """The same in a line of text."""
    own = f", with {', '.join(dataset.own)}" if dataset.own else ""
    return f"data of {dataset.date}: {dataset.source}{own}"


def _plain(value: Any) -> Any:
    if isinstance(value, Rule):
        return value.text
    return value if isinstance(value, bool) else str(value)


def _entries(entries: tuple[Rule, ...] | tuple[str, ...]) -> list[str]:
    return [entry.text if isinstance(entry, Rule) else entry for entry in entries]


def _row(row: Row) -> dict[str, Any]:
    return {
        "from": row.low.text,
        "to": row.high.text,
        "supported": _entries(row.supported),
        "unsupported": _entries(row.unsupported),
        "source": row.source,
    }


def _json(dataset: Dataset) -> str:
    return json.dumps(as_document(dataset), indent=2) + "\n"


def _csv(dataset: Dataset) -> str:
    """One row per row of a matrix; entries are separated by spaces. The issues follow as rows of the table issue."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_FIELDS, "date"))
    for table in MATRICES:
        for row in dataset.rows[table]:
            supported, unsupported = " ".join(_entries(row.supported)), " ".join(_entries(row.unsupported))
            writer.writerow((table, row.low, row.high, supported, unsupported, row.source, dataset.date))
    for issue in dataset.issues.values():
        affected = issue.affected.text if issue.affected else ""
        fixed = issue.fixed.text if issue.fixed else ""
        writer.writerow((f"issue:{issue.id}", "", "", fixed, affected, issue.source, dataset.date))
    return text.getvalue()


def _markdown(dataset: Dataset) -> str:
    return "\n".join(_markdown_lines(dataset)) + "\n"


def _markdown_lines(dataset: Dataset) -> Iterator[str]:
    yield f"{date_line(dataset)[:1].upper()}{date_line(dataset)[1:]}."
    for table in MATRICES:
        yield ""
        yield f"**{_TITLES[table]}**"
        yield ""
        yield "| cGPU | supported | not supported |"
        yield "|---|---|---|"
        for row in dataset.rows[table]:
            yield f"| {row.span} | {_cell(row.supported)} | {_cell(row.unsupported)} |"
    yield ""
    yield "**Known issues**"
    yield ""
    yield "| id | what happens | cGPU affected | fixed in | only with |"
    yield "|---|---|---|---|---|"
    for issue in dataset.issues.values():
        affected = _escaped(issue.affected.text) if issue.affected else "any"
        fixed = _escaped(issue.fixed.text) if issue.fixed else "-"
        when = ", ".join(f"{name} {_plain(value)}" for name, value in issue.when.items())
        yield f"| `{issue.id}` | {_escaped(issue.title)} | {affected} | {fixed} | {_escaped(when) or '-'} |"
    yield ""
    yield "**ack-ai-installer**"
    yield ""
    yield "| component | brings cGPU | how that is known |"
    yield "|---|---|---|"
    for one in dataset.installers:
        how = "inferred from" if one.inferred else "stated in"
        yield f"| {_escaped(one.installer)} | {_escaped(one.cgpu)} | {how}: {_escaped(one.source)} |"


def _cell(entries: tuple[Rule, ...] | tuple[str, ...]) -> str:
    return ", ".join(_escaped(text) for text in _entries(entries)) or "-"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")

"""Reports as one JSON document, written node by node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from cgpu.compat.export import about
from cgpu.doctor.report.totals import Totals


def write_one(document: dict[str, Any], totals: Totals) -> Iterator[str]:
    """One node's document: ``Report.as_json``, or that of an upgrade."""
    yield json.dumps({**document, "data": about(totals.dataset)}, indent=2) + "\n"


def write_many(documents: Iterable[dict[str, Any]], totals: Totals, name: str = "nodes") -> Iterator[str]:
    """``{"verdict", "exit_code", "counts", "data", "nodes": [...]}``, a line per node."""
    head = {
        "verdict": totals.verdict.value,
        "exit_code": int(totals.exit_code),
        "counts": {verdict.value: count for verdict, count in totals.nodes.items()},
        "data": about(totals.dataset),
    }
    yield json.dumps(head).removesuffix("}") + f', "{name}": ['
    separator = "\n"
    for document in documents:
        yield separator + json.dumps(document)
        separator = ",\n"
    yield "\n]}\n"

"""How ``cgpu top`` looks: documents in, lines of text out, for a screen of any size. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.cli import render
from cgpu.cli.terminal import Line
from cgpu.cli.top_view import Look, View
from cgpu.model.units import MIB

_GAP: Final = 2
_BAR: Final = 12
_NAME_NARROW: Final = 10  # a name gives way to columns down to this
_KEYS: Final = "q quit  s sort  p pause  ? help"
_HELP: Final = """\
q  quit
s  sort by the next column
p  pause, and go on
?  this help, and back

ASKED    percent of the card's time, if every tenant on it had work
GOT      percent that it got in the last second or so; in the bar | is what it asked
MEMORY   used and quota
WAIT     now: it wants the card and does not hold it; percent of the last interval that it waited
COMPUTE  asked with --compute; "recorded": not enforced under the policy in force
LIMIT    the cap of --compute-limit
PRIO     high: served before the others
LAYER    what enforces memory and time
OOM      allocations refused for the quota
!        its region is at fault, or a process goes round the shim: cgpu ps says more

Columns that do not fit are left out, the least important first.\
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """One tenant on one GPU."""

    tenant: Mapping[str, Any]
    share: dict[str, Any]
    waited_percent: float | None


@dataclass(frozen=True, slots=True)
class _Column:
    """``rank``: the highest is left out first. ``least``: width below which it would jump as its values change."""

    title: str
    rank: int
    least: int
    cell: Callable[[_Row], str]
    right: bool = False

    def aligned(self, text: str, width: int) -> str:
        return text[:width].rjust(width) if self.right else text[:width].ljust(width)


def screen(view: View, width: int, height: int) -> list[Line]:
    """At most ``height`` lines, none wider than ``width``."""
    lines = [Line(_title(view, width), "bold")]
    if view.helping:
        lines += [Line(text) for text in _HELP.split("\n")]
    else:
        lines += _trouble(view)
        if view.shown is not None:
            lines += _body(view.shown, view.sort, width, height - len(lines))
    return [Line(_printable(line.text)[: max(width, 0)], line.style) for line in lines[: max(height, 0)]]


def _title(view: View, width: int) -> str:
    tenants = len(view.shown.tenants) if view.shown else 0
    parts = [
        (0, "cgpu top"),
        (2, view.shown.clock if view.shown else ""),
        (1, "PAUSED" if view.paused else ""),
        (3, f"sort: {view.sort}"),
        (6, _counted(tenants, "tenant")),
        (5, f"every {view.interval_seconds:g} s"),
        (4, _KEYS),
    ]
    return _fitted(parts, width)


def _trouble(view: View) -> list[Line]:
    if not view.trouble:
        return []
    if view.latest is not None:
        return [Line(f"no answer since {view.latest.clock}, trying again: {view.trouble}", "reverse")]
    return [Line(f"no answer, trying again: {view.trouble}", "reverse"), *([Line(view.remedy)] if view.remedy else [])]


def _body(look: Look, sort: str, width: int, room: int) -> list[Line]:
    rows = _sorted(look, sort)
    gpus = [Line(_gpu(gpu, width), "reverse" if gpu["fault"] else "") for gpu in look.gpus]
    heading, *table = _table(rows, width) if rows else ["no tenants"]
    # The table may push GPUs off the screen, to half of it at most.
    gpus = _clipped(gpus, max(room - 1 - len(table), (room - 1) // 2, 1), "GPU")
    tenants = _clipped([Line(text) for text in table], room - 1 - len(gpus), "more line")
    return [*gpus, Line(heading.ljust(width), "reverse" if rows else ""), *tenants]


def _gpu(gpu: Mapping[str, Any], width: int) -> str:
    mark = f" [{render.SIMULATED}]" if gpu["simulated"] else ""
    parts = [
        (0, f"GPU {gpu['index']}{mark}"),
        (5, gpu["name"]),
        (6, f"policy {render.policy_name(gpu['policy'])}"),
        (2, f"util {gpu['utilisation_percent']}%"),
        (3, f"memory {_memory(gpu['used_bytes'], gpu['total_bytes'])}"),
        (4, f"tenants {gpu['tenants']}/{gpu['max_inst']}"),
    ]
    if gpu["fault"]:
        parts = [parts[0], (1, f"does not answer: {gpu['fault']}")]
        return "  ".join(text for _, text in parts)  # as much of the reason as there is room for
    return _fitted(parts, width)


def _table(rows: Sequence[_Row], width: int) -> list[str]:
    """The heading and a line per row."""
    cells = [[_printable(column.cell(row)) for row in rows] for column in _COLUMNS]
    natural = [
        max(column.least, len(column.title), *map(len, texts)) for column, texts in zip(_COLUMNS, cells, strict=True)
    ]
    widths = [min(natural[0], _NAME_NARROW), *natural[1:]]
    kept = _kept([(column.rank, taken) for column, taken in zip(_COLUMNS, widths, strict=True)], width)
    spare = width - sum(widths[place] + _GAP for place in kept) + _GAP
    widths[0] = max(1, min(natural[0], widths[0] + spare))
    titles = [column.title for column in _COLUMNS]
    return [
        (" " * _GAP).join(_COLUMNS[place].aligned(texts[place], widths[place]) for place in kept)
        for texts in (titles, *zip(*cells, strict=True))
    ]


def _sorted(look: Look, sort: str) -> list[_Row]:
    rows = [
        _Row(tenant, share, look.waited_percent.get((tenant["id"], share["gpu_uuid"])))
        for tenant in look.tenants
        for share in tenant["shares"]
    ]
    rows.sort(key=lambda row: (row.tenant["name"], row.tenant["id"], render.gpu_index(row.share)))
    if sort in _SORT_KEYS:
        rows.sort(key=_SORT_KEYS[sort])  # it is stable: equal ones stay by name
    return rows


_SORT_KEYS: Final[dict[str, Callable[[_Row], float]]] = {
    "gpu": lambda row: float("inf") if row.share["gpu_index"] is None else row.share["gpu_index"],
    "got": lambda row: -row.share["utilisation_percent"],
    "asked": lambda row: -row.share["asked_percent"],
    "memory": lambda row: -row.share["used_bytes"],
    "wait": lambda row: -(row.waited_percent or 0.0),
    "oom": lambda row: -row.share["oom_count"],
}


def _name(row: _Row) -> str:
    suspect = row.tenant["fault"] or any(process["bypasses_shim"] for process in row.share["processes"])
    return f"!{row.tenant['name']}" if suspect else row.tenant["name"]


def _bar(row: _Row) -> str:
    bar = ["#" if place < _place(row.share["utilisation_percent"]) else "." for place in range(_BAR)]
    bar[min(_place(row.share["asked_percent"]), _BAR - 1)] = "|"
    return "".join(bar)


def _place(percent: float) -> int:
    return round(_BAR * min(max(percent, 0.0), 100.0) / 100)


def _wait(row: _Row) -> str:
    percent = "-" if row.waited_percent is None else f"{row.waited_percent:.0f}%"
    return f"{'now' if row.share['waiting'] else '':<3} {percent:>4}"


def _compute(row: _Row) -> str:
    percent = row.share["compute_percent"]
    return "-" if percent is None else f"{percent}%{'' if row.share['compute_enforced'] else ' recorded'}"


def _limit(row: _Row) -> str:
    percent = row.share["compute_limit_percent"]
    return "-" if percent is None else f"{percent}%"


_COLUMNS: Final = (
    _Column("TENANT", 0, 8, _name),
    _Column("GPU", 4, 3, lambda row: "gone" if row.share["gpu_index"] is None else str(row.share["gpu_index"])),
    _Column("ASKED", 5, 6, lambda row: f"{row.share['asked_percent']:.1f}%", right=True),
    _Column("GOT", 1, 6, lambda row: f"{row.share['utilisation_percent']}%", right=True),
    _Column("", 6, _BAR, _bar),
    _Column("MEMORY", 2, 13, lambda row: _memory(row.share["used_bytes"], row.share["memory_bytes"]), right=True),
    _Column("WAIT", 3, 8, _wait, right=True),
    _Column("WEIGHT", 9, 6, lambda row: str(row.share["weight"]), right=True),
    _Column("COMPUTE", 10, 7, _compute),
    _Column("LIMIT", 11, 5, _limit),
    _Column("PRIO", 12, 4, lambda row: "high" if row.share["priority"] else "-"),
    _Column("POLICY", 13, 6, lambda row: render.policy_name(row.share["policy"])),
    _Column("LAYER", 8, 5, lambda row: render.layers(row.share)),
    _Column("OOM", 7, 3, lambda row: str(row.share["oom_count"]), right=True),
)


def _memory(used_bytes: int, total_bytes: int) -> str:
    return f"{used_bytes // MIB}/{render.mebibytes(total_bytes)}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _clipped(lines: list[Line], room: int, noun: str) -> list[Line]:
    """As many as there is room for, the last saying how many are left out."""
    if len(lines) <= room or room < 2:  # a single line is better used for the first than for a count
        return lines[: max(room, 0)]
    return [*lines[: room - 1], Line(f"+{_counted(len(lines) - room + 1, noun)}")]


def _fitted(parts: Sequence[tuple[int, str]], width: int) -> str:
    """The parts that fit, each with its rank."""
    given = [(rank, text) for rank, text in parts if text]
    kept = _kept([(rank, len(text)) for rank, text in given], width)
    return (" " * _GAP).join(given[place][1] for place in kept)


def _kept(items: Sequence[tuple[int, int]], width: int) -> list[int]:
    """The places of the items (rank, width) that fit beside each other; the highest rank goes first, one stays."""
    kept = list(range(len(items)))
    while len(kept) > 1 and sum(items[place][1] + _GAP for place in kept) - _GAP > width:
        kept.remove(max(kept, key=lambda place: items[place][0]))
    return kept


def _printable(text: str) -> str:
    """One column per character, and nothing that the terminal would obey."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)

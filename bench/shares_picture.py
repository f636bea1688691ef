"""The picture of the table of shares: asked against got, as SVG of our own. Pure.

One panel per length of kernel, and one for fixed shares. It brings its own background, so it can be
read in light and in dark pages, and follows the reader's preference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.cells import kernel_name

FIXED_POLICY: Final = 3
COLUMNS: Final = 3
SIDE: Final = 200  # of a panel's square, in pixels
LEFT, TOP, RIGHT, BELOW = 56, 78, 24, 52  # around each panel; TOP also around the whole
STEP_X, STEP_Y = SIDE + LEFT + RIGHT, SIDE + 30 + BELOW
TICKS: Final = (0, 25, 50, 75, 100)
STYLE: Final = """
  .back { fill: #ffffff } .frame { fill: none; stroke: #8c959f } .diagonal { stroke: #8c959f }
  .band { fill: #2da44e; fill-opacity: .18 } .async { fill: #0969da } .peer { stroke: #6e7781; stroke-width: 1.5 }
  .sync { fill: none; stroke: #bc4c00 } text { fill: #1f2328; font: 12px system-ui, sans-serif }
  .title { font-size: 15px; font-weight: 600 } .head { font-weight: 600 } .small { font-size: 11px }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } .frame, .diagonal { stroke: #6e7681 } .band { fill: #3fb950; fill-opacity: .25 }
    .async { fill: #58a6ff } .sync { stroke: #f0883e } .peer { stroke: #9198a1 } text { fill: #e6edf3 }
  }
"""


@dataclass(frozen=True)
class Panel:
    """Rows of the document in one square, and others' figures where there are any."""

    title: str
    rows: tuple[Mapping[str, Any], ...]
    peers: tuple[Mapping[str, Any], ...] = ()

    @property
    def bound(self) -> float:
        """The widest of its rows', in points."""
        return max(float(row["bound_points"]) for row in self.rows)

    @property
    def worst(self) -> float:
        """The worst error, in points."""
        return max(float(row["worst_error_points"]) for row in self.rows)


def panels(rows: Iterable[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The rows that have a share to show, by length of kernel; fixed shares by themselves."""
    shown = [row for row in rows if row["bound_points"] is not None and row["worst_error_points"] is not None]
    fixed = [row for row in shown if row["policy"].get("policy") == FIXED_POLICY]
    others = [row for row in shown if row not in fixed]
    found = [
        Panel(f"kernels of {_length(length)}", tuple(row for row in others if row["kernel_ns"] == length))
        for length in sorted({row["kernel_ns"] for row in others})
    ]
    if fixed:
        lengths = sorted({row["kernel_ns"] for row in fixed})
        title = f"fixed shares, {_length(lengths[0])} to {_length(lengths[-1])}"
        found.append(Panel(title, tuple(fixed), tuple(peers)))
    return found


def _length(kernel_ns: int) -> str:
    name = kernel_name(kernel_ns)
    return f"{name[:-2]} {name[-2:]}"


def draw(document: Mapping[str, Any], peers: Sequence[Mapping[str, Any]] = ()) -> str:
    """The document of `python -m bench.shares` as a picture."""
    found = panels(document["rows"], peers)
    columns = min(COLUMNS, max(2, len(found)))  # the title needs two
    width = columns * STEP_X + RIGHT
    height = TOP + -(-len(found) // columns) * STEP_Y + 26 * bool(peers)
    machine = document["machine"]
    about = f"{machine['gpu']}, {machine['cpus']} CPUs, {' '.join(machine['system'].split('-')[:2])}"
    about += f"; windows of {document['window_seconds']:g} s"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}" rx="8"/>',
        _text(16, 26, "Shares of GPU time: asked against got, each tenant of each cell", "title"),
        _text(16, 44, about, "small"),
        f'<circle class="async" cx="22" cy="58" r="3"/>{_text(30, 62, "time on the card", "small")}',
        '<circle class="sync" cx="142" cy="58" r="2.5"/>',
        _text(150, 62, "time held, where it waits after each kernel", "small"),
        f'<rect class="band" x="394" y="53" width="14" height="10"/>{_text(413, 62, "bound", "small")}',
    ]  # fmt: skip
    for index, panel in enumerate(found):
        parts += _panel(panel, (index % columns) * STEP_X + LEFT, index // columns * STEP_Y + TOP + 24)
    if peers:
        y = height - 16
        parts.append(_cross(22, y - 4))
        parts.append(_text(30, y, "; ".join(sorted({_credit(peer) for peer in peers})), "small"))
    return "\n".join([*parts, "</svg>", ""])


def _credit(peer: Mapping[str, Any]) -> str:
    return f"{peer['name']}, as published in {peer['source']}"


def _panel(panel: Panel, left: float, top: float) -> list[str]:
    def x(percent: float) -> float:
        return round(left + percent / 100 * SIDE, 1)

    def y(percent: float) -> float:
        return round(top + SIDE - min(percent, 100.0) / 100 * SIDE, 1)

    half = panel.bound / 100 * SIDE
    corners = [(0, half), (SIDE - half, SIDE), (SIDE, SIDE), (SIDE, SIDE - half), (half, 0), (0, 0)]
    band = " ".join(f"{left + dx:.1f},{top + SIDE - dy:.1f}" for dx, dy in corners)
    parts = [
        _text(left, top - 8, panel.title, "head"),
        f'<polygon class="band" points="{band}"/>',
        f'<path class="diagonal" d="M{x(0)} {y(0)}L{x(100)} {y(100)}"/>',
        f'<rect class="frame" x="{left}" y="{top}" width="{SIDE}" height="{SIDE}"/>',
        _text(left + SIDE - 8, top + SIDE - 10, f"worst error {panel.worst:.2f} points", "small", "end"),
        _text(left + SIDE / 2, top + SIDE + 32, "asked, %", "small", "middle"),
        f'<g transform="rotate(-90 {left - 34} {top + SIDE / 2})">'
        + _text(left - 34, top + SIDE / 2, "got, %", "small", "middle")
        + "</g>",
    ]
    for tick in TICKS:
        parts.append(_text(x(tick), top + SIDE + 16, str(tick), "small", "middle"))
        parts.append(_text(left - 6, y(tick) + 4, str(tick), "small", "end"))
    parts += [_cross(x(peer["asked"]), y(peer["got"])) for peer in panel.peers]
    for kind, radius in (("async", 2), ("sync", 2.5)):
        marks = {
            (x(asked), y(got))
            for row in panel.rows
            if (row["got_is"] == "held") == (kind == "sync")
            for asked, got in zip(row["asked_percent"], row["got_percent"], strict=True)
        }
        circles = "".join(f'<circle cx="{cx}" cy="{cy}" r="{radius}"/>' for cx, cy in sorted(marks))
        parts.append(f'<g class="{kind}">{circles}</g>')
    return parts


def _cross(x: float, y: float) -> str:
    return f'<path class="peer" d="M{x - 3} {y - 3}l6 6m0 -6l-6 6"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'

"""The picture of the table of shares."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from bench.shares_picture import draw, panels

SVG = "{http://www.w3.org/2000/svg}"
PEER = {"name": "Other", "source": "their paper", "asked": 25, "got": 95.1}


def row(kernel_ns: int = 1_000_000, policy: int = 2, **values: Any) -> dict[str, Any]:
    return {
        "policy": {"policy": policy},
        "kernel_ns": kernel_ns,
        "asked_percent": [25.0, 75.0],
        "got_percent": [25.5, 74.5],
        "worst_error_points": 0.5,
        "bound_points": 1.0,
        "got_is": "card",
        **values,
    }


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"gpu": "Tesla T4, simulated GPU", "cpus": 2, "system": "Linux-6.18.4-x86_64"}
    return {"machine": machine, "window_seconds": 10.0, "rows": list(rows)}


def texts(svg: str) -> str:
    return "\n".join(element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text"))


def marks(svg: str, kind: str) -> list[ET.Element]:
    groups = ET.fromstring(svg).iter(f"{SVG}g")
    return [mark for group in groups if group.get("class") == kind for mark in group.iter(f"{SVG}circle")]


def test_there_is_a_panel_per_length_of_kernel_and_one_of_fixed_shares():
    rows = [row(20_000), row(20_000), row(1_000_000), row(50_000, policy=3), row(100_000_000, policy=3)]
    assert [panel.title for panel in panels(rows, ())] == [
        "kernels of 20 us",
        "kernels of 1 ms",
        "fixed shares, 50 us to 100 ms",
    ]


def test_rows_without_a_share_to_show_are_left_out():
    rows = [row(bound_points=None), row(worst_error_points=None), row()]
    assert len(panels(rows, ())[0].rows) == 1


def test_every_tenant_is_a_mark_and_time_held_is_marked_otherwise():
    svg = draw(document(row(), row(got_is="held", got_percent=[26.0, 74.0])))
    assert len(marks(svg, "async")) == 2
    assert len(marks(svg, "sync")) == 2


def test_a_mark_is_right_of_asked_and_above_got():
    svg = draw(document(row(asked_percent=[0.0, 100.0], got_percent=[0.0, 50.0])))
    low, half = sorted(marks(svg, "async"), key=lambda mark: float(mark.get("cx", "")))
    frame = next(element for element in ET.fromstring(svg).iter(f"{SVG}rect") if element.get("class") == "frame")
    left, top, side = (float(frame.get(name, "")) for name in ("x", "y", "width"))
    assert (float(low.get("cx", "")), float(low.get("cy", ""))) == (left, top + side)
    assert (float(half.get("cx", "")), float(half.get("cy", ""))) == (left + side, top + side / 2)


def test_each_panel_says_its_worst_error_and_the_picture_its_machine():
    svg = draw(document(row(worst_error_points=0.5), row(worst_error_points=0.72)))
    assert "worst error 0.72 points" in texts(svg)
    assert "Tesla T4, simulated GPU, 2 CPUs, Linux 6.18.4;" in texts(svg)


def test_it_can_be_read_in_light_and_in_dark_pages():
    svg = draw(document(row()))
    assert "prefers-color-scheme: dark" in svg
    assert any(element.get("class") == "back" for element in ET.fromstring(svg).iter(f"{SVG}rect"))


def test_others_figures_are_shown_only_where_they_have_a_source():
    rows = document(row(policy=3))
    crosses = draw(rows, [PEER]).count('class="peer"')
    assert crosses == 2  # the mark, and the legend's
    assert "Other, as published in their paper" in texts(draw(rows, [PEER]))
    assert 'class="peer"' not in draw(rows)


def test_others_figures_stand_in_the_panel_of_fixed_shares_alone():
    assert [len(panel.peers) for panel in panels([row(), row(policy=3)], [PEER])] == [0, 1]


def test_a_picture_without_rows_is_still_one():
    assert ET.fromstring(draw(document())).tag == f"{SVG}svg"

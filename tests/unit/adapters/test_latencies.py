from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.latencies import BOUNDS_S, Latencies


@given(st.lists(st.floats(0, 20), max_size=30))
def test_each_is_counted_where_it_ends(seconds: list[float]):
    latencies = Latencies("x_seconds", "path", "What it is.")
    for value in seconds:
        latencies.observe("/pods", value)
    lines = latencies.text().splitlines()
    assert lines[:2] == ["# HELP x_seconds What it is.", "# TYPE x_seconds histogram"]
    rows = dict(line.rsplit(" ", 1) for line in lines[2:])
    if not seconds:
        assert rows == {}
        return
    for bound in BOUNDS_S:
        assert int(rows[f'x_seconds_bucket{{path="/pods",le="{bound}"}}']) == sum(value <= bound for value in seconds)
    assert int(rows['x_seconds_bucket{path="/pods",le="+Inf"}']) == int(rows['x_seconds_count{path="/pods"}'])
    assert abs(float(rows['x_seconds_sum{path="/pods"}']) - sum(seconds)) < 1e-5


def test_rows_are_told_apart():
    latencies = Latencies("x_seconds", "path", "What it is.")
    latencies.observe("/pods", 0.1)
    latencies.observe("/claims", 0.1)
    assert [line for line in latencies.text().splitlines() if "_count" in line] == [
        'x_seconds_count{path="/claims"} 1',
        'x_seconds_count{path="/pods"} 1',
    ]

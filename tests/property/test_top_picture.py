"""The picture of ``cgpu top`` fits any screen, whatever is on the node."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cgpu.cli.top_picture import screen
from cgpu.cli.top_view import Look, View
from tests.unit.cli.sample_documents import gpu, process, share, tenant

sizes = st.integers(0, 250) | st.integers(-2, 25)
names = st.text(max_size=70)
amounts = st.integers(0, 1 << 44) | st.integers(0, 1 << 80)
percents = st.floats(0, 100) | st.integers(0, 100)

shares = st.builds(
    share,
    gpu_index=st.none() | st.integers(0, 99),
    gpu_uuid=names,
    memory_bytes=amounts,
    used_bytes=amounts,
    asked_percent=percents,
    utilisation_percent=st.integers(0, 100),
    waiting=st.booleans(),
    waited_ns=amounts,
    compute_percent=st.none() | st.integers(1, 100),
    compute_limit_percent=st.none() | st.integers(1, 100),
    compute_enforced=st.booleans(),
    weight=st.integers(1, 1000),
    priority=st.integers(0, 1),
    policy=st.integers(0, 5),
    oom_count=amounts,
    processes=st.lists(st.builds(process, bypasses_shim=st.booleans()), max_size=2),
)


@st.composite
def tenants(draw: st.DrawFn) -> dict[str, Any]:
    return tenant(draw(names), *draw(st.lists(shares, min_size=1, max_size=3)), fault=draw(names))


gpus = st.builds(
    gpu,
    index=st.integers(0, 99),
    uuid=names,
    name=names,
    simulated=st.booleans(),
    policy=st.integers(0, 5),
    utilisation_percent=st.integers(0, 100),
    used_bytes=amounts,
    total_bytes=amounts,
    max_inst=st.integers(1, 20),
    fault=st.just("") | names,
)
looks = st.builds(
    Look, st.lists(gpus, max_size=9), st.lists(tenants(), max_size=21), st.integers(0, 1 << 63), st.just("12:00:00")
)


@given(
    looks=st.lists(looks, max_size=2),
    trouble=st.just("") | names,
    keys=st.text("sp?x", max_size=9),
    width=sizes,
    height=sizes,
)
def test_no_line_is_wider_than_the_screen_and_no_screen_is_higher(
    looks: list[Look], trouble: str, keys: str, width: int, height: int
) -> None:
    view = View(1.0)
    for look in looks:
        view = view.answered(look)
    if trouble:
        view = view.failed(trouble, trouble)
    for key in keys:
        view = view.pressed(key)
    lines = screen(view, width, height)
    assert len(lines) <= max(height, 0)
    for line in lines:
        assert len(line.text) <= max(width, 0)
        assert all(" " <= letter <= "~" for letter in line.text)


@given(
    names=st.lists(st.from_regex("[a-z]{1,63}", fullmatch=True), max_size=20, unique=True),
    cards=st.integers(1, 4),
    width=st.integers(20, 200),
    height=st.integers(5, 60),
)
def test_every_tenant_has_its_line_or_is_counted_as_left_out(
    names: list[str], cards: int, width: int, height: int
) -> None:
    look = Look([gpu(index=index) for index in range(cards)], [tenant(name) for name in names], 0, "12:00:00")
    texts = [line.text for line in screen(View(1.0).answered(look), width, height)]
    heading = next(place for place, text in enumerate(texts) if text.startswith(("TENANT", "no tenants")))
    below = texts[heading + 1 :]
    left_out = int(below.pop().split()[0]) if below and below[-1].startswith("+") else 0
    assert len(below) + left_out == len(names)

"""Values of the chart: any text can be set, any tree can be written."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cgpu.errors import UsageError
from cgpu.k8s.chart_template import FUNCTIONS
from cgpu.k8s.chart_values import set_in

LINES = st.text().filter(lambda text: "\n" not in text)
LOOKALIKES = st.sampled_from(["yes", "On", "y", "1e3", "0x1", "~", "- a", "", "null", "2001-01-01"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | LOOKALIKES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | LOOKALIKES, inner),
    max_leaves=10,
)


def escaped(text: str) -> str:
    return re.sub(r"([\\.,=\[\]{}])", r"\\\1", text)


@given(st.dictionaries(LINES.filter(bool), LINES))
def test_any_name_and_any_text_can_be_set(values: dict[str, str]):
    found: dict[str, Any] = {}
    set_in(found, ",".join(f"{escaped(name)}={escaped(text)}" for name, text in values.items()), strings=True)
    assert found == values


@given(st.text(alphabet="a.=,[]{}\\\n01"))
def test_a_set_is_read_or_refused_whatever_it_is(text: str):
    with contextlib.suppress(UsageError):
        set_in({}, text)


@settings(deadline=None)
@given(st.dictionaries(st.text(), TREES, min_size=1), st.integers(0, 12))
def test_values_are_the_same_after_they_were_written_at_any_depth(value: dict[str, Any], width: int):
    text = "value:" + FUNCTIONS["nindent"](width + 1, FUNCTIONS["toYaml"](value))
    assert yaml.safe_load(text) == {"value": value}

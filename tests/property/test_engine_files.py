"""Whatever else an engine's file says, it says it after our entry has come and gone."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.engines.docker import Docker
from cgpu.adapters.engines.engine import ConfigFile

_KEYS = st.text(min_size=1, max_size=6)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_KEYS.filter(lambda key: key != "runtimes"), _VALUES, max_size=4), st.integers(0, 8))
def test_any_daemon_json_keeps_its_values_and_order(document: dict[str, object], indent: int):
    text = json.dumps(document, indent=indent or None)
    with_ours = Docker().with_runtime(ConfigFile(Path("x"), text), "/p")
    assert list(json.loads(with_ours)) == [*document, "runtimes"]
    assert Docker().without_runtime(with_ours, text) == text
    assert json.loads(Docker().without_runtime(with_ours, None) or "{}") == document

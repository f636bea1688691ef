"""Values of the chart, from files and ``--set``."""

from __future__ import annotations

from typing import Any

import pytest

from cgpu.errors import UsageError
from cgpu.k8s.chart_values import merged, refuse_what_is_not_allowed, set_in, without_null


def parsed(*texts: str, strings: bool = False) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        set_in(values, text, strings=strings)
    return values


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a=1"], {"a": 1}),
        (["a.b=true,a.c=false,d=null"], {"a": {"b": True, "c": False}, "d": None}),
        (["a=007,b=-5,c=1.5,d=x=y,e="], {"a": "007", "b": -5, "c": "1.5", "d": "x=y", "e": ""}),
        (["a={x,1,true}", "b={}"], {"a": ["x", 1, True], "b": [""]}),
        ([r"a=x\,y,b\.c/d=1"], {"a": "x,y", "b.c/d": 1}),
        (["a[1].b=1", "a[0].b=2", "a[1].c=3"], {"a": [{"b": 2}, {"b": 1, "c": 3}]}),
        (["a.b=1", "a=2"], {"a": 2}),
        (["a=2", "a.b=1"], {"a": {"b": 1}}),
        ([""], {}),
    ],
)
def test_set_is_read_as_by_helm(texts: list[str], expected: dict[str, Any]):
    assert parsed(*texts) == expected


def test_a_value_that_is_set_as_text_stays_one():
    assert parsed("a=1,b={true}", strings=True) == {"a": "1", "b": ["true"]}


@pytest.mark.parametrize("text", ["a", "=1", "a.=1", ".a=1", "a={x}y", "a[x]=1", "a[100000000]=1", "a=1,b"])
def test_a_set_that_cannot_be_read_is_refused(text: str):
    with pytest.raises(UsageError):
        parsed(text)


def test_the_later_values_win_and_null_takes_one_away():
    defaults = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    changed = merged(merged(defaults, {"a": {"c": [3]}, "d": None}), {"a": {"e": None, "f": 4}})
    assert without_null(changed) == {"a": {"b": 1, "c": [3], "f": 4}}
    assert defaults == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


def test_every_value_that_is_not_allowed_is_named():
    schema = {"additionalProperties": False, "properties": {"a": {"properties": {"b": {"type": "integer"}}}}}
    refuse_what_is_not_allowed({"a": {"b": 1}}, schema)
    with pytest.raises(UsageError, match=r"a\.b: 'x' is not of type 'integer'.*|'c' was unexpected") as refused:
        refuse_what_is_not_allowed({"a": {"b": "x"}, "c": 1}, schema)
    assert "'c' was unexpected" in refused.value.message

"""Facts survive being written and read; whatever is read, nothing but a FactError comes out."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from cgpu.doctor.facts import ABSENT, KINDS, Fact, Facts
from cgpu.doctor.facts_file import as_json, parse_facts
from cgpu.errors import FactError

_NUMBERS = st.lists(st.integers(0, 9999), min_size=2, max_size=3).map(lambda parts: ".".join(map(str, parts)))
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
_LINES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=30)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "version": _NUMBERS | st.just(ABSENT),
    "text": _TEXTS,
    "bool": st.booleans(),
    "int": st.integers(0, 10**12),
    "list": st.lists(_LINES, max_size=4),
    "labels": st.dictionaries(_TEXTS, _LINES, max_size=4),
    "counts": st.dictionaries(_TEXTS, st.integers(0, 100), max_size=4),
}
_INSTANCES = st.sampled_from(["ecs.gn7i-c8g1.2xlarge", "ebmgn9t", "gn6i"])


def _fact(name: str) -> st.SearchStrategy[Fact]:
    values = _INSTANCES if name == "instance" else _VALUES[KINDS[name].type]
    return st.builds(Fact, st.none() | values, _LINES)


FACTS = st.fixed_dictionaries({}, optional={name: _fact(name) for name in KINDS}).map(Facts)


@given(FACTS)
def test_facts_survive_json(facts: Facts) -> None:
    assert parse_facts(json.dumps(as_json(facts)), "f") == facts
    assert parse_facts(json.dumps(as_json(facts), ensure_ascii=False, indent=1), "f") == facts


@given(FACTS)
def test_facts_survive_yaml(facts: Facts) -> None:
    assert parse_facts(yaml.safe_dump(as_json(facts), allow_unicode=True), "f") == facts


@given(FACTS)
def test_plain_values_mean_the_same_as_values_with_an_origin(facts: Facts) -> None:
    plain = {name: fact.value for name, fact in facts.given.items()}
    if plain:
        parsed = parse_facts(yaml.safe_dump(plain), "here")
        assert parsed == Facts({name: Fact(value, "here") for name, value in plain.items()})
        assert parse_facts(json.dumps(plain), "here") == parsed


@given(_NUMBERS)
def test_no_version_is_read_as_another_one(version: str) -> None:
    """YAML takes 5.10 for 5.1: a version is read as it is written, or refused."""
    with contextlib.suppress(FactError):
        assert parse_facts(f"kernel: {version}", "f").value("kernel") == version


_PIECES = (
    st.sampled_from([*KINDS, "facts", "value", "how"])
    | st.sampled_from(
        [":", ": ", "\n", "\n  ", "- ", "{", "}", "[", "]", ",", '"', "'", "? ", "|", ">", "#", "---", "..."]
    )
    | st.sampled_from(["&a ", "*a", "!!int ", "<<", "%YAML 1.2", "\t", "\\ud800", "\\U00110000", "\x85", "\ufeff", "é"])
    | st.sampled_from(["1.5.7", "5.10", "true", "null", "~", "0x1", "1e3"])
)


@given(
    st.lists(_PIECES, max_size=40).map("".join)
    | st.text(max_size=80)
    | st.binary(max_size=80).map(lambda data: data.decode("latin-1"))
)
def test_nothing_but_a_fact_error_comes_out(text: str) -> None:
    with contextlib.suppress(FactError):
        facts = parse_facts(text, "f")
        assert parse_facts(json.dumps(as_json(facts)), "f") == facts


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*KINDS, "facts", "value", "how"]) | st.text(max_size=5), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_of_any_json_and_any_yaml_nothing_but_a_fact_error_comes_out(value: Any) -> None:
    for text in (json.dumps(value), yaml.safe_dump(value)):
        with contextlib.suppress(FactError):
            parse_facts(text, "f")

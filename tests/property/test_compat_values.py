"""Versions, rules and advice for whatever anybody writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.compat.advice import advise
from cgpu.compat.alibaba import check
from cgpu.compat.dataset import shipped
from cgpu.compat.rules import Rule
from cgpu.compat.verdict import Verdict
from cgpu.compat.versions import Version, instance_family, parse_version
from cgpu.errors import FactError

numbers = st.lists(st.integers(0, 9999), min_size=2, max_size=3)
dotted = numbers.map(lambda parts: ".".join(map(str, parts)))
cgpus = st.one_of(
    st.sampled_from([version.text for version in shipped().versions]),
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 8), st.integers(0, 25)).map(lambda v: ".".join(map(str, v))),
)
drivers = st.one_of(
    st.sampled_from([version for version in shipped().releases if "." in version]),
    st.tuples(
        st.sampled_from([418, 440, 450, 460, 470, 510, 525, 535, 545, 550, 575, 580, 610]), st.integers(0, 300)
    ).map(lambda v: f"{v[0]}.{v[1]}.01"),
)
kernels = st.tuples(st.integers(2, 6), st.integers(0, 20)).map(lambda v: f"{v[0]}.{v[1]}.7-1.al8")
toolkits = st.tuples(st.integers(1, 2), st.integers(0, 20)).map(lambda v: f"{v[0]}.{v[1]}.0-1")
instances = st.sampled_from(
    ["ecs.gn6i-c4g1.xlarge", "gn7i", "gn8t", "gn8is", "ebmgn8ia", "ecs.ebmgn9t.48xlarge", "gn5", "g7"]
)


@given(numbers, numbers)
def test_versions_compare_as_numbers(left: list[int], right: list[int]):
    one, other = (Version.of(".".join(map(str, parts))) for parts in (left, right))
    pad = max(len(left), len(right))
    mine, theirs = (parts + [0] * (pad - len(parts)) for parts in (left, right))
    assert (one < other) == (mine < theirs)
    assert (one == other) == (mine == theirs)


@pytest.mark.parametrize(
    ("field", "text", "key"),
    [
        ("kernel", "5.10.134-16.3.al8.x86_64", (5, 10, 134)),
        ("kernel", "6.6.30+", (6, 6, 30)),
        ("toolkit", "1.13.5-1", (1, 13, 5)),
        ("toolkit", "1:1.17.0~rc.1-1", (1, 17)),
        ("driver", "470.161.03", (470, 161, 3)),
        ("docker", "20.10.24+dfsg1", (20, 10, 24)),
        ("kubernetes", "v1.28.3-aliyun.1", (1, 28, 3)),
        ("cgpu", "v0.8.10", (0, 8, 10)),
    ],
)
def test_what_packagers_append_is_left_out(field: str, text: str, key: tuple[int, ...]):
    assert parse_version(field, text).key == key


@pytest.mark.parametrize("field", ["cgpu", "driver", "kernel", "toolkit"])
@given(text=st.text(max_size=40))
def test_any_text_is_a_version_or_an_error_that_names_the_field(field: str, text: str):
    refused = None
    try:
        assert parse_version(field, text).text in text
    except FactError as error:
        refused = error
    if refused:
        assert refused.field == field
        assert refused.message.startswith(f"{field}: ")
        assert refused.remedy


@pytest.mark.parametrize(
    "text", ["", "5", "-5.1", "5.-1", "5..1", "1.5.7x", "1.5 .7", "٣.٤", "5.10\n6", "1e3.2", "1.5.7-"]
)
def test_a_malformed_cgpu_version_is_refused(text: str):
    with pytest.raises(FactError):
        parse_version("cgpu", text)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("ecs.gn7i-c8g1.2xlarge", "gn7i"),
        ("gn7i-c8g1.2xlarge", "gn7i"),
        ("ecs.gn7-c12g1.3xlarge", "gn7"),
        ("ecs.gn7.large", "gn7"),
        ("ebmgn9t", "ebmgn9t"),
        ("ecs.ebmgn7ex.32xlarge", "ebmgn7ex"),
        ("ECS.GN6V-C8G1.2XLARGE", "gn6v"),
    ],
)
def test_an_instance_type_reduces_to_its_family(text: str, family: str):
    assert instance_family(text) == family


@given(st.text(max_size=60))
def test_any_text_is_an_instance_or_an_error_that_names_it(text: str):
    field = "instance"
    try:
        family = instance_family(text)
        assert family.isascii()
        assert family.isalnum()
    except FactError as error:
        field = error.field
    assert field == "instance"


@given(dotted, st.sampled_from(["<=", ">=", "<", ">"]), dotted)
def test_a_bound_counts_as_far_as_it_is_written(version: str, relation: str, bound: str):
    length = bound.count(".") + 1
    mine = ([int(part) for part in version.split(".")] + [0] * length)[:length]
    theirs = [int(part) for part in bound.split(".")]
    expected = {"<=": mine <= theirs, ">=": mine >= theirs, "<": mine < theirs, ">": mine > theirs}[relation]
    assert Rule.parse(relation + bound).holds(Version.of(version)) is expected


@given(st.text(alphabet="0123456789.<>=- x", max_size=20))
def test_any_text_is_a_rule_or_a_value_error(text: str):
    try:
        rule = Rule.parse(text)
    except ValueError:
        return
    assert rule.text == text
    assert isinstance(rule.holds(Version.of("5.10.1")), bool)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "cgpu": cgpus,
            "driver": drivers,
            "kernel": kernels,
            "toolkit": toolkits,
            "instance": instances,
            "container_os": st.booleans(),
        },
    )
)
def test_following_the_advice_ends_in_supported_or_it_said_that_nothing_can(facts: dict[str, object]):
    advice = advise(shipped(), facts)
    if not advice.possible:
        assert not advice.changes
        assert advice.text.startswith("nothing")
        return
    followed = {**facts, **{change.fact: change.to for change in advice.changes}}
    if "cgpu" in followed:
        assert all(one.verdict is Verdict.SUPPORTED for one in check(shipped(), followed))
    for change in advice.changes:
        assert change.why
        assert change.to in advice.text
        assert change.current == facts.get(change.fact, "")
        if change.fact == "cgpu":
            to = parse_version("cgpu", change.to)
            assert to >= parse_version("cgpu", "1.5.10")
            assert not change.current or to > parse_version("cgpu", change.current)
            assert not facts.get("container_os") or to > parse_version("cgpu", "1.5.18")


@given(cgpus, drivers, kernels, toolkits)
def test_the_advised_version_is_the_smallest_that_needs_the_fewest_other_changes(
    cgpu: str, driver: str, kernel: str, toolkit: str
):
    facts = {"cgpu": cgpu, "driver": driver, "kernel": kernel, "toolkit": toolkit}
    advice = advise(shipped(), facts)
    installed = parse_version("cgpu", cgpu)
    alone = [
        version
        for version in sorted({*shipped().versions, installed})
        if version >= installed
        and all(one.verdict is Verdict.SUPPORTED for one in check(shipped(), {**facts, "cgpu": version.text}))
    ]
    if alone:
        expected = [("cgpu", alone[0].text)] if alone[0] > installed else []
        assert [(change.fact, change.to) for change in advice.changes] == expected

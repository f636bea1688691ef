"""Facts in files: both forms, in YAML and JSON; what is wrong is named with its line and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cgpu.doctor.facts import Fact, Facts
from cgpu.doctor.facts_file import LIMIT_BYTES, as_json, parse_facts
from cgpu.doctor.probes import probe_node
from cgpu.errors import FactError
from tests.unit.doctor import trees


def values(text: str) -> dict[str, object]:
    return {name: fact.value for name, fact in parse_facts(text, "f").given.items()}


def test_plain_values_in_yaml():
    text = """\
# a node
driver: 535.129.03
cgpu: none
kernel: "5.10"
container_os: yes
gpus: 2
labels: {ack.node.gpu.schedule: cgpu, cgpu: "true"}
pods_per_gpu: {0: 12, GPU-a: 3}
modules: [km, cgpu_procfs]
instance: ecs.gn7i-c8g1.2xlarge
installer: null
"""
    assert values(text) == {
        "driver": "535.129.03",
        "cgpu": "none",
        "kernel": "5.10",
        "container_os": True,
        "gpus": 2,
        "labels": {"ack.node.gpu.schedule": "cgpu", "cgpu": "true"},
        "pods_per_gpu": {"0": 12, "GPU-a": 3},
        "modules": ["km", "cgpu_procfs"],
        "instance": "ecs.gn7i-c8g1.2xlarge",
        "installer": None,
    }


def test_plain_values_in_json_and_in_yaml_that_looks_like_it():
    assert values('{"driver": "535.129.03", "gpus": 1, "labels": {"cgpu": "true"}}') == values(
        "{driver: 535.129.03, gpus: 1, labels: {cgpu: 'true'}}"
    )


def test_where_they_come_from_is_the_file():
    assert parse_facts("gpus: 1", "node.yaml")["gpus"] == Fact(1, "node.yaml")


def test_what_doctor_printed_is_read_with_its_origins():
    document = {"node": "x", "facts": {"gpus": {"value": 1, "how": "/proc"}, "cgpu": {"value": None, "how": "why"}}}
    facts = parse_facts(json.dumps(document), "f")
    assert facts == Facts({"gpus": Fact(1, "/proc"), "cgpu": Fact(None, "why")})
    assert parse_facts("facts:\n  gpus: {value: 1}\n", "f") == Facts({"gpus": Fact(1, "f")})


@pytest.mark.parametrize("name", trees.names())
def test_probed_facts_survive_json_and_yaml(name: str, tmp_path: Path):
    facts = probe_node(trees.build(name, tmp_path))
    assert parse_facts(json.dumps(as_json(facts)), "f") == facts
    assert parse_facts(json.dumps(as_json(facts), indent=2), "f") == facts
    assert parse_facts(yaml.safe_dump(as_json(facts)), "f") == facts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kernel: 5.10\n",
            '5.10 is read as a number (5.10 would become 5.1), not as a text (write it in quotes: "5.10")',
        ),
        (
            "gpus: 1\n\ndriver: 535\n",
            'driver: f, line 3: 535 is read as a number, not as a text (write it in quotes: "535")',
        ),
        ("cgpu: 2026-03-31\n", "cgpu: f, line 1: 2026-03-31 is read as a date or number"),
        ("cgpu: 1:30\n", "cgpu: f, line 1: 1:30 is read as a date or number"),
        ("cgpu: 0x10\n", "cgpu: f, line 1: 0x10 is read as a date or number"),
        (
            "labels:\n  a: b\n  cgpu: true\n",
            'labels: f, line 3: true is read as a truth value, not as a text (write it in quotes: "true")',
        ),
        ("labels: {a: }\n", "labels: f, line 1: '' is read as a missing value"),
        ("modules: [km, 7]\n", "modules: f, line 1: 7 is read as a number"),
        ("node: on\n", "node: f, line 1: on is read as a truth value"),
        ("driver: abc\n", "driver: f, line 1: not a version: 'abc' (write for example 535.129.03)"),
        ("instance: 'a b'\n", "instance: f, line 1: not an instance type: 'a b'"),
        ("gpus: -1\n", "gpus: f, line 1: not a whole number"),
        ("gpus: 1.5\n", "gpus: f, line 1: not a whole number: '1.5'"),
        ("container_os: 1\n", "container_os: f, line 1: not true or false: 1"),
        ("pods_per_gpu: {a: x}\n", "pods_per_gpu: f, line 1: not a mapping of GPUs to whole numbers"),
        ("labels: [a]\n", "labels: f, line 1: not a mapping"),
        ("\nspeed: 1\n", "speed: f, line 2: there is no such fact (the facts are node, driver,"),
        ("driver: 1.2.3\ndriver: 1.2.3\n", "driver: f, line 2: it stands there twice"),
        ("gpus: 1\ngpus: 2\n", "gpus: f, line 2: it stands there twice"),
        ("labels: {a: b,\n a: c}\n", "labels: f, line 2: it stands there twice"),
        ("- driver\n", "f: not a mapping of facts to values"),
        ("just text", "f: not a mapping of facts to values"),
        ("", "f: there are no facts in it"),
        ("# nothing\n", "f: there are no facts in it"),
        ("---\ngpus: 1\n---\ngpus: 2\n", "f: line 3: a second document"),
        ("gpus: &a 1\n", "gpus: f, line 1: an anchor"),
        ("labels: {a: *x}\n", "labels: f, line 1: an alias"),
        (
            "gpus: !!python/object/apply:os.system [ls]\n",
            "gpus: f, line 1: a tag: tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("gpus: !!int '1'\n", "gpus: f, line 1: a tag"),
        ("gpus: [1\n", "gpus: f, line 2: "),
        ("gpus: '\n", "f, line"),
        ("? [a]\n: 1\n", "f: "),
        ("yes: 1\n", "f: line 1: a key that is not a text: yes; write it in quotes"),
        ("<<: {gpus: 1}\n", "f: line 1: a key that is not a text"),
        ("labels: [[[[[[[[[[a]]]]]]]]]]\n", "labels: f, line 1: more than 8 levels"),
        ("facts: 7\n", "facts: f, line 1: not a mapping"),
        ("facts: {gpus: 1}\n", "gpus: f, line 1: not a mapping with value and how"),
        ("facts: {gpus: {value: 1, how: 7}}\n", "gpus: f, line 1: how is not a text"),
        ("facts: {gpus: {value: 1, extra: 7}}\n", "gpus: f, line 1: not a mapping with value and how"),
        ("facts: {gpus: {value: 1, value: 2}}\n", "gpus: f, line 1: it stands there twice"),
        ("gpus: 1\0", "f: there are characters in it that YAML does not allow"),
        ('{"gpus": 1, "gpus": 2}', "gpus: f: it stands there twice"),
        ('{"kernel": 5.10}', "kernel: f: 5.10 is read as a number"),
        ('{"gpus": NaN}', "gpus: f: not a whole number"),
        ('{"labels": {"a": true}}', "labels: f: true is read as a truth value"),
        ('{"labels": {"a": "\\ud800"}}', "f: half of a character"),
        ('{"gpus": 1234567890123456789012}', "f: a number of 22 digits"),
        ('{"labels": ' + "[" * 20 + "]" * 20 + "}", "f: more than 8 levels"),
        ("{" + '"a":{' * 200_000, "f"),
        ("gpus: " + "[" * 300_000, "gpus: f, line 1: "),
        ("driver: " + "9" * 5000, "driver: f, line 1: '9999"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str):
    with pytest.raises(FactError) as raised:
        parse_facts(text, "f")
    assert message in str(raised.value)
    assert len(str(raised.value)) < 1200


def test_an_aliases_bomb_is_refused_at_once():
    bomb = 'labels: {a: &a "x"}\n' + "".join(f"m{n}: &m{n} [*a, *a]\n" for n in range(1000))
    with pytest.raises(FactError, match="an anchor"):
        parse_facts(bomb, "f")


def test_more_than_a_mebibyte_is_refused_without_reading_it():
    with pytest.raises(FactError, match="are more than the 1048576"):
        parse_facts("# " + "x" * LIMIT_BYTES, "f")
    assert values("gpus: 1\n# " + "x" * (LIMIT_BYTES - 20)) == {"gpus": 1}


def test_what_is_no_text_is_refused():
    with pytest.raises(FactError, match="UTF-8"):
        parse_facts("node: \udc80", "f")

"""Facts of a node in a file: YAML or JSON, plain values or what ``cgpu doctor --json`` printed.

    driver: "535.129.03"          # versions in quotes: YAML takes 5.10 for the number 5.1
    container_os: true
    labels: {ack.node.gpu.schedule: cgpu, cgpu: "true"}
    pods_per_gpu: {0: 12}

The other form has a value and its origin for each fact: ``{"facts": {"driver": {"value": "535.129.03",
"how": "/proc/driver/nvidia/version"}}}``; what stands beside ``facts`` is left alone.
"""

from __future__ import annotations

import json
from typing import Any, Final

from cgpu.doctor.facts import KINDS, Fact, FactKind, Facts, check_value
from cgpu.doctor.values import DEPTH_MAX, Value, shown
from cgpu.errors import FactError

LIMIT_BYTES: Final = 1 << 20
"""The largest file that is read."""

_DIGITS_MAX: Final = 18
_MESSAGE_MAX: Final = 300
_EXAMPLE: Final = 'write for example driver: "535.129.03"'
_READ_AS: Final = {
    "int": "a number",
    "float": "a number (5.10 would become 5.1)",
    "bool": "a truth value",
    "null": "a missing value",
    "other": "a date or number",
}


def as_json(facts: Facts) -> dict[str, Any]:
    """The facts that somebody looked at, as JSON values. ``parse_facts`` reads them again, without loss."""
    return {"facts": {name: {"value": fact.value, "how": fact.how} for name, fact in facts.given.items()}}


def parse_facts(text: str, name: str) -> Facts:
    """The facts in a file's text; ``name`` is the file's, for messages and as their origin.

    A fact that is null is one that is not known. Raises FactError, which names the fact (or the file)
    and, of YAML, the line: for what is no such fact, of another form, doubled, or too large.
    """
    _check_text(text, name)
    document = _read(text, name)
    if document.kind != "mapping":
        raise FactError(name, "not a mapping of facts to values", _EXAMPLE)
    entries = document.value
    parse = _plain
    if "facts" in entries:
        if entries["facts"].kind != "mapping":
            raise FactError("facts", f"{_place(entries['facts'], name)}not a mapping of facts to values", _EXAMPLE)
        entries, parse = entries["facts"].value, _with_origin
    return Facts({fact: parse(_kind(fact, value, name), value, name) for fact, value in entries.items()})


def _check_text(text: str, name: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise FactError(name, "not a text in UTF-8") from error
    if size > LIMIT_BYTES:
        raise FactError(name, f"{size} bytes are more than the {LIMIT_BYTES} that facts may take")


def _kind(fact: str, value: Value, name: str) -> FactKind:
    if fact not in KINDS:
        remedy = f"the facts are {', '.join(KINDS)}"
        raise FactError(shown(fact), f"{_place(value, name)}there is no such fact", remedy)
    return KINDS[fact]


def _with_origin(kind: FactKind, value: Value, name: str) -> Fact:
    """``{"value": ..., "how": ...}``."""
    if value.kind != "mapping" or "value" not in value.value or not value.value.keys() <= {"value", "how"}:
        remedy = "without origins write the facts at the top, not below `facts`"
        raise FactError(kind.name, f"{_place(value, name)}not a mapping with value and how", remedy)
    how = value.value.get("how")
    if how is not None and how.kind != "str":
        raise FactError(kind.name, f"{_place(how, name)}how is not a text", "write it in quotes")
    return Fact(_checked(kind, value.value["value"], name), name if how is None else how.value)


def _plain(kind: FactKind, value: Value, name: str) -> Fact:
    return Fact(_checked(kind, value, name), name)


def _checked(kind: FactKind, value: Value, name: str) -> Any:
    """The plain value, of the fact's form. Raises FactError."""
    if value.kind == "null":
        return None
    for text in _texts(kind, value):
        if text.kind in _READ_AS:
            message = f"{_place(text, name)}{shown(text.text)} is read as {_READ_AS[text.kind]}, not as a text"
            written = shown(text.text) if text.text else ""
            raise FactError(kind.name, message, f'write it in quotes: "{written}"')
    plain = _plain_value(value)
    try:
        check_value(kind, plain)
    except FactError as error:
        message = error.message.removeprefix(f"{kind.name}: ")
        message = message if len(message) <= _MESSAGE_MAX else f"{message[:_MESSAGE_MAX]}..."
        raise FactError(kind.name, f"{_place(value, name)}{message}", error.remedy) from error
    return plain


def _texts(kind: FactKind, value: Value) -> list[Value]:
    """What has to be texts in a fact of this kind."""
    if kind.type in ("version", "text"):
        return [value]
    if kind.type == "list" and value.kind == "list":
        return list(value.value)
    if kind.type == "labels" and value.kind == "mapping":
        return list(value.value.values())
    return []


def _plain_value(value: Value) -> Any:
    if value.kind == "list":
        return [_plain_value(item) for item in value.value]
    if value.kind == "mapping":
        return {key: _plain_value(item) for key, item in value.value.items()}
    return value.value


def _place(value: Value, name: str) -> str:
    """``facts.yaml, line 3: ``; of JSON the file alone."""
    return f"{name}: " if value.line is None else f"{name}, line {value.line}: "


def _read(text: str, name: str) -> Value:
    """JSON, or else YAML, of which JSON is nearly a part."""
    if text.lstrip(" \t\r\n").startswith("{"):
        document = _read_json(text, name)
        if document is not None:
            return document
    value = _read_yaml(text, name)
    if value is None or value.kind == "null":
        raise FactError(name, "there are no facts in it", _EXAMPLE)
    return value


def _read_yaml(text: str, name: str) -> Value | None:
    from cgpu.doctor.yaml_values import YamlError, read_yaml

    try:
        return read_yaml(text)
    except YamlError as error:
        place = "" if error.line is None else f"line {error.line}: "
        keys = error.keys[1:] if error.keys[:1] == ("facts",) else error.keys
        if keys:
            raise FactError(shown(keys[0]), f"{name}, {place}{error.message}") from error
        raise FactError(name, f"{place}{error.message}") from error


class _Float(str):
    """A number with a fraction, as it is written."""

    __slots__ = ()


def _read_json(text: str, name: str) -> Value | None:
    """None of what is no JSON at all."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise FactError(shown(key), f"{name}: it stands there twice")
            found[key] = value
        return found

    def whole(digits: str) -> int:
        if len(digits) > _DIGITS_MAX:
            raise FactError(name, f"a number of {len(digits)} digits")
        return int(digits)

    try:
        document = json.loads(
            text, object_pairs_hook=mapping, parse_float=_Float, parse_int=whole, parse_constant=_Float
        )
    except RecursionError as error:
        raise FactError(name, f"more than {DEPTH_MAX} levels") from error
    except ValueError:
        return None
    return _json_value(document, name, 0)


def _json_value(value: Any, name: str, depth: int) -> Value:
    if isinstance(value, dict | list) and depth >= DEPTH_MAX:
        raise FactError(name, f"more than {DEPTH_MAX} levels")
    if isinstance(value, dict):
        return Value(
            "mapping",
            {_whole_text(key, name): _json_value(item, name, depth + 1) for key, item in value.items()},
        )
    if isinstance(value, list):
        return Value("list", tuple(_json_value(item, name, depth + 1) for item in value))
    if isinstance(value, _Float):
        return Value("float", str(value), str(value))
    if isinstance(value, str):
        return Value("str", _whole_text(value, name), value)
    if value is None:
        return Value("null", None, "null")
    return Value("bool" if isinstance(value, bool) else "int", value, json.dumps(value))


def _whole_text(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FactError(name, f"half of a character: {shown(text)}") from error
    return text

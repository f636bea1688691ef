"""JSON Schema, the part of it that the API uses: one description checks requests and documents them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cgpu.errors import UsageError

Schema = Mapping[str, Any]

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def check(value: object, schema: Schema, where: str = "body") -> None:
    """Raise UsageError, naming the place, unless the value fits the schema."""
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is(value, name) for name in names):
        raise UsageError(f"{where}: not of type {' or '.join(names)}")
    if "enum" in schema and value not in schema["enum"]:
        raise UsageError(f"{where}: not one of {', '.join(map(str, schema['enum']))}")
    if isinstance(value, dict):
        _check_object(value, schema, where)
    elif isinstance(value, list):
        _check_array(value, schema, where)
    elif isinstance(value, str):
        if "pattern" in schema and re.fullmatch(schema["pattern"].removeprefix("^").removesuffix("$"), value) is None:
            raise UsageError(f"{where}: does not match {schema['pattern']}")
    elif isinstance(value, int) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high:
            raise UsageError(f"{where}: not from {low} to {high}")
        if value % schema.get("multipleOf", 1):
            raise UsageError(f"{where}: not a multiple of {schema['multipleOf']}")


def _is(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not (name in ("integer", "number") and isinstance(value, bool))


def _check_object(value: dict[str, Any], schema: Schema, where: str) -> None:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    others: Schema | bool = schema.get("additionalProperties", False)
    for name in schema.get("required", ()):
        if name not in value:
            raise UsageError(f"{where}: {name} is missing")
    for name, member in value.items():
        expected = properties.get(name, others)
        if expected is True:
            continue
        if expected is False:
            raise UsageError(f"{where}: unknown property {name!r}", f"known: {', '.join(properties)}")
        check(member, expected, f"{where}.{name}")


def _check_array(value: list[Any], schema: Schema, where: str) -> None:
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not low <= len(value) <= high:
        raise UsageError(f"{where}: not from {low} to {high} entries")
    for index, member in enumerate(value):
        check(member, schema["items"], f"{where}[{index}]")

"""Edits of TOML texts that leave comments, order and layout of everything else as they are."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit
import tomlkit.container
import tomlkit.exceptions
import tomlkit.items

from cgpu.errors import StateError


def parse(text: str, name: str) -> dict[str, Any]:
    """The values. Raises StateError for what is not TOML."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise StateError(f"{name} is not TOML: {error}", "correct it first; nothing was changed") from error


def value_at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What is there; None: nothing."""
    found: Any = values
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def with_table(text: str, path: Sequence[str], table: Mapping[str, Any], name: str) -> str:
    """The text with that table at ``path``. Raises StateError where a value stands in the way."""
    expected = parse(text, name)
    if value_at(expected, path) == table:
        return text
    place = expected
    for depth, key in enumerate(path[:-1], 1):
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise StateError(
                f"{'.'.join(path[:depth])} in {name} is not a table", "correct it first; nothing was changed"
            )
    place[path[-1]] = copy.deepcopy(dict(table))
    document = _document(text, name)
    container: Any = document
    for depth, key in enumerate(path[:-1], 1):
        if key not in container:
            container.add(key, tomlkit.table(is_super_table=depth < len(path)))
        container = container[key]
    if path[-1] in container:
        container.remove(path[-1])
    container.add(path[-1], _table(table))
    return _verified(document.as_string(), expected, name)


def without(text: str, path: Sequence[str], name: str, *, keep_parents: Sequence[Sequence[str]] = ()) -> str:
    """The text without what is at ``path``, and without tables above it that become empty.

    Tables in ``keep_parents`` stay, empty or not.
    """
    expected = parse(text, name)
    if value_at(expected, path) is None:
        return text
    document = _document(text, name)
    kept = {tuple(parent) for parent in keep_parents}
    for length in range(len(path), 0, -1):
        above = path[: length - 1]
        if length < len(path) and (value_at(expected, path[:length]) or tuple(path[:length]) in kept):
            break
        values, container = expected, document
        for key in above:
            values, container = values[key], container[key]
        del values[path[length - 1]]
        container.remove(path[length - 1])
    return _verified(document.as_string(), expected, name)


def _table(values: Mapping[str, Any]) -> tomlkit.items.Table:
    table = tomlkit.table()
    for key, value in values.items():
        table.add(key, _table(value) if isinstance(value, Mapping) else value)
    return table


def _document(text: str, name: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except tomlkit.exceptions.TOMLKitError as error:
        raise StateError(f"{name} cannot be edited: {error}", "add the entry by hand; nothing was changed") from error


def _verified(text: str, expected: dict[str, Any], name: str) -> str:
    """The edit is believed only where another parser reads from it what was meant."""
    try:
        meant = tomllib.loads(text) == expected
    except tomllib.TOMLDecodeError:
        meant = False
    if not meant:
        raise StateError(
            f"{name} is laid out in a way that cannot be edited safely", "edit it by hand; nothing was changed"
        )
    return text

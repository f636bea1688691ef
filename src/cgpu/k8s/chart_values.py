"""The values that a chart is rendered with: its defaults, what files and ``--set`` change, and what is allowed. Pure.

``--set`` is written as for Helm: ``a.b=1,c={x,y},d[0].e=text``, with a backslash before a character that is meant as
such. true, false, null and whole numbers are what they look like; null takes a default away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cgpu.errors import UsageError

Values = dict[str, Any]
_WHOLE_NUMBER: Final = re.compile(r"0|[+-]?[1-9][0-9]{0,17}")
_KEY: Final = re.compile(r"((?:\\.|[^\\.\[\]=,])+)((?:\[[0-9]+\])*)(\.|=|$)")
_TEXT: Final = re.compile(r"(?:\\.|[^\\,])*")
_LIST: Final = re.compile(r"\{((?:\\.|[^\\}])*)\}")
_ELEMENT: Final = re.compile(r"(?:\\.|[^\\,])+")
_INDEX_MAX: Final = 1000
_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}


def merged(values: Values, changes: Values) -> Values:
    """Both; objects are merged, and in all else the changes win."""
    both = dict(values)
    for key, value in changes.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return both


def without_null(values: Values) -> Values:
    """What is left when null takes a value away."""
    return {
        key: without_null(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def set_in(values: Values, text: str, *, strings: bool = False) -> None:
    """Write what one ``--set`` says into the values; with ``strings`` (``--set-string``) each is a text.

    Raises UsageError.
    """
    at = 0
    while at < len(text):
        path, at = _path(text, at)
        value, at = _value(text, at, strings=strings)
        _put(values, path, value)


def refuse_what_is_not_allowed(values: Values, schema: Mapping[str, Any]) -> None:
    """Raises UsageError, which names every value that the chart's schema does not allow."""
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(schema).iter_errors(values), key=lambda error: list(map(str, error.path)))
    if errors:
        said = "; ".join(f"{'.'.join(map(str, error.path)) or 'values'}: {error.message}" for error in errors)
        raise UsageError(f"values are not allowed: {said}", "`cgpu k8s manifests --show-values` has all of them")


def _path(text: str, at: int) -> tuple[list[str | int], int]:
    path: list[str | int] = []
    while (found := _KEY.match(text, at)) and found[3]:
        path.append(_plain(found[1]))
        path += (int(number) for number in re.findall("[0-9]+", found[2]))
        at = found.end()
        if found[3] == "=":
            return path, at
    raise UsageError(f"--set {text}: a value has no name or no '='", "write for example simulated.enabled=true")


def _value(text: str, at: int, *, strings: bool) -> tuple[Any, int]:
    listed = _LIST.match(text, at)
    found = listed or _TEXT.match(text, at)
    end = found.end() if found else at
    if text[end : end + 1] not in ("", ","):
        raise UsageError(f"--set {text}: after {text[:end]} a comma has to come", "or a backslash before the character")
    if listed:
        return [_typed(element, strings=strings) for element in _ELEMENT.findall(listed[1]) or [""]], end + 1
    return _typed(text[at:end], strings=strings), end + 1


def _typed(text: str, *, strings: bool) -> Any:
    if not strings and text in _WORDS:
        return _WORDS[text]
    if not strings and _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return _plain(text)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _put(values: Values, path: list[str | int], value: Any) -> None:
    place: Any = values
    for part, following in zip(path, [*path[1:], None], strict=True):
        if isinstance(part, int):
            if part > _INDEX_MAX:
                raise UsageError(f"--set: {part} is too large an index", f"lists have at most {_INDEX_MAX} elements")
            place += [None] * (part + 1 - len(place))
            known = place[part]
        else:
            known = place.get(part)
        if following is None:
            place[part] = value
        elif not isinstance(known, list if isinstance(following, int) else dict):
            place[part] = [] if isinstance(following, int) else {}
        place = place[part]

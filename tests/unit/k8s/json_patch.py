"""What the API server does with a patch: the operations that ours consist of (RFC 6902)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any


def patched(document: dict[str, Any], operations: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The document after all of them. A path that is not there raises KeyError or IndexError."""
    result = copy.deepcopy(document)
    for operation in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place: Any = result
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        match operation["op"]:
            case "remove":
                del place[last]
            case "add" if last == "-":
                place.append(copy.deepcopy(operation["value"]))
            case "add":
                place[last] = copy.deepcopy(operation["value"])
            case other:
                raise AssertionError(other)
    return result

"""Reading YAML as far as facts need it: texts, whole numbers, truth values, lists and mappings, with their lines.

No object is ever made from a tag, and nothing is followed but what is written: aliases, anchors and tags
are refused, and so is what nests deeply. The parser's events are read one by one, since PyYAML's own
composer goes down one level of Python per level of the text.

Only this file imports ``yaml``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
import yaml.resolver

from cgpu.doctor.values import DEPTH_MAX, Value, shown

_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser, where it is built in
_RESOLVER: Final[Any] = yaml.resolver.Resolver()
_KINDS: Final = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null")}
_TRUE: Final = ("yes", "true", "on")


class YamlError(Exception):
    """What is wrong, in words."""

    def __init__(self, message: str, line: int | None = None, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        """From 1 on, where it is known."""

        self.keys = keys
        """The keys on the way to it, outermost first."""


def read_yaml(text: str) -> Value | None:
    """The one document of the text, None when there is none. Raises YamlError."""
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise YamlError(error.problem or "not YAML", line, builder.keys) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: \U with no character of that number
        raise YamlError("there are characters in it that YAML does not allow", None, builder.keys) from error
    return builder.document


@dataclass(slots=True)
class _Open:
    """A list or mapping of which the end has not come yet."""

    line: int
    items: list[Value] = field(default_factory=list)
    entries: dict[str, Value] | None = None
    key: str | None = None


class _Builder:
    """Puts events together."""

    def __init__(self) -> None:
        self.document: Value | None = None
        self._open: list[_Open] = []
        self._documents = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """Where it is: the keys on the way."""
        return tuple(part.key for part in self._open if part.key is not None)

    def take(self, event: Any) -> None:
        """The next event. Raises YamlError for what is refused."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise YamlError("a second document; one is wanted", line)
        elif isinstance(event, yaml.AliasEvent):
            raise YamlError("an alias; write the value itself", line, self.keys)
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(event, line)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            self._close()

    def _take_node(self, event: Any, line: int) -> None:
        if event.anchor is not None:
            raise YamlError("an anchor; write the value itself", line, self.keys)
        if event.tag is not None:
            raise YamlError(f"a tag: {shown(event.tag)}", line, self.keys)
        if isinstance(event, yaml.ScalarEvent):
            self._put(_scalar(event.value, line, plain=event.implicit[0]))
            return
        if len(self._open) >= DEPTH_MAX:
            raise YamlError(f"more than {DEPTH_MAX} levels", line, self.keys)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self._open.append(_Open(line, entries={} if is_mapping else None))

    def _close(self) -> None:
        closed = self._open.pop()
        if closed.entries is None:
            self._put(Value("list", tuple(closed.items), line=closed.line))
        else:
            self._put(Value("mapping", closed.entries, line=closed.line))

    def _put(self, value: Value) -> None:
        if not self._open:
            self.document = value
            return
        parent = self._open[-1]
        if parent.entries is None:
            parent.items.append(value)
        elif parent.key is not None:
            parent.entries[parent.key] = value
            parent.key = None
        elif value.kind not in ("str", "int"):
            raise YamlError(f"a key that is not a text: {shown(value.text)}; write it in quotes", value.line, self.keys)
        else:
            parent.key = value.text
            if value.text in parent.entries:
                raise YamlError("it stands there twice", value.line, self.keys)


def _scalar(text: str, line: int, *, plain: bool) -> Value:
    """What YAML 1.1 makes of a scalar; whole numbers only as they are usually written."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise YamlError("half of a character", line)
    kind = _KINDS.get(str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False))), "other") if plain else "str"
    if kind == "int":
        return Value("int", int(text), text, line) if _INTEGER.fullmatch(text) else Value("other", text, text, line)
    if kind == "bool":
        return Value("bool", text.lower() in _TRUE, text, line)
    return Value(kind, None if kind == "null" else text, text, line)

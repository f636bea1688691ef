"""The templates of our Helm chart, evaluated without Helm. Pure.

The chart is written in Go's template language, of which it uses little: ``if``, ``else if``, ``with``, ``define``,
variables, pipelines and the functions of FUNCTIONS. That much is understood here, with Go's meaning, and everything
else is an error, so that nothing is rendered wrongly. A test holds the results to what the real Helm makes of the
same values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

_ACTION: Final = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|:=|\||[$.\w][\w.]*')
_BLOCKS: Final = ("if", "with")
_OTHER_WORDS: Final = (
    "block",
    "break",
    "continue",
    "else",
    "end",
    "range",
    "template",
)  # of Go's, also where not reached
_PLAIN: Final = re.compile(r"[A-Za-z](?:[\w./-]*\w)?", re.ASCII)
_NOT_STRINGS: Final = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


class TemplateError(ValueError):
    """The chart uses what is not understood here: a mistake of whoever has changed it, not of a user."""


@dataclass(frozen=True)
class _Text:
    text: str


@dataclass(frozen=True)
class _Output:
    tokens: Sequence[str]


@dataclass(frozen=True)
class _Assignment:
    variable: str
    tokens: Sequence[str]


@dataclass(frozen=True)
class _Block:
    """``if`` or ``with``; ``with`` makes the value the dot of its body."""

    moves_dot: bool
    tokens: Sequence[str]
    body: Sequence[_Node]
    otherwise: Sequence[_Node]


_Node = _Text | _Output | _Assignment | _Block


class Templates:
    """Parsed templates: what the files define, for all of them, and their own text."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """``sources``: text by the file's name. Raises TemplateError."""
        self._defined: dict[str, list[_Node]] = {}
        self._files: dict[str, list[_Node]] = {}
        for name, source in sources.items():
            try:
                self._files[name], _ = self._parse(_lex(source))
            except TemplateError as error:
                raise TemplateError(f"{name}: {error}") from error

    def render(self, name: str, scope: Mapping[str, Any]) -> str:
        """The text of a file; ``scope`` has Values, Release and Chart. Raises TemplateError."""
        try:
            return self._text(self._files[name], scope, {"$": scope})
        except TemplateError as error:
            raise TemplateError(f"{name}: {error}") from error

    def _parse(self, pieces: Iterator[str | list[str]], opened: str = "") -> tuple[list[_Node], list[str]]:
        """The nodes up to what ends or divides the block that was opened, and that; or all of the file."""
        nodes: list[_Node] = []
        for piece in pieces:
            if isinstance(piece, str):
                nodes.append(_Text(piece))
                continue
            first, *tokens = piece
            if piece in (["end"], ["else"]) or piece[:2] == ["else", "if"]:
                if not opened or (first == "else" and opened not in _BLOCKS) or (tokens and opened != "if"):
                    raise TemplateError(f"{first} without a beginning")
                return nodes, piece
            if first in _OTHER_WORDS:
                raise TemplateError(f"{' '.join(piece)} is not understood")
            if first == "define":
                self._defined[json.loads(tokens[0])], _ = self._parse(pieces, first)
            elif first in _BLOCKS:
                nodes.append(self._block(pieces, first, tokens))
            elif tokens[:1] == [":="]:
                nodes.append(_Assignment(first, tokens[1:]))
            else:
                nodes.append(_Output(piece))
        if opened:
            raise TemplateError(f"{opened} without an end")
        return nodes, []

    def _block(self, pieces: Iterator[str | list[str]], opened: str, tokens: Sequence[str]) -> _Block:
        body, ended_by = self._parse(pieces, opened)
        otherwise: Sequence[_Node] = []
        if ended_by[:2] == ["else", "if"]:
            otherwise = [self._block(pieces, "if", ended_by[2:])]  # which ends where this one does
        elif ended_by == ["else"]:
            otherwise, _ = self._parse(pieces, "else")
        return _Block(opened == "with", tokens, body, otherwise)

    def _text(self, nodes: Sequence[_Node], dot: Any, variables: dict[str, Any]) -> str:
        parts = []
        for node in nodes:
            match node:
                case _Text(text):
                    parts.append(text)
                case _Output(tokens):
                    parts.append(_printed(self._value(tokens, dot, variables)))
                case _Assignment(variable, tokens):
                    variables[variable] = self._value(tokens, dot, variables)
                case _Block():
                    value = self._value(node.tokens, dot, variables)
                    inner = value if node.moves_dot and value else dot
                    parts.append(self._text(node.body if value else node.otherwise, inner, dict(variables)))
        return "".join(parts)

    def _value(self, tokens: Sequence[str], dot: Any, variables: Mapping[str, Any]) -> Any:
        """Of a pipeline: each command gets the result of the one before as its last argument."""
        piped: list[Any] = []
        for command in _commands(tokens):
            function = FUNCTIONS.get(command[0])
            operands = command[1:] if function or command[0] == "include" else command
            arguments = [*(_operand(token, dot, variables) for token in operands), *piped]
            if command[0] == "include":
                piped = [self._include(*arguments)]
            elif function:
                piped = [function(*arguments)]
            elif len(arguments) == 1:
                piped = arguments
            else:
                raise TemplateError(f"{' '.join(tokens)} is not understood")
        return piped[0]

    def _include(self, name: str, dot: Any) -> str:
        if name not in self._defined:
            raise TemplateError(f"no template is named {name}")
        return self._text(self._defined[name], dot, {"$": dot})


def _lex(source: str) -> Iterator[str | list[str]]:
    """Text, and the tokens of actions; white space that an action takes away is gone."""
    at, strips = 0, False
    for action in _ACTION.finditer(source):
        yield _stripped(source[at : action.start()], left=strips, right=bool(action[1]))
        at, strips = action.end(), bool(action[3])
        if not action[2].startswith("/*"):
            yield _tokens(action[2])
    yield _stripped(source[at:], left=strips, right=False)


def _stripped(text: str, *, left: bool, right: bool) -> str:
    text = text.lstrip() if left else text
    return text.rstrip() if right else text


def _tokens(action: str) -> list[str]:
    found = _TOKEN.findall(action)
    if not found or _TOKEN.sub("", action).strip():
        raise TemplateError(f"{action.strip()} is not understood")
    return found


def _commands(tokens: Sequence[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for token in tokens:
        if token == "|":
            commands.append([])
        else:
            commands[-1].append(token)
    if not all(commands):
        raise TemplateError(f"{' '.join(tokens)} is not understood")
    return commands


def _operand(token: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    if token.startswith('"'):
        return json.loads(token)
    if token.isdecimal():
        return int(token)
    start, *path = token.split(".")
    if start and start not in variables:
        raise TemplateError(f"{token} is not understood")
    value = variables[start] if start else dot
    for name in filter(None, path):
        if not isinstance(value, Mapping):
            raise TemplateError(f"{token}: there is nothing that has {name}")
        value = value.get(name)
    return value


def _printed(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Quoting(yaml.SafeDumper):
    """Strings in quotes unless every reader of YAML, old or new, takes them for strings."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_STRINGS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Quoting.add_representer(str, _string)


def _to_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Quoting, sort_keys=True, width=1_000_000).removesuffix("\n").removesuffix("\n...")


def _indented(width: int, text: str) -> str:
    return "\n" + "\n".join(" " * width + line for line in text.split("\n"))


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "default": lambda fallback, value: value or fallback,
    "nindent": _indented,
    "not": lambda value: not value,
    "printf": lambda form, *values: form % values,
    "quote": lambda value: json.dumps(_printed(value), ensure_ascii=False),
    "toYaml": _to_yaml,
}
"""Beside ``include``, which needs the templates."""

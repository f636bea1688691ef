"""The command line of an OCI runtime, as far as it must be understood: ``native/programs/command_line.c`` in Python.

runc, crun and youki differ in their parsers; what engines really write is common to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_GLOBAL: Final = frozenset({"root", "r", "log", "l", "log-format", "criu", "rootless", "cgroup-manager"})
_CREATE: Final = frozenset({"bundle", "b", "console-socket", "pidfd-socket", "pid-file", "preserve-fds", "config", "f"})


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What a ``create`` or ``run`` says."""

    bundle: str  # folder; "." where none is named
    container: str  # the container's id; empty where there is none
    log: str  # file for messages; empty: none
    log_json: bool  # whether each is a JSON object on a line


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read the arguments that follow the program's name."""
    options, rest = _options(arguments, _GLOBAL)
    created, words = _options(rest[1:], _CREATE, interleaved=True)
    return CommandLine(
        bundle=created.get("bundle", created.get("b", ".")),
        container=words[0] if words else "",
        log=options.get("log", options.get("l", "")),
        log_json=options.get("log-format") == "json",
    )


def _options(
    arguments: Sequence[str], with_value: frozenset[str], *, interleaved: bool = False
) -> tuple[dict[str, str], list[str]]:
    """The options' values, and what is no option: from the first word on, or the words between options too."""
    found: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return found, words + rest
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
            if not interleaved:
                return found, words + rest
            continue
        name, separator, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if separator:
            found[name] = value
        elif name in with_value and rest:
            found[name] = rest.pop(0)
        elif "b" in with_value and argument[:3] in ("-b/", "-b."):
            found["b"] = argument[2:]  # as crun reads it
    return found, words

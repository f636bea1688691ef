"""Taking secrets out of text that is going to be shown to others.

What goes: the values of keys, options and headers that are named like secrets, tokens, passwords or
certificates' data; the data of Kubernetes Secrets; values of environment variables; keys and certificates
in PEM; JSON web tokens and access keys by their form; credentials in URLs; public IP addresses. What is
kept: private and local IP addresses, which say how a cluster is wired, and the names of things.

Rather too much goes than too little: where a value's end is not certain, the rest of the line goes too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final

REDACTED: Final = "<redacted>"
"""What stands in the place of a secret."""

_PASSES_MAX: Final = 50
_CLOSING: Final = ")]}\"',;"

_WORDS: Final = (
    r"passw(?:or)?d|passphrase|pwd|secret|token|credential|authorization|cookie|signature"
    r"|(?:api|access|private|client|encryption|auth|account|session)[-_.]?key|session[-_.]?id"
    r"|certificate[-_]?(?:authority[-_]?)?data|ca[-_.]?bundle|tls\.(?:crt|key)|ca\.crt|dockerconfig|dockercfg"
)
_SECRET_NAME: Final = re.compile(rf"{_WORDS}|^auths?$", re.IGNORECASE)
_STRING: Final = r'"(?:\\.|[^"\\])*"' + r"|'(?:''|[^'])*'"
_LINE_KEY: Final = re.compile(r"(?P<lead>[ \t]*(?:-[ \t]+)*)[\"']?(?P<name>[\w./-]+)[\"']?[ \t]*:")

_Replacement = str | Callable[[re.Match[str]], str]
_Rule = tuple[re.Pattern[str], _Replacement]


def _redact_word(word: str) -> str:
    """What closes a bracket or a quotation behind a word is not part of it."""
    secret = word.rstrip(_CLOSING)
    return REDACTED + word[len(secret) :] if secret else word


def _redact_headed(match: re.Match[str]) -> str:
    """Keeps the head; of the rest a word, or all of it."""
    return match["head"] + (_redact_word(match["word"]) if match["word"] else REDACTED)


def _redact_address(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    return REDACTED if address.is_global else match[0]


_PEM: Final = re.compile(
    r"(?P<begin>-----BEGIN (?P<what>[A-Z0-9 ]{1,40})-----).*?(?P<end>-----END (?P=what)-----|\Z)", re.DOTALL
)
_PEM_TAIL: Final = re.compile(r"(?<![A-Za-z0-9+/=\\])(?:[A-Za-z0-9+/=]|\\[nr])+(?=-----END [A-Z0-9 ]{1,40}-----)")
_PEM_LINE: Final = re.compile(r"\s*[A-Za-z0-9+/=]{16,}\s*")
_PEM_LAST_LINE: Final = re.compile(r"\s*[A-Za-z0-9+/=]+\s*")

_SECRET_OBJECT: Final = re.compile(r"""\bkind\\*["']?\s*:\s*\\*["']?Secret(?:List)?\b""")
_SECRET_DATA: Final = re.compile(r"""(?P<key>\b(?:data|stringData)\\*["']?\s*:[ \t]*)(?=\S)(?!<redacted>)[^\n]+""")

_VALUE: Final = rf"(?:{_STRING}|[\"'][^\n]*|(?P<word>\S+))"
# Before all others: a user in it may be called x-access-token.
_URL: Final[_Rule] = (
    re.compile(r"(?P<scheme>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#\"'<>]+@"),
    rf"\g<scheme>{REDACTED}@",
)
_NAMED: Final[tuple[_Rule, ...]] = (
    # --password x, --token=x, "--password", "x", and in YAML `- --password` with `- x` below it.
    (
        re.compile(
            rf"(?P<head>(?<![\w.-])--?(?:(?=[\w.-]*?(?:{_WORDS}))[\w.-]++|auths?(?![\w.-]))"
            r"(?:=|[ \t]+|[\"']?\s*,\s*|[\"']?[ \t]*\n[ \t]*-[ \t]+))"
            rf"(?![-\s]){_VALUE}",
            re.IGNORECASE,
        ),
        _redact_headed,
    ),
    (
        re.compile(rf"(?P<head><(?=[\w:.-]*?(?:{_WORDS}))[\w:.-]++>)[^<]+(?=</)(?P<word>)", re.IGNORECASE),
        _redact_headed,
    ),
)
# "password": "x", {\"password\":\"x\"}, password='x', password=x, password = x, Authorization: Bearer x
_NAME: Final = re.compile(rf"{_WORDS}|(?<!\w)auths?(?!\w)", re.IGNORECASE)
_NAMES_END: Final = re.compile(r"[\w.-]*(?:\\*[\"'])?")
_ASSIGNED: Final = re.compile(
    rf"(?P<separator>[ \t]*[:=][ \t]*)(?P<value>{_STRING}|(?P<quote>\\+[\"'])(?:(?!(?P=quote))[^\n])*(?P=quote)"
    r"|(?<==)(?P<word>[^\s\"'\\]\S*)|(?=\S)[^\n]+)"
)
_FORMS: Final[tuple[_Rule, ...]] = (
    (re.compile(r"(?P<head>(?<!\S)(?:-u|--user)[= \t]+)(?P<word>[^\s:]+:\S+)"), _redact_headed),
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*"), REDACTED),
    (re.compile(r"\b(?P<kind>bearer[ \t]+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\g<kind>{REDACTED}"),
    # Access keys of Alibaba Cloud and AWS, tokens of GitHub and OpenShift, bootstrap tokens of kubeadm.
    (
        re.compile(
            r"(?<![A-Za-z0-9])(?:LTAI[A-Za-z0-9]{12,}|A(?:KI|SI)A[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}"
            r"|sha256~[A-Za-z0-9_-]{20,}|[a-z0-9]{6}\.[a-z0-9]{16})(?![A-Za-z0-9])"
        ),
        REDACTED,
    ),
)
_ENVIRONMENT: Final[tuple[_Rule, ...]] = (
    # "Env": ["FOO=bar baz"]
    (
        re.compile(
            r"(?P<quote>[\"'])(?P<name>[A-Za-z_]\w*=)(?:(?:\\.|(?!(?P=quote))[^\\\n])+(?P=quote)|(?!(?P=quote))[^\n]+)"
        ),
        rf"\g<quote>\g<name>{REDACTED}\g<quote>",
    ),
    (re.compile(rf"(?P<head>(?<![\w.\"'-])[A-Z_][A-Z0-9_]*=){_VALUE}"), _redact_headed),
    # -e foo=bar, --env foo=bar
    (re.compile(rf"(?P<head>(?<!\S)(?:-e|--env)[= \t]+[A-Za-z_][\w.]*=){_VALUE}"), _redact_headed),
    # A container's variables in JSON on one line; those below one another are lines with keys.
    (
        re.compile(rf"(?P<name>\"name\"\s*:\s*(?:{_STRING})\s*,\s*\"value\"\s*:\s*)(?:{_STRING})"),
        rf'\g<name>"{REDACTED}"',
    ),
)
# /proc/PID/environ
_SEPARATED_BY_NUL: Final = re.compile(r"(?P<name>(?:\A|\0)[A-Za-z_]\w*=)[^\0]+")
_ADDRESSES: Final[tuple[_Rule, ...]] = (
    (re.compile(r"(?<![\w.+~-])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w+~-]|\.[0-9])"), _redact_address),
    (re.compile(r"(?<![\w.:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"), _redact_address),
)


def redact(text: str, *, environment: bool = True) -> str:
    """The text without secrets; what was one is ``<redacted>``. Applied again it changes nothing.

    ``environment`` False keeps assignments to names in capitals, for files that consist of them and
    hold no secrets, as os-release does.
    """
    # What a pass changes leaves less that is not the mark, so that one soon changes nothing.
    for _ in range(_PASSES_MAX):
        changed = _redact_once(text, environment)
        if changed == text:
            break
        text = changed
    return text


def redact_json(value: Any) -> Any:
    """A JSON value without secrets: what is below a key that is named like one, and what ``redact`` takes out."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redact_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    hidden = set()
    if value.keys() == {"name", "value"}:
        hidden = {"value"}
    elif value.get("kind") == "Secret":
        hidden = {"data", "stringData"}
    return {
        key: REDACTED if key in hidden or _SECRET_NAME.search(key) else redact_json(item) for key, item in value.items()
    }


def _redact_once(text: str, environment: bool) -> str:
    text = _redact_pem(text)
    secrets = _SECRET_OBJECT.search(text) is not None
    text = _redact_blocks(text, secrets, environment)
    if secrets:
        text = _SECRET_DATA.sub(rf"\g<key>{REDACTED}", text)
    if environment and "\0" in text:
        text = _SEPARATED_BY_NUL.sub(rf"\g<name>{REDACTED}", text)
    text = _applied((_URL,), text)
    if _NAME.search(text):
        text = _redact_assignments(_applied(_NAMED, text))
    return _applied((*_FORMS, *(_ENVIRONMENT if environment else ()), *_ADDRESSES), text)


def _applied(rules: tuple[_Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _redact_assignments(text: str) -> str:
    """The values of what is named like a secret. Each word is looked at once, however often it names one."""
    kept: list[str] = []
    done = 0
    while (name := _NAME.search(text, done)) is not None:
        end = _NAMES_END.match(text, name.end())
        behind = end.end() if end else name.end()
        assigned = _ASSIGNED.match(text, behind)
        kept.append(text[done:behind])
        done = behind
        if assigned is not None:
            kept.append(assigned["separator"] + _redact_value(assigned))
            done = assigned.end()
    return "".join([*kept, text[done:]])


def _redact_value(assigned: re.Match[str]) -> str:
    if assigned["word"]:
        return _redact_word(assigned["word"])
    quote = '"' if assigned["value"][0] in "\"'\\" else ""
    return f"{quote}{REDACTED}{quote}"


def _redact_pem(text: str) -> str:
    """Keys and certificates, also where their beginning or their end is cut off."""
    if "-----" not in text:
        return text
    text = _PEM.sub(rf"\g<begin>{REDACTED}\g<end>", text)
    text = _PEM_TAIL.sub(REDACTED, text)
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if "-----END " not in line:
            continue
        above = index - 1
        form = _PEM_LAST_LINE
        while above >= 0 and form.fullmatch(lines[above]):
            lines[above] = REDACTED
            above, form = above - 1, _PEM_LINE
    return "\n".join(lines)


def _redact_blocks(text: str, secrets: bool, environment: bool) -> str:
    """What is indented below a key that is named like a secret: block texts, lists and mappings.

    With ``secrets`` also below ``data``, and with ``environment`` the ``value`` that stands by a ``name``.
    """
    lines = text.split("\n")
    kept: list[str] = []
    index, named_column = 0, -1
    while index < len(lines):
        line = lines[index]
        index += 1
        match = _LINE_KEY.match(line)
        if match is not None:
            name, column = match["name"], len(match["lead"])
            variable = environment and name == "value" and column == named_column
            if variable or _SECRET_NAME.search(name) or (secrets and name in ("data", "stringData")):
                end = _end_of_block(lines, index, column)
                if end > index or (variable and line[match.end() :].strip()):
                    line = f"{line[: match.end()]} {REDACTED}"
                index = end
            if column <= named_column or name == "name":
                named_column = column if name == "name" else -1
        kept.append(line)
    return "\n".join(kept)


def _end_of_block(lines: list[str], start: int, column: int) -> int:
    """Behind the last of the lines from ``start`` on that are further right than a key in ``column``.

    The items of a list may stand right below their key.
    """
    end = start
    for index in range(start, len(lines)):
        line = lines[index].lstrip(" \t")
        if not line:
            continue
        indent = len(lines[index]) - len(line)
        if indent <= column and not (indent == column and (line == "-" or line.startswith("- "))):
            break
        end = index + 1
    return end

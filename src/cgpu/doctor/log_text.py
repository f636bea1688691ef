"""What a log line says, without what its carriers put around it: time stamps, JSON, colours, escapes.

``squeezed`` is the form that patterns are matched on: lowered, without white space and backslashes, every
run of quotes one apostrophe. A message that a terminal, YAML or ``kubectl describe`` has folded, in the
middle of a word or between words, squeezes to the same text as the unfolded one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SEQUENCE: Final = r"\[[0-9;:?]{0,32}[A-Za-z]"
_LONGER: Final = r"(?:\][^\x00-\x1f\x1b]{0,200}(?:\x07|\x1b\\)|[()][0-9AB])"
# ESC itself; as JSON and rsyslog write it; and as `cat -v` shows it.
_COLOUR: Final = rf"(?:\x1b(?:{_SEQUENCE}|{_LONGER})|(?:\\u001[bB]|#033|\^\[){_SEQUENCE})"
_COLOURS: Final = re.compile(_COLOUR)
_COLOUR_BYTES: Final = re.compile(_COLOUR.encode())
# Each of those has one of these in it.
_COLOUR_SIGNS: Final = (b"\x1b", b"u001b[", b"u001B[", b"#033[", b"^[[")

_ESCAPE: Final = re.compile(r"""\\+(?:u([0-9a-fA-F]{4})|([nrt])|(?=["'/]))""")
_CONTROL: Final = {"n": "\n", "r": "\r", "t": "\t"}

# The object that Docker's json-file driver writes for each line.
_DOCKER: Final = re.compile(r'"log"\s?:\s?"([^"\\]*(?:\\.[^"\\]*)*)"')

# As VERBOSE reads it: a space that counts is in brackets.
_DATE: Final = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"
_SYSLOG: Final = r"[A-Z][a-z]{2}[ ][ \d]\d[ ]\d\d:\d\d:\d\d(?:\.\d{1,9})?"
_PROCESS: Final = r"(?:[ ][\w.-]{1,255}[ ](?:kernel|[\w.@/-]{1,64}\[\d{1,10}\]):)?"
_PREFIX: Final = re.compile(
    rf"""(?:\s+
      | <\d{{1,3}}>(?:1[ ])?                                          # a syslog priority
      | (?:{_DATE}|{_SYSLOG}){_PROCESS}
      | \d{{4}}/\d\d/\d\d[ ]\d\d:\d\d:\d\d(?:\.\d{{1,9}})?
      | \[[A-Z][a-z]{{2}}[ ][A-Z][a-z]{{2}}[ ][ \d]\d[ ]\d\d:\d\d:\d\d[ ]\d{{4}}\]  # dmesg -T
      | [a-z]{{3,8}}\s{{0,3}}:[a-z]{{3,8}}\s{{0,3}}:(?=[ ]\[)             # dmesg -x
      | \[\s{{0,8}}\d{{1,10}}\.\d{{1,9}}\](?:\[\s{{0,8}}[CT]\d{{1,10}}\])?      # printk
      | (?:stdout|stderr)[ ](?P<tag>[PF])(?:[ ]|$)                     # CRI; P: goes on in the next line
      | [IWEF]\d{{4}}[ ]\d\d:\d\d:\d\d\.\d{{1,9}}\s{{1,8}}\d{{1,10}}[ ][\w./-]{{1,128}}:\d{{1,6}}\]  # klog
      | \[pod/[^\]\s]{{1,512}}\]                                     # kubectl logs --prefix
      | [\w.-]{{1,64}}[ ]{{1,32}}\|(?:[ ]|$)                          # docker compose
    ){{1,8}}""",
    re.VERBOSE,
)
# Lines that begin an entry of their own though no time stamp says so: events, objects, logfmt.
_ENTRY: Final = re.compile(r'\s*(?:(?:Normal|Warning)\s{2,}[A-Z]|\{\s*"|level=|time=")')

_WHITE: Final = "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200C)))
_CONTROLS: Final = "".join(map(chr, (*range(0x21), 0x7F)))
# The backslash of escapes, marks of byte order, and what was no UTF-8.
_NOTHING: Final = "\\\ufeff\ufffd"
_QUOTES: Final = "\"'`\u00b4\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00ab\u00bb"
_TABLE: Final = {
    **dict.fromkeys(map(ord, _WHITE + _CONTROLS + _NOTHING), None),
    **dict.fromkeys(map(ord, _QUOTES), "'"),
    ord("\u2010"): "-",
    ord("\u2011"): "-",
    ord("\u2013"): "-",
}
_RUN_OF_QUOTES: Final = re.compile("''+")
_LOWER: Final = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
# Anchors have none of these. Without them time stamps are gone, and what is searched is half as long.
_DELETED_BYTES: Final = bytes(set(range(128)) - set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_[]"))


@dataclass(frozen=True, slots=True)
class CleanLine:
    """One line of a log."""

    text: str
    """What the line says, for people."""

    squeezed: str
    """The same, for patterns."""

    indent: int
    """White space before it."""

    begins_entry: bool
    """It has a time stamp, or another sign that it does not go on from the line before."""

    unfinished: bool
    """Its carrier says that the next line goes on from it."""


def clean_line(raw: bytes) -> CleanLine:
    """From bytes without the line's end. What is no UTF-8 is replaced."""
    text = raw.decode("utf-8", "replace").replace("\0", "")
    text, unfinished, begins = _unpacked(text)
    if "\\" in text:
        text = _ESCAPE.sub(_unescaped, text)
    if has_colours(raw):
        text = _COLOURS.sub("", text)
    prefix = _PREFIX.match(text)
    if prefix is not None:
        begins = begins or bool(prefix.group().strip())
        unfinished = unfinished or prefix["tag"] == "P"
        indent = len(text) - len(text.lstrip())
        text = text[prefix.end() :]
    else:
        indent = 0
    begins = begins or _ENTRY.match(text) is not None
    return CleanLine(text.rstrip(), squeeze(text), indent, begins, unfinished)


def _unpacked(text: str) -> tuple[str, bool, bool]:
    """The text; whether it is unfinished; whether it begins an entry."""
    if text.lstrip()[:1] != "{" or '"log"' not in text or '"stream"' not in text:
        return text, False, False
    found = _DOCKER.search(text)
    if found is None:
        return text, False, True
    log = found[1]
    return (log[:-2], False, True) if log.endswith("\\n") else (log, True, True)


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    return _CONTROL.get(match[2] or "", "")


def has_colours(raw: bytes) -> bool:
    """Whether there may be colour codes. The same for a text as for any part that has one."""
    for sign in _COLOUR_SIGNS:  # noqa: SIM110 - every line is asked, and any() takes twice the time
        if sign in raw:
            return True
    return False


def squeeze(text: str) -> str:
    """The form that patterns are matched on."""
    squeezed = text.lower().translate(_TABLE)
    return _RUN_OF_QUOTES.sub("'", squeezed) if "''" in squeezed else squeezed


def squeeze_bytes(raw: bytes) -> bytes:
    """A rough form of the same, at the speed of memory: letters and ``:-_[]`` only. Anchors are looked for in it.

    That of a text is those of its lines, joined.
    """
    if has_colours(raw):
        raw = _COLOUR_BYTES.sub(b"", raw)
    return raw.translate(_LOWER, _DELETED_BYTES)


def place_of(text: str, offset: int) -> int:
    """Where in a text the character stands that is at ``offset`` of its squeezed form."""
    seen, quoted = 0, False
    for place, character in enumerate(text):
        kept = character.lower().translate(_TABLE)
        if quoted and kept == "'":
            continue
        if seen + len(kept) > offset:
            return place
        seen += len(kept)
        quoted = kept.endswith("'") or (quoted and not kept)
    return len(text)

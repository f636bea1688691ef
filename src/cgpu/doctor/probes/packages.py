"""Versions of packages: from dpkg's status file, and from what rpm prints."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

_FIELD: Final = re.compile(r"^(Package|Status|Version):[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_BLANK: Final = re.compile(r"\n[ \t]*\n")


def dpkg_versions(text: str, packages: Collection[str]) -> dict[str, str]:
    """The versions of those packages that are installed, by dpkg's status file (deb822(5), dpkg-query(1)).

    A package that was removed stays in the file with another status; of one that is installed for
    several architectures the first counts.
    """
    found: dict[str, str] = {}
    for name, paragraph in _paragraphs(text):
        if name in packages:
            fields = dict(_FIELD.findall(paragraph))
            if fields.get("Status", "").split()[-1:] == ["installed"] and fields.get("Version"):
                found.setdefault(name, fields["Version"])
    return found


def paragraphs_of(text: str, packages: Collection[str]) -> str:
    """Of the file only the paragraphs about those packages, and of these only what ``dpkg_versions`` needs."""
    kept = [
        "".join(f"{field}: {value}\n" for field, value in _FIELD.findall(paragraph))
        for name, paragraph in _paragraphs(text)
        if name in packages
    ]
    return "\n".join(kept)


def _paragraphs(text: str) -> Iterator[tuple[str, str]]:
    """The name of the package and the text of each paragraph."""
    for paragraph in _BLANK.split(text):
        match = re.search(r"^Package:[ \t]*(\S+)", paragraph, re.MULTILINE)
        if match is not None:
            yield match[1], paragraph


def rpm_versions(text: str, packages: Collection[str]) -> dict[str, str]:
    """The versions in the lines ``NAME VERSION-RELEASE`` that the rpm command prints.

    For what is not installed it prints a sentence, which has more words.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] in packages:
            found.setdefault(words[0], words[1])
    return found

"""The kept inputs of the fuzzers: one folder per target, one file per input, whose name says what it is for.

A file ``*.hex`` holds bytes as hexadecimal digits with blanks anywhere; what follows a ``#`` in a line is a comment.
Any other file is the input as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from native import build

CORPUS: Final = Path(__file__).with_name("corpus")
GROWN: Final = build.ROOT / "build" / "fuzz" / "corpus"
"""What long runs have found beside it: not kept in the repository, but from one run to the next."""


def read_input(path: Path) -> bytes:
    """The bytes of an input. Raises ValueError for a .hex file that is none."""
    if path.suffix != ".hex":
        return path.read_bytes()
    return bytes.fromhex("".join(line.partition("#")[0] for line in path.read_text().splitlines()))


def kept(target: str) -> dict[str, bytes]:
    """The kept inputs of a target, by their names; those of long runs are not among them."""
    folder = CORPUS / target
    return {path.name: read_input(path) for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def grown(target: str) -> Path:
    """The folder for what long runs find, made if need be."""
    folder = GROWN / target
    folder.mkdir(parents=True, exist_ok=True)
    return folder

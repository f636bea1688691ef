"""Small texts that a user names: a file of facts, compatibility data of one's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgpu.errors import UsageError

if TYPE_CHECKING:
    from cgpu.compat.dataset import Dataset

STDIN: Final = "-"
_MOST_BYTES: Final = 1 << 20


def add_data(parser: argparse._ActionsContainer) -> None:
    """``--data``, the user's own rows."""
    parser.add_argument("--data", metavar="FILE", help="compatibility data of your own (TOML): adds and overrides rows")


def dataset_of(options: argparse.Namespace) -> Dataset:
    """The data that came with this software, with the rows of ``--data`` over it. Raises DataError, UsageError."""
    from cgpu.compat.dataset import overlaid, shipped

    if options.data is None:
        return shipped()
    return overlaid(shipped(), read_text(options.data), called(options.data))


def called(path: str) -> str:
    """What messages call the file."""
    return "stdin" if path == STDIN else path


def read_text(path: str) -> str:
    """A text file of at most 1 MiB, or stdin (``-``). Raises UsageError for one that is not."""
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{called(path)}: {error.strerror}", "name a file that can be read") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{called(path)} is not UTF-8: byte {error.start}", "write it as UTF-8 text") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{called(path)} is larger than {_MOST_BYTES} bytes", "is it the right file?")
    return text

"""A stream of bytes as windows of lines, in bounded memory and whatever the pieces are that it comes in.

Most of a log is about something else. So a stretch of it is squeezed as a whole first, and only where one of
the anchors stands in it are its lines looked at one by one. What is looked at is decided line by line, never
by how the stream was cut: a line is looked at when an anchor stands in its window, squeezed as bytes.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cgpu.doctor.log_text import CleanLine, clean_line, squeeze, squeeze_bytes

WINDOW_LINES: Final = 8
"""A message is looked for in as many lines: one of 250 characters takes seven in a terminal of 40 columns."""

PIECE_BYTES: Final = 64 << 10
"""A longer line is cut into pieces of this length."""

OVERLAP_BYTES: Final = 4 << 10
"""The next piece begins with as many bytes of the one before, so that no message is cut in two."""

_STRETCH_BYTES: Final = 256 << 10
_SHORT_LINE: Final = 32  # no terminal folds a line as short as that


@dataclass(slots=True)
class Piece:
    """A line, or a piece of a very long one."""

    number: int
    """Of the line, from 1."""

    raw: bytes
    """Without the newline; a carriage return before it counts as white space."""

    cut: bool
    """The line goes on in the next piece."""

    _clean: CleanLine | None = field(default=None, init=False)

    @property
    def clean(self) -> CleanLine:
        """What it says."""
        if self._clean is None:
            self._clean = clean_line(self.raw)
        return self._clean


class Window:
    """A line and those that follow it, as one squeezed text, and the anchors that stand in it."""

    def __init__(self, pieces: Sequence[Piece], anchors: Collection[bytes]) -> None:
        self.pieces = pieces
        self.anchors = anchors
        lines = [piece.clean for piece in pieces]
        self.squeezed = "".join(line.squeezed for line in lines)
        self._lines = lines
        self._starts = list(itertools.accumulate((len(line.squeezed) for line in lines), initial=0))

    @property
    def number(self) -> int:
        """The number of its first line."""
        return self.pieces[0].number

    @cached_property
    def first_end(self) -> int:
        """A match belongs to this window when it begins before that offset: later windows have the others."""
        first = self.pieces[0]
        if first.cut:
            return len(squeeze(clean_line(first.raw[: PIECE_BYTES - OVERLAP_BYTES]).text))
        return self._starts[1]

    @cached_property
    def entries(self) -> list[int]:
        """The offsets where a new log entry begins, the first line's left out."""
        return [
            self._starts[index]
            for index in range(1, len(self._lines))
            if self._begins_entry(self._lines[index - 1], self._lines[index])
        ]

    @staticmethod
    def _begins_entry(before: CleanLine, line: CleanLine) -> bool:
        if before.unfinished:
            return False
        return line.begins_entry or (len(before.text) < _SHORT_LINE and line.indent <= before.indent)

    def number_at(self, offset: int) -> int:
        """The number of the line that an offset is in."""
        return self.pieces[bisect_right(self._starts, offset, hi=len(self.pieces)) - 1].number

    def lines_of(self, start: int, end: int) -> list[tuple[CleanLine, int]]:
        """The lines that a stretch of the text comes from, each with the offset in it where the stretch begins."""
        return [
            (line, max(start - begin, 0))
            for line, begin, after in zip(self._lines, self._starts, self._starts[1:], strict=False)
            if begin < end and after > start
        ]


class LogStream:
    """Cuts a stream into windows, those that cannot matter left out."""

    def __init__(self, anchors: Sequence[bytes]) -> None:
        self._anchors = tuple(anchors)
        self._waiting: list[Piece] = []  # the windows of these lack lines yet
        self._tail = b""  # of a line that has not ended
        self._number = 1  # of the line that begins next, or goes on

    def feed(self, data: bytes) -> Iterator[Window]:
        """The windows that are complete with this data. To be used up before the next call."""
        for start in range(0, len(data), _STRETCH_BYTES):
            yield from self._stretch(data[start : start + _STRETCH_BYTES])

    def finish(self) -> Iterator[Window]:
        """The last ones; nothing may follow."""
        if self._tail:
            self._waiting.append(Piece(self._number, self._tail, cut=False))
            self._tail = b""
        pieces, self._waiting = self._waiting, []
        yield from self._windows(pieces, len(pieces))

    def _stretch(self, data: bytes) -> Iterator[Window]:
        text = self._tail + data if self._tail else data
        end = text.rfind(b"\n") + 1
        self._tail = text[end:]
        pieces: list[Piece] = []
        if end:
            pieces = self._lines(text[:end])
        if len(self._tail) > PIECE_BYTES:
            pieces += self._cut_tail()
        if not pieces:
            return
        pieces = self._waiting + pieces
        # A window ends with a piece that was cut, so those up to the last one are complete.
        cut = next((index for index in range(len(pieces), 0, -1) if pieces[index - 1].cut), 0)
        complete = max(cut, len(pieces) - (WINDOW_LINES - 1))
        self._waiting = pieces[complete:]
        yield from self._windows(pieces, complete)

    def _lines(self, text: bytes) -> list[Piece]:
        """Whole lines; of a stretch without any anchor only the last ones, which may begin a window."""
        first = self._number
        count = text.count(b"\n")
        self._number += count
        known = b"\n".join([*(piece.raw for piece in self._waiting), text])
        if not self._may_matter(known):
            start = len(text) - 1
            kept = 0
            while kept < WINDOW_LINES - 1 and start >= 0:
                start = text.rfind(b"\n", 0, start)
                kept += 1
            if start >= 0:
                text = text[start + 1 :]
                first += count - kept
                self._waiting = []
        lines = text.split(b"\n")
        lines.pop()
        return list(itertools.chain.from_iterable(_cut(first + index, line) for index, line in enumerate(lines)))

    def _cut_tail(self) -> list[Piece]:
        """The pieces of a line that has not ended and is very long already."""
        *whole, last = _cut(self._number, self._tail)
        self._tail = last.raw
        return whole

    def _may_matter(self, raw: bytes) -> bool:
        squeezed = squeeze_bytes(raw)
        return any(anchor in squeezed for anchor in self._anchors)

    def _windows(self, pieces: Sequence[Piece], count: int) -> Iterator[Window]:
        """Those of the first ``count`` pieces that have an anchor."""
        squeezed = [squeeze_bytes(piece.raw) for piece in pieces]
        text = b"".join(squeezed)
        starts = list(itertools.accumulate(map(len, squeezed), initial=0))
        wanted: dict[int, set[bytes]] = {}
        for anchor in self._anchors:
            place = text.find(anchor)
            while place >= 0:
                first = bisect_right(starts, place) - 1
                last = bisect_right(starts, place + len(anchor) - 1) - 1
                for index in _windows_with(pieces, first, last):
                    wanted.setdefault(index, set()).add(anchor)
                # The next one that may want another window begins in a later line.
                place = text.find(anchor, max(starts[first + 1], place + 1) if first == last else place + 1)
        for index in sorted(wanted):
            if index < count:
                yield Window(_window(pieces, index), wanted[index])


def _windows_with(pieces: Sequence[Piece], first: int, last: int) -> Iterator[int]:
    """The windows that have all of the pieces from ``first`` to ``last``."""
    if any(piece.cut for piece in pieces[first:last]):
        return
    for index in range(first, max(last - WINDOW_LINES, -1), -1):
        yield index
        if index and pieces[index - 1].cut:
            return


def _window(pieces: Sequence[Piece], index: int) -> Sequence[Piece]:
    members = pieces[index : index + WINDOW_LINES]
    for length, piece in enumerate(members, 1):
        if piece.cut:
            return members[:length]
    return members


def _cut(number: int, line: bytes) -> list[Piece]:
    """The line in pieces of at most PIECE_BYTES; all but the last are cut."""
    pieces = []
    while len(line) > PIECE_BYTES:
        pieces.append(Piece(number, line[:PIECE_BYTES], cut=True))
        line = line[PIECE_BYTES - OVERLAP_BYTES :]
    pieces.append(Piece(number, line, cut=False))
    return pieces

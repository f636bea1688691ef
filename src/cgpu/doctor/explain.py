"""Recognises known failures in a log of any length.

``Recogniser`` is fed a stream in pieces of any size and keeps a bounded part of it: what it finds does not
depend on how the stream was cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

from cgpu.doctor.failures import Catalogue, Failure, Pattern
from cgpu.doctor.kernel_report import KernelReports, events
from cgpu.doctor.log_stream import LogStream, Window
from cgpu.doctor.log_text import place_of

_TEXT_LONGEST: Final = 400
_BEFORE: Final = 80  # characters of a long line that are shown before what was recognised


class Confidence(StrEnum):
    """How sure it is that the text speaks of this failure."""

    CERTAIN = "certain"
    """The words are those of this failure and of no other, or facts of the node confirm it."""

    POSSIBLE = "possible"
    """Another cause would look the same."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A failure that was recognised, with the best evidence: certain before possible, then the first."""

    failure: Failure
    confidence: Confidence
    line: int
    """The number of the first line of the evidence, from 1."""

    text: str
    """The evidence as it stands in the log, without time stamps and colours; lines that are apart, a line each."""

    count: int = 1
    """How many lines begin such a message so far."""

    @property
    def id(self) -> str:
        """The failure's."""
        return self.failure.id

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        failure = self.failure
        return {
            "id": failure.id,
            "confidence": self.confidence.value,
            "line": self.line,
            "count": self.count,
            "text": self.text,
            "title": failure.title,
            "cause": failure.cause,
            "affected": failure.affected,
            "fix": failure.fix,
            "confirm": failure.confirm,
            "source": failure.source,
        }


@dataclass(frozen=True, slots=True)
class _Sight:
    failure: Failure
    confidence: Confidence
    line: int
    text: Callable[[], str]  # made only for evidence that is kept


class Recogniser:
    """Recognises failures in one log. Feed it, then finish it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._stream = LogStream(catalogue.anchors)
        self._failures = list(catalogue.failures.values())
        self._by_anchor = {
            anchor: [
                index
                for index, failure in enumerate(self._failures)
                if any(anchor in known.encode() for known in failure.anchors)
            ]
            for anchor in catalogue.anchors
        }
        self._reports = KernelReports()
        self._findings: dict[str, Finding] = {}
        self._spans: dict[object, tuple[int, int]] = {}  # first and last line of each kind of match's last one

    def feed(self, data: bytes | str) -> list[Finding]:
        """Take the next piece of the log. What is new with it: found first, or now certain.

        A message counts only once the lines that may belong to it are there, so the last seven lines wait.
        """
        return self._take(self._stream.feed(data.encode("utf-8", "replace") if isinstance(data, str) else data))

    def finish(self) -> list[Finding]:
        """The log ends here. What is new with its last lines."""
        return self._take(self._stream.finish())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All so far: the certain ones first, then by line."""
        order = list(Confidence)
        return tuple(
            sorted(self._findings.values(), key=lambda finding: (order.index(finding.confidence), finding.line))
        )

    def _take(self, windows: Iterable[Window]) -> list[Finding]:
        new: dict[str, Finding] = {}
        for window in windows:
            for sight in self._sights(window):
                finding = self._record(sight)
                if finding is not None:
                    new[finding.id] = finding
        return list(new.values())

    def _record(self, sight: _Sight) -> Finding | None:
        """The finding, when it is new or better than what was known."""
        known = self._findings.get(sight.failure.id)
        better = known is None or (known.confidence, sight.confidence) == (Confidence.POSSIBLE, Confidence.CERTAIN)
        count = 1 if known is None else known.count + 1
        if known is not None and not better:
            self._findings[known.id] = replace(known, count=count)
            return None
        finding = Finding(sight.failure, sight.confidence, sight.line, sight.text(), count)
        self._findings[finding.id] = finding
        return finding

    def _sights(self, window: Window) -> Iterator[_Sight]:
        """What begins in the window's first line."""
        if window.first_end == 0:
            return
        candidates = {index for anchor in window.anchors for index in self._by_anchor[anchor]}
        for index in sorted(candidates):
            failure = self._failures[index]
            if failure.trace:
                yield from self._kernel_sights(failure, window)
                continue
            kinds: list[object] = []
            for confidence, patterns in (
                (Confidence.CERTAIN, failure.certain),
                (Confidence.POSSIBLE, failure.possible),
            ):
                kinds.append((failure.id, confidence))
                span = _first_match(patterns, window)
                if span is None:
                    continue
                if not self._repeats(kinds, window, span[1]):
                    yield _Sight(failure, confidence, window.number, partial(_text, window, *span))
                break

    def _repeats(self, kinds: Sequence[object], window: Window, end: int) -> bool:
        """Whether this is the rest of a message that began in a line before; if not, it is the last kind's now."""
        for kind in kinds:
            first, last = self._spans.get(kind, (0, 0))
            if first < window.number <= last:
                return True
        self._spans[kinds[-1]] = (window.number, window.number_at(end - 1))
        return False

    def _kernel_sights(self, failure: Failure, window: Window) -> Iterator[_Sight]:
        for event in events(window.squeezed, window.first_end):
            if self._repeats([event.mark], window, event.end):
                continue
            evidence = self._reports.see(event.mark, window.number, _text(window, event.offset, event.end))
            if evidence is not None:
                yield _Sight(failure, Confidence.POSSIBLE, evidence.line, partial(str, evidence.text))


def recognise(text: bytes | str, catalogue: Catalogue) -> tuple[Finding, ...]:
    """What is recognised in a whole text."""
    recogniser = Recogniser(catalogue)
    recogniser.feed(text)
    recogniser.finish()
    return recogniser.findings


def _first_match(patterns: Iterable[Pattern], window: Window) -> tuple[int, int] | None:
    """The span of the first pattern that matches from within the first line."""
    for pattern in patterns:
        match = pattern.regex.search(window.squeezed)
        while match is not None and match.start() < window.first_end:
            if not (pattern.has_gap and _spans_entries(match, window)):
                return match.span()
            match = pattern.regex.search(window.squeezed, match.start() + 1)
    return None


def _spans_entries(match: re.Match[str], window: Window) -> bool:
    """Whether what lies between two parts of a message is the end of one log entry and the beginning of another."""
    begin, end = match.span("gap")
    return any(begin <= entry <= end for entry in window.entries)


def _text(window: Window, start: int, end: int) -> str:
    """The lines of a span as they stand in the log; of a long line the part around it."""
    shown = []
    for line, offset in window.lines_of(start, end):
        text = line.text
        if len(text) > _TEXT_LONGEST:
            place = max(0, place_of(text, offset) - _BEFORE)
            text = f"{'…' if place else ''}{text[place : place + _TEXT_LONGEST]}…"
        shown.append("".join(character if character.isprintable() else " " for character in text))
    return "\n".join(shown)

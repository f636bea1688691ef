"""Reports of the Linux kernel whose trace names a module of Alibaba's cGPU.

A report begins with one of the kernel's own head lines, and its trace follows. A frame names its module in
brackets: ``km_ioctl+0x1a3/0x2b0 [km]``, or as the crash utility has it ``km_ioctl at ffffffffc07d1a55 [km]``.
``Modules linked in:`` names every loaded module, so it is no evidence.

The forms are the kernel's: kernel/panic.c, kernel/hung_task.c, kernel/watchdog.c, kernel/rcu/tree_stall.h,
arch/x86/mm/fault.c, lib/dump_stack.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

REACH_LINES: Final = 500
"""So far after the last line of a report may the next one be: traces of all CPUs are long."""

_PANIC_LINES: Final = 100  # after an oops: the panic that it ends in
_OOPS_LINES: Final = 10  # between its two head lines

ANCHORS: Final = (
    "blockedformorethan",
    "lockup",
    "detectedstall",
    "detectedexp",
    "kernelpanic",
    "[km",
    "[cgpu",
    "cuthere]",
    "endtrace",
    "bug:",
    "oops:",
    "generalprotection",
    "unabletohandle",
    "warning:cpu",
    "linuxversion",
)
"""Every line that matters here has one of these, squeezed."""


class Mark(Enum):
    """What a line means for a report."""

    HANG = "a task, a CPU or RCU is stuck"
    PANIC = "the kernel panics"
    OOPS = "a fault of the kernel, which may end in a panic"
    OTHER = "a report of another kind begins"
    END = "a report ends"
    BOOT = "the kernel starts"
    FRAME = "a frame of cGPU's"


# The function before the offset is left out: squeezed, it could reach into the line before.
_FRAME: Final = (
    r"(?:(?<=[\w.$])\+0x[0-9a-f]{1,8}(?:/0x[0-9a-f]{1,8})?|(?<=\w)at[0-9a-f]{8,16}|workqueue:[\w:.-]{1,128})"
    r"\[(?:km|cgpu_km|cgpu_procfs)(?:[0-9a-f]{16,40})?\]"
)
# In squeezed text.
_PATTERNS: Final = tuple(
    (mark, re.compile(pattern))
    for mark, pattern in (
        (Mark.HANG, r"info:task.{1,64}?:\d+blockedformorethan\d+second"),
        (Mark.HANG, r"bug:softlockup"),
        (Mark.HANG, r"detectedhardlockup"),
        (Mark.HANG, r"(?:info:rcu_[a-z]{1,12}?)?(?:self-)?detected(?:expedited)?stalls?on"),
        (Mark.PANIC, r"kernelpanic-notsyncing"),
        (Mark.OOPS, r"bug:unabletohandle|bug:kernelnullpointer|unabletohandlekernel|generalprotectionfault"),
        (Mark.OOPS, r"oops:[0-9a-f]{1,16}\["),
        (Mark.OOPS, r"kernelbugat"),
        (Mark.OTHER, r"\[cuthere\]|warning:cpu:"),
        (Mark.OTHER, r"bug:(?:schedulingwhile|sleepingfunction|bad(?:page|rss)|kasan|kcsan|kfence|workqueue)"),
        (Mark.END, r"---\[end(?:trace|kernelpanic)"),
        (Mark.BOOT, r"linuxversion\d+\.\d+"),
        (Mark.FRAME, _FRAME),
    )
)


@dataclass(frozen=True, slots=True)
class Event:
    """A line that matters, or a part of one."""

    offset: int
    """Where it begins in its window."""

    end: int
    mark: Mark


@dataclass(frozen=True, slots=True)
class Evidence:
    """A report that names cGPU: its first line, and what it and the frame say."""

    line: int
    text: str


@dataclass(slots=True)
class _Report:
    mark: Mark
    line: int
    text: str
    last: int
    ended: bool = False
    frame: str = ""
    told: bool = False


def events(squeezed: str, first_end: int) -> list[Event]:
    """What begins in the first ``first_end`` characters, in order."""
    found = (
        Event(match.start(), match.end(), mark)
        for mark, pattern in _PATTERNS
        for match in pattern.finditer(squeezed)
        if match.start() < first_end
    )
    return sorted(found, key=lambda event: event.offset)


class KernelReports:
    """Follows the reports of one log."""

    def __init__(self) -> None:
        self._report: _Report | None = None

    def see(self, mark: Mark, line: int, text: str) -> Evidence | None:
        """Take the next event; the evidence when the report has become one that names cGPU."""
        report = self._report
        if report is not None and line - report.last > REACH_LINES:
            report = self._report = None
        if mark is Mark.BOOT:
            self._report = None
        elif mark is Mark.END:
            if report is not None:
                report.ended = True
        elif mark is Mark.FRAME:
            if report is not None and not report.ended:
                report.last = line
                report.frame = report.frame or text
        elif mark is Mark.PANIC and report is not None and self._ends_in_panic(report, line):
            report.mark, report.last, report.ended = Mark.PANIC, line, False
        elif not (mark is Mark.OOPS and report is not None and self._same_oops(report, line)):
            self._report = _Report(mark, line, text, line)
        return self._evidence()

    @staticmethod
    def _ends_in_panic(report: _Report, line: int) -> bool:
        """Whether a panic now is what this report ended in."""
        if report.mark is Mark.OOPS or (report.mark is Mark.HANG and not report.ended):
            return line - report.last <= _PANIC_LINES
        return False

    @staticmethod
    def _same_oops(report: _Report, line: int) -> bool:
        """An oops says so twice: ``BUG: unable to handle page fault``, and lines later ``Oops: 0002``."""
        return report.mark is Mark.OOPS and not report.frame and not report.ended and line - report.last <= _OOPS_LINES

    def _evidence(self) -> Evidence | None:
        report = self._report
        if report is None or report.told or not report.frame or report.mark not in (Mark.HANG, Mark.PANIC):
            return None
        report.told = True
        text = report.text if report.frame == report.text else f"{report.text}\n{report.frame}"
        return Evidence(report.line, text)

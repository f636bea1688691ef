"""Reports that wait on disk until the worst of them is known."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from cgpu.doctor.outcome import Report
from cgpu.errors import StateError

T = TypeVar("T")
Rank = tuple[int, int, str]


def rank_of(report: Report) -> Rank:
    """The worst verdict first; of one verdict, the node with most such checks; then by name."""
    verdict = report.verdict
    return verdict.rank, -sum(check.verdict is verdict for check in report.checks), report.node


class Spool(Generic[T]):
    """Takes values in any order and gives them back by rank, one at a time.

    A value is on disk, in a file that has no name and goes with the process; in memory stay its rank
    and its place, less than 300 bytes of each.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="cgpu-doctor-")  # noqa: SIM115 - closed by __exit__
        self._places: list[tuple[Rank, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, rank: Rank, value: T) -> None:
        """One more. Raises StateError when the disk is full."""
        try:
            self._places.append((rank, self._file.tell()))
            pickle.dump(value, self._file)
        except OSError as error:
            raise StateError(
                f"{tempfile.gettempdir()}: {error.strerror}", "set TMPDIR to a folder with room"
            ) from error

    def __iter__(self) -> Iterator[T]:
        """By rank; those of one rank as they came. Nothing may be added afterwards."""
        for _, place in sorted(self._places):
            self._file.seek(place)
            value: T = pickle.load(self._file)
            yield value

    def __len__(self) -> int:
        return len(self._places)

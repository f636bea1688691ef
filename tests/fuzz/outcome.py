"""What a fuzzer has done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of one target."""

    target: str
    seconds: float
    runs: int
    edges: int
    """Ways through the code that were seen; of C between basic blocks, of Python between lines."""
    inputs: int
    """That went a way which none before them went."""
    crash: Path | None = None
    """The input of the first finding."""
    report: str = ""
    """What the sanitizer or Python said of it."""

    def __str__(self) -> str:
        line = f"{self.target}: {self.runs} runs in {self.seconds:.0f} s, {self.edges} edges, {self.inputs} inputs"
        return line if self.crash is None else f"{line}\n{self.target}: found {self.crash}\n{self.report}"

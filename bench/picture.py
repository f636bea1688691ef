"""Draw docs/demo.svg: the last screen of `cgpu demo`, as a terminal of 140 columns shows it.

    python bench/picture.py [OUTPUT]

Needs the extras `test` (pyte for the terminal) and `docs` (rich for the drawing).
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 140, 34


def last_screen(command: list[str]) -> list[str]:
    """Run the command on a terminal of its own and return the lines that it leaves there."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (ROWS, COLUMNS))
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env) as child:
        os.close(slave)
        stream = pyte.ByteStream(screen := pyte.Screen(COLUMNS, ROWS))
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:  # Linux answers EIO once the child's side is closed
                break
            if not piece:
                break
            stream.feed(piece)
    if child.returncode != 0:
        raise SystemExit(f"picture.py: {' '.join(command)} exited with {child.returncode}")
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "demo.svg"
    lines = last_screen([sys.executable, "-m", "cgpu", "demo"])
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    text = Text("\n".join(lines))
    text.highlight_regex(r"#+", "green")
    text.highlight_regex(r"\b(kept|every quota and every share was kept)\b", "bold green")
    text.highlight_regex(r"CUDA_ERROR_OUT_OF_MEMORY|killed -9", "bold yellow")
    text.highlight_regex(r"simulated", "italic")
    console.print(text, soft_wrap=True)
    svg = console.export_svg(title="cgpu demo")
    output.write_text(re.sub(r"\s*@font-face \{[^}]*\}", "", svg))  # the reader's own monospaced font, none fetched
    print(f"wrote {output}")


if __name__ == "__main__":
    main()

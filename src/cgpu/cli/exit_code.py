"""What went wrong, as a line on stderr and an exit code: the same for every program of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from cgpu.cli.watch import discard_output
from cgpu.errors import CgpuError

_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell has it


def exit_code_of(program: str, work: Callable[[], int]) -> int:
    """Do the work; its exit code, or that of what stopped it."""
    try:
        return work()
    except CgpuError as error:
        print(f"{program}: {error.message} [{error.public_code}]", file=sys.stderr)
        if error.remedy:
            print(f"      {error.remedy}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        discard_output()
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED

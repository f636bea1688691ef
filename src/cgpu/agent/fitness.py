"""Whether the node's driver and kernel are among those that this cgpu knows. Pure.

Too old is refused. What is newer than known, or says nothing that is a version, is named and goes on: nothing is
concluded from a version there, since each function of the driver's is looked for before it is used.
"""

from __future__ import annotations

from cgpu.compat.ours import misfit
from cgpu.compat.verdict import Verdict
from cgpu.errors import DriverError, RefusedError


def check_node(driver: str, kernel: str, pidfd_error: str) -> tuple[str, ...]:
    """What is to be said about the node, a line each.

    Args:
        driver: its version, as the driver says it.
        kernel: its release, as uname(2) says it.
        pidfd_error: why pidfd_open(2) fails, empty where it works. Some distributions have it in older kernels, and
            filters of system calls may take it away from newer ones.

    Raises:
        DriverError: the driver is too old.
        RefusedError: processes cannot be watched on this kernel.
    """
    verdict, words = misfit("driver", driver)
    if verdict is Verdict.UNSUPPORTED:
        raise DriverError(words, "install a newer driver")
    lines = [words] if words else []
    if pidfd_error:
        raise RefusedError(
            f"the agent cannot watch processes on kernel {kernel}: pidfd_open: {pidfd_error}",
            "use Linux 5.3 or later, and allow pidfd_open in the filter of system calls that the agent runs under",
        )
    _, words = misfit("kernel", kernel)
    return (*lines, words) if words else tuple(lines)

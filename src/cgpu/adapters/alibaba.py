"""Whether Alibaba's cGPU is active on this node: its modules and its files in /proc."""

from __future__ import annotations

import os
from pathlib import Path

from cgpu.model.alibaba import CGPU_MODULES


def sign_of_cgpu(root: Path) -> str:
    """What tells that it is active, such as ``/proc/cgpu_km``; empty where nothing does.

    Args:
        root: the node's root folder. Neither file belongs to a namespace: a container sees the node's.
    """
    if os.path.lexists(root / "proc/cgpu_km"):  # also where its files may not be read
        return "/proc/cgpu_km"
    try:
        loaded = {line.split(" ", 1)[0] for line in (root / "proc/modules").read_text("utf-8", "replace").splitlines()}
    except OSError:  # no /proc/modules: a kernel without modules
        return ""
    modules = sorted(loaded.intersection(CGPU_MODULES))
    return f"the kernel module{'s' if len(modules) > 1 else ''} {', '.join(modules)}" if modules else ""

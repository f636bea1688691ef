"""What is on a node where Alibaba's cGPU is active."""

from __future__ import annotations

from typing import Final

CGPU_MODULES: Final = ("km", "cgpu_procfs", "cgpu_km")
"""Its kernel modules: the first two of the cGPU FAQ's modprobe errors, the last one's name before 1.0."""

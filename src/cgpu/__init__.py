"""cgpu: share one NVIDIA GPU among containers, each with a quota of memory and a share of time."""

from typing import Final

__version__: Final = "0.1.0"

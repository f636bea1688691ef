"""cgpu: share one NVIDIA GPU among containers, each with a quota of memory and a share of time."""

"""The agent's documents, as far as the tree reads them."""

from __future__ import annotations

from typing import Any

GPU = "GPU-0"


def gpu(index: int = 0, **values: Any) -> dict[str, Any]:
    return {"index": index, "uuid": f"GPU-{index}", "policy": 1, "max_inst": 20, "prio_ratio": 80, **values}


def process(pid: int, host_pid: int | None, memory_bytes: int) -> dict[str, Any]:
    return {"pid": pid, "host_pid": host_pid, "memory_bytes": memory_bytes}


def tenant(name: str, container: str = "", gpus: tuple[str, ...] = (GPU,), **values: Any) -> dict[str, Any]:
    share = {"memory_bytes": 1 << 30, "used_bytes": 0, "weight": 1, "priority": 0, "processes": [], **values}
    return {"id": name, "container": container, "shares": [{"gpu_uuid": uuid, **share} for uuid in gpus]}

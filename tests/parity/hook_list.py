"""What is known about driver functions besides the hook list: which ones matter, and which are excused."""

from __future__ import annotations

import re
from pathlib import Path

from native import build

UNHOOKED = Path(__file__).with_name("unhooked.tsv")
ALLOCATING = Path(__file__).with_name("allocating.tsv")

# A function whose name has one of these words takes or returns memory, or gives the card work: it is
# either hooked or somebody has written down why not.
TELLING = re.compile(
    "Alloc|Create|Import|Retain|Load|Instantiate|Open|Launch|Memcpy|Memset|MemGetInfo|TotalMem|Upload|Prefetch"
    "|Free|Destroy|Capture|Synchronize|Reset|Release"
)

# Names of hooked categories whose rows of the CUDA reference are known to allocate without being told
# by their name.
ALSO_ALLOCATING = {
    "cuCtxEnablePeerAccess", "cuCtxSetLimit", "cuDeviceSetMemPool", "cuGraphExecUpdate", "cuMemPoolSetAttribute",
    "cuExternalMemoryGetMappedBuffer", "cuFuncSetAttribute", "cuKernelGetFunction", "cuKernelSetAttribute",
    "cuLinkComplete", "cuModuleGetFunction", "cuGraphAddNode", "cuCheckpointProcessRestore", "cuMemMap",
    "cuCtxFromGreenCtx", "cuCtxRecordEvent", "cuDeviceSetGraphMemAttribute", "cuMemHostRegister",
}  # fmt: skip


def declared() -> set[str]:
    """Every driver function that cuda.h declares, in all its versions."""
    text = re.sub(r"/\*.*?\*/", "", (build.nvidia_include() / "cuda.h").read_text(), flags=re.DOTALL)
    return set(re.findall(r"^\s*(?:__CUDA_DEPRECATED\s+)?CUresult\s+(?:CUDAAPI\s+)?(cu\w+)\s*\(", text, re.MULTILINE))


def excused() -> dict[str, str]:
    """Functions that are left alone, with the reason."""
    rows = [
        (line.split("\t")[0], line.split("\t")[1])
        for line in UNHOOKED.read_text().splitlines()
        if not line.startswith("#")
    ]
    assert len({name for name, _ in rows}) == len(rows)
    return dict(rows)


def variantless(name: str) -> str:
    """The name that cuGetProcAddress knows an export by: cuMemcpyHtoD of cuMemcpyHtoD_v2_ptds."""
    return re.sub(r"(_v\d+)?(_ptsz|_ptds)?$", "", name)


def allocating() -> set[str]:
    """Functions that give memory of a device, directly or as a side effect, in all versions."""
    lines = ALLOCATING.read_text().splitlines()
    return {line.split("\t")[0] for line in lines if not line.startswith("#")}

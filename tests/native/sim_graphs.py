"""What the tests of stream capture and of graphs do again and again."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as cu

from tests.native.sim_driver import ok, result_of


def new_stream() -> Any:
    """A stream that does not wait for the default one."""
    return ok(cu.cuStreamCreate(1))


def end(stream: Any) -> str:
    """End a capture, and what it says."""
    return result_of(cu.cuStreamEndCapture(stream))


def run(graph: Any, stream: Any = None) -> Any:
    """Instantiate and launch once, to the end."""
    stream = stream or new_stream()
    executable = ok(cu.cuGraphInstantiate(graph, 0))
    ok(cu.cuGraphLaunch(executable, stream))
    ok(cu.cuStreamSynchronize(stream))
    return executable


def memset_params(address: Any, value: int, count: int = 1) -> Any:
    """Fill ``count`` words of 4 bytes."""
    params = cu.CUDA_MEMSET_NODE_PARAMS()
    params.dst, params.value, params.elementSize, params.width, params.height = address, value, 4, count, 1
    return params


def add_memset(graph: Any, after: list[Any], address: Any, value: int, count: int = 1) -> Any:
    """A node that fills, after those nodes."""
    params = memset_params(address, value, count)
    return ok(cu.cuGraphAddMemsetNode(graph, after, len(after), params, ok(cu.cuCtxGetCurrent())))


def edges(graph: Any) -> set[tuple[int, int]]:
    """Pairs of nodes, by their handles: before, after."""
    count = ok(cu.cuGraphGetEdges(graph, 0))[-1]
    sources, targets, *_ = ok(cu.cuGraphGetEdges(graph, count))
    return {(int(source), int(target)) for source, target in zip(sources, targets, strict=True)}

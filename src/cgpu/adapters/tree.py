"""The tree that scripts for ``/proc/cgpu_km`` know, as text made of the agent's documents. Pure.

``docs/tree.md`` is what users are told. ``cgpu.adapters.fuse_mount`` makes a file system of it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cgpu import __version__
from cgpu.errors import (
    AgentError,
    CgpuError,
    ForbiddenError,
    NoSuchGpuError,
    NoSuchTenantError,
    RefusedError,
    UsageError,
)
from cgpu.model.container import CDI_CONTAINER

TEXT_BYTES_MAX: Final = 64  # of one write; no value has so many
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_NAME_MAX: Final = 255  # Linux's NAME_MAX
_TAKEN: Final = "~"  # neither a tenant's nor a container's id has one

Document = Mapping[str, Any]
Numbers = Mapping[tuple[str, str], int]
"""The instance number of a tenant on a GPU, by the GPU's UUID and the tenant's id."""


@dataclass(frozen=True, slots=True)
class Node:
    """What the agent has said, and the instance numbers given so far."""

    gpus: Sequence[Document]
    tenants: Sequence[Document] = ()
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A write: what to PATCH."""

    tenant: str  # its id; empty: the GPU itself
    gpu: str  # the GPU's UUID
    field: str  # the API's name of the value

    def body(self, text: str) -> dict[str, Any]:
        """The request's body. Text that is no number is sent as it is: the agent refuses it, and its log says so."""
        value = text.strip()
        number: int | str = int(value) if _NUMBER.fullmatch(value) else value
        return {"gpu": self.gpu, self.field: number} if self.tenant else {self.field: number}


@dataclass(frozen=True, slots=True)
class File:
    """One file. ``change`` None: it is only read."""

    text: str
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder, and the names in it."""

    names: tuple[str, ...]


def numbered(known: Numbers, tenants: Sequence[Document]) -> dict[tuple[str, str], int]:
    """Instance numbers: whoever has one keeps it, a newcomer gets the smallest that is free on its GPU, from 0."""
    here = [(share["gpu_uuid"], tenant["id"]) for tenant in tenants for share in tenant["shares"]]
    numbers = {key: known[key] for key in here if key in known}
    for gpu, tenant in here:
        if (gpu, tenant) not in numbers:
            taken = {number for (other, _), number in numbers.items() if other == gpu}
            numbers[gpu, tenant] = next(number for number in range(len(taken) + 1) if number not in taken)
    return numbers


def entry(path: str, node: Node) -> Folder | File | None:
    """What is at a path such as ``/0/policy``; None where nothing is."""
    match [part for part in path.split("/") if part]:
        case []:
            return Folder((*_ROOT_FILES, *(str(gpu["index"]) for gpu in node.gpus)))
        case [name] if name in _ROOT_FILES:
            return File(_ROOT_FILES[name])
        case [index, *rest]:
            gpu = next((gpu for gpu in node.gpus if str(gpu["index"]) == index), None)
            return None if gpu is None else _in_gpu(rest, gpu, node)
    return None


def needs_gpus(path: str) -> bool:
    """Whether the agent has to be asked at all: the files in the root are there without it."""
    return path[1:] not in _ROOT_FILES


def needs_tenants(path: str) -> bool:
    """Whether what is at the path depends on the tenants."""
    parts = [part for part in path.split("/") if part]
    if len(parts) == 2 and parts[1] in _GPU_FILES:
        return parts[1] == _FREE_WEIGHT
    return len(parts) > 0


def errno_of(error: CgpuError) -> int:
    """What a system call answers for an error of the agent or of its client."""
    return next((number for kind, number in _ERRNOS if isinstance(error, kind)), errno.EIO)


def _in_gpu(rest: list[str], gpu: Document, node: Node) -> Folder | File | None:
    rows = list(_rows(gpu, node))
    if not rest:
        return Folder((*_GPU_FILES, *(name for name, _, _ in rows)))
    if rest[0] in _GPU_FILES:
        if len(rest) > 1:
            return None
        text, field = _GPU_FILES[rest[0]]
        change = Change("", gpu["uuid"], field) if field else None
        return File(text(gpu, [share for _, _, share in rows]) + "\n", change)
    for name, tenant, share in rows:
        if name == rest[0]:
            return _in_container(rest[1:], tenant, share, node)
    return None


def _in_container(rest: list[str], tenant: Document, share: Document, node: Node) -> Folder | File | None:
    if not rest:
        return Folder((_ID, *_CONTAINER_FILES))
    if len(rest) > 1:
        return None
    if rest[0] == _ID:
        number = node.numbers.get((share["gpu_uuid"], tenant["id"]))
        return None if number is None else File(f"{number}\n")
    if rest[0] not in _CONTAINER_FILES:
        return None
    text, field = _CONTAINER_FILES[rest[0]]
    return File(text(share) + "\n", Change(tenant["id"], share["gpu_uuid"], field) if field else None)


def _rows(gpu: Document, node: Node) -> Iterator[tuple[str, Document, Document]]:
    """The folders of a GPU: name, tenant, share."""
    taken = set(_GPU_FILES)
    for tenant in node.tenants:
        for share in tenant["shares"]:
            if share["gpu_uuid"] != gpu["uuid"]:
                continue
            container = tenant.get("container") or ""
            wanted = container if container != CDI_CONTAINER and 0 < len(container) <= _NAME_MAX else tenant["id"]
            name = wanted if wanted not in taken else tenant["id"]
            while name in taken:
                name += _TAKEN
            taken.add(name)
            yield name, tenant, share


def _free_weight(gpu: Document, shares: Sequence[Document]) -> str:
    return str(max(0, gpu["max_inst"] - sum(share["weight"] for share in shares)))


def _meminfo(share: Document) -> str:
    free = max(0, share["memory_bytes"] - share["used_bytes"])
    lines = [f"Free: {free}"]
    for process in share["processes"]:
        pid = process["pid"] if process["host_pid"] is None else process["host_pid"]
        lines.append(f"PID: {pid} Mem: {process['memory_bytes']}")
    return "\n".join(lines)


_ROOT_FILES: Final[Mapping[str, str]] = {"version": f"{__version__}\n", "default_memsize": "0\n"}
_FREE_WEIGHT: Final = "free_weight"
_ID: Final = "id"
# Name: what it says, and the API's name of what a write changes.
_GPU_FILES: Final[Mapping[str, tuple[Callable[[Document, Sequence[Document]], str], str]]] = {
    "max_inst": (lambda gpu, _: str(gpu["max_inst"]), "max_inst"),
    "policy": (lambda gpu, _: str(gpu["policy"]), "policy"),
    "prio_ratio": (lambda gpu, _: str(gpu["prio_ratio"]), "prio_ratio"),
    _FREE_WEIGHT: (_free_weight, ""),
}
_CONTAINER_FILES: Final[Mapping[str, tuple[Callable[[Document], str], str]]] = {
    "memsize": (lambda share: str(share["memory_bytes"]), "memory_bytes"),
    "meminfo": (_meminfo, ""),
    "weight": (lambda share: str(share["weight"]), "weight"),
    "highprio": (lambda share: str(share["priority"]), "priority"),
}
_ERRNOS: Final[tuple[tuple[type[CgpuError], int], ...]] = (
    (UsageError, errno.EINVAL),
    (ForbiddenError, errno.EACCES),
    (NoSuchGpuError, errno.ENOENT),
    (NoSuchTenantError, errno.ENOENT),
    (RefusedError, errno.EINVAL),
    (AgentError, errno.EIO),
)


class Line:
    """What a process writes through one descriptor: each write is a value, as for the files of ``/proc``.

    A write that follows one without a newline goes on with its line. Nothing waits for the file to
    be closed: shells do not look at what ``close`` answers, so a refusal would not be seen.
    """

    def __init__(self) -> None:
        self._open = ""
        self._end = 0

    def written(self, data: bytes, offset: int) -> str | None:
        """The value to set now; None where there is none yet, or nothing new. Raises OSError (EINVAL)."""
        before = self._open if offset == self._end else ""
        text = before + data.decode("ascii", "replace")
        self._open, self._end = "", offset + len(data)
        if len(text) > TEXT_BYTES_MAX:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not text.endswith("\n"):
            self._open = text
        if text.strip() == before.strip() and (before.strip() or not text.endswith("\n")):
            return None
        return text.strip()

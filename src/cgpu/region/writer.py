"""Creating a tenant's region, and changing what the agent may change while the tenant runs.

Only the grants file is ever written after creation. It is mapped, because each field must reach
the tenant in one store: ctypes stores an aligned integer of 4 or 8 bytes with one move. Fields
come first, ``generation`` after them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.errors import RegionError
from cgpu.model.region_files import GRANTS, LOCKS, USAGE
from cgpu.model.tenant import Gpu, MemoryLayer, Policy, Share, Tenant
from cgpu.region import layout
from cgpu.region.reader import RegionReader

CONTAINER_FOLDER_MODE: Final = 0o700  # nobody but root passes; no other region's folder has it
_MEMORY_LAYER: Final = {MemoryLayer.SHIM: 0, MemoryLayer.DRIVER: 1, MemoryLayer.BROKER: 2}


@dataclass(frozen=True, slots=True)
class Owner:
    """The user whose processes are the tenant's. None keeps the agent's own."""

    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """All that the agent decides about one GPU of a tenant."""

    gpu: Gpu
    share: Share
    policy: Policy
    context_bytes: int


def create_region(
    folder: Path, tenant: Tenant, rows: tuple[Row, ...], owner: Owner, step: Callable[[str], None] = lambda _: None
) -> None:
    """Make the folder with its three files. A folder left half made by a killed agent is completed.

    The grants file comes last and under its final name only when whole, so a folder with a grants
    file is a whole region. ``step`` is called between the steps, for tests of a killed agent.
    A container's processes may have any user, and reach the files through mounts of their own: there
    the folder is closed and its files are open. Raises RegionError when the folder cannot be written.
    """
    folder_mode, file_mode = (CONTAINER_FOLDER_MODE, 0o666) if tenant.container else (0o755, 0o600)
    owner = Owner() if tenant.container else owner
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(folder_mode)
        step("region:folder")
        _place(folder / LOCKS, b"", file_mode, owner)
        step("region:locks")
        _place(folder / USAGE, _usage_head(), file_mode, owner, ctypes.sizeof(layout.Usage))
        step("region:usage")
        _place(folder / GRANTS, _grants_bytes(tenant, rows), 0o644, Owner())
        step("region:grants")
    except OSError as error:
        raise RegionError(f"region {folder}: {error.strerror}") from error


def remove_region(folder: Path, step: Callable[[str], None] = lambda _: None) -> None:
    """Remove the folder and what it holds; one that is gone is no error. Raises RegionError otherwise.

    Processes that have the files mapped keep them until they end.
    """
    try:
        for name in (GRANTS, USAGE, LOCKS):
            (folder / name).unlink(missing_ok=True)
            (folder / f".{name}.new").unlink(missing_ok=True)
            step(f"region:unlinked {name}")
        if folder.exists():
            folder.rmdir()
    except OSError as error:
        raise RegionError(f"region {folder}: {error.strerror}") from error


class GrantsWriter:
    """The agent's hand on the grants file of one tenant. One writer per tenant at a time.

    Every method but ``close`` raises RegionError where the file has been cut short: touching what is mapped of it would
    end this process.
    """

    def __init__(self, folder: Path) -> None:
        """Map the grants file. Raises RegionError when the region is not usable."""
        self._folder = folder
        RegionReader(folder).close()  # refuses what is foreign, truncated or of another version
        try:
            descriptor = os.open(folder / GRANTS, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                self._map = mmap.mmap(descriptor, ctypes.sizeof(layout.Grants))
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise RegionError(f"region {folder}: {error}") from error
        self._grants: layout.Grants | None = layout.Grants.from_buffer(self._map)

    def close(self) -> None:
        """Unmap; idempotent."""
        self._grants = None
        self._map.close()

    def set_intent(self, tenant: Tenant, rows: tuple[Row, ...]) -> None:
        """Bring quota, share and policy of every row to these values; no store where nothing changes."""
        grants = self._open()
        changed = False
        for index, row in enumerate(rows):
            for name, value in _intent(row, tenant.memory_layer).items():
                changed |= _store(grants.gpu[index], name, value)
        flags = layout.CGPU_TENANT_REFUSE_MANAGED if tenant.refuse_managed else 0
        changed |= _store(grants.header, "flags", flags)
        if changed:
            grants.header.generation += 1

    def set_measured(self, row: int, overhead_bytes: int, context_bytes: int) -> None:
        """What NVML says of the tenant's memory on one GPU row."""
        gpu = self._open().gpu[row]
        _store(gpu, "overhead_bytes", overhead_bytes)
        _store(gpu, "context_bytes", context_bytes)

    def busy_ns(self, row: int) -> int:
        """The time that the arbiter has charged to the tenant so far on one GPU row."""
        return int(self._open().gpu[row].busy_ns)

    def set_utilisation(self, row: int, percent: int) -> None:
        """The tenant's share of the time of one GPU row, for its view of NVML."""
        _store(self._open().gpu[row], "utilisation_percent", percent)

    def set_surplus(self, slot: int, row: int, surplus_bytes: int, charge_seq: int) -> None:
        """What the process of a slot may return itself while its charge has this sequence number."""
        surplus = self._open().surplus[slot][row]
        if surplus.surplus_bytes == surplus_bytes and surplus.charge_seq == charge_seq:
            return
        # Nothing is on offer while the two words do not belong together.
        surplus.surplus_bytes = 0
        surplus.charge_seq = charge_seq
        surplus.surplus_bytes = surplus_bytes

    def _open(self) -> layout.Grants:
        if self._grants is None:
            raise RegionError("the region's writer is closed")
        actual, whole = self._map.size(), ctypes.sizeof(layout.Grants)
        if actual < whole:
            raise RegionError(f"region {self._folder}/{GRANTS}: truncated ({actual} of {whole} bytes)")
        return self._grants


def _store(structure: ctypes.Structure, name: str, value: int) -> bool:
    if getattr(structure, name) == value:
        return False
    setattr(structure, name, value)
    return True


def _intent(row: Row, memory_layer: MemoryLayer) -> dict[str, int]:
    return {
        "quota_bytes": row.share.memory_bytes,
        "policy": int(row.policy),
        "compute_percent": row.share.compute_percent or 0,
        "compute_limit_percent": row.share.compute_limit_percent or 0,
        "weight": row.share.weight,
        "priority": row.share.priority,
        "memory_layer": _MEMORY_LAYER[memory_layer],
        "nvml_index": row.gpu.index,
    }


def _grants_bytes(tenant: Tenant, rows: tuple[Row, ...]) -> bytes:
    if len(rows) > layout.CGPU_MAX_GPUS:
        raise RegionError(f"a tenant has at most {layout.CGPU_MAX_GPUS} GPUs, asked for {len(rows)}")
    grants = layout.Grants()
    header = grants.header
    header.magic = layout.CGPU_GRANTS_MAGIC
    header.major, header.minor = layout.CGPU_REGION_MAJOR, layout.CGPU_REGION_MINOR
    header.size_bytes = ctypes.sizeof(layout.Grants)
    header.generation = 1
    header.flags = layout.CGPU_TENANT_REFUSE_MANAGED if tenant.refuse_managed else 0
    header.gpu_count = len(rows)
    header.tenant_id = tenant.id.encode()
    header.tenant_name = tenant.name.encode()
    for index, row in enumerate(rows):
        gpu = grants.gpu[index]
        gpu.uuid[:] = uuid_bytes(row.gpu.uuid)
        gpu.flags = layout.CGPU_GPU_PRESENT
        gpu.total_bytes = row.gpu.total_bytes
        gpu.context_bytes = row.context_bytes
        for name, value in _intent(row, tenant.memory_layer).items():
            setattr(gpu, name, value)
        # Closed until the arbiter has seen the tenant: a launch waits rather than runs unaccounted.
        gpu.grant = layout.CGPU_GRANT_CLOSED
    return bytes(grants)


def _usage_head() -> bytes:
    """What of a new usage file is not zero: all that comes before its slots."""
    header = layout.UsageHeader()
    header.magic = layout.CGPU_USAGE_MAGIC
    header.major, header.minor = layout.CGPU_REGION_MAJOR, layout.CGPU_REGION_MINOR
    header.size_bytes = ctypes.sizeof(layout.Usage)
    rows = (layout.UsageGpu * layout.CGPU_MAX_GPUS)()
    for row in rows:
        row.account = layout.CGPU_NO_SLOT << layout.CGPU_ACCOUNT_SEQ_BITS
    return bytes(header) + bytes(rows)


def _place(path: Path, content: bytes, mode: int, owner: Owner, size: int = 0) -> None:
    """Write under a temporary name, then rename: no reader ever sees a part of the file.

    A larger ``size`` is filled with zeros, of which every one has its place on the disk: a mapping of a file
    that has holes would kill the tenant that writes to it when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        if owner.uid is not None and owner.uid != os.geteuid():
            os.fchown(descriptor, owner.uid, -1 if owner.gid is None else owner.gid)
    finally:
        os.close(descriptor)
    temporary.replace(path)


def uuid_bytes(gpu_uuid: str) -> bytes:
    """The 16 bytes of ``GPU-xxxxxxxx-...``. Raises RegionError for another form."""
    try:
        return uuid.UUID(gpu_uuid.removeprefix("GPU-")).bytes
    except ValueError:
        raise RegionError(f"not a GPU's UUID: {gpu_uuid!r}") from None

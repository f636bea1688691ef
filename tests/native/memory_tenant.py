"""Tenants on a simulated machine, for the tests of memory: regions made by the test, no agent.

The truth about the card is the simulated machine's own status, never what the shim says.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cgpu.region import layout
from cgpu.region.reader import RegionReader, Slot
from tests.native.sim_machine import CONTEXT_BYTES, PROFILE

MIB: Final = 1 << 20
GRANULE: Final = 2 * MIB
OUT_OF_MEMORY: Final = 2
INVALID_VALUE: Final = 1
NOT_SUPPORTED: Final = 801
INVALID_HANDLE: Final = 400
OFFERS: Final = {
    "cuIpcOpenMemHandle": "ipc",
    "cuIpcOpenMemHandle_v2": "ipc",
    "cuMemImportFromShareableHandle": "handle",
    "cuMemPoolImportFromShareableHandle": "pool",
    "cuMemPoolImportPointer": "pool",
}
"""What another process offers to each function that imports; the words of the client rows.c."""

CLIENT: Final = Path(__file__).with_name("memory_client.py")
_STATUS_BYTES: Final = 1 << 20
_F_OFD_SETLK: Final = 37


# Structures of cuda.h as bytes, and what several rows need.
PRELUDE = """
import struct
def text(layout, *fields):
    return ctypes.create_string_buffer(struct.pack(layout, *fields))
def array2d(bytes_):
    return text("QQiI", 1024, bytes_ // 4096, 0x20, 1)
def array3d(bytes_, flags=0):
    return text("QQQiIII", 1024, bytes_ // 4096 // 4, 4, 0x20, 1, flags, 0)
def pinned(handles=0):
    return text("iiiiQQ", 1, handles, 1, 0, 0, 0)
def pool_properties():
    return text("iiiiQQ56x", 1, 0, 1, 0, 0, 0)
def alloc_node(bytes_):
    return text("iiiiQQ56xQQQQ", 1, 0, 1, 0, 0, 0, 0, 0, bytes_, 0)
def node_parameters(bytes_):
    # CUgraphNodeParams: type and padding, then the node's own, 232 bytes for all kinds, then reserved
    return text("iiii" + "iiiiQQ56xQQQQ" + "112x" + "q", 10, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, bytes_, 0, 0)
p, q, stream, graph, node, pool = out(), out(), out(), out(), out(), out()
"""


@dataclass
class Client:
    """A running memory_client.py."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def do(self, order: str) -> Any:
        """Have one order done, and its answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the client ended at: {order}\n{self.end()}"
        return json.loads(line)

    def start_context(self) -> None:
        """Initialise, and make the primary context of device 0 current."""
        self.do("context = out()")
        assert self.do("[cu.cuInit(0), cu.cuDevicePrimaryCtxRetain(R(context), 0), cu.cuCtxSetCurrent(context)]") == [
            0,
            0,
            0,
        ]

    def alloc(self, size_bytes: int, name: str = "p") -> int:
        """cuMemAlloc into a variable of the client; the driver's code."""
        self.do(f"{name} = out()")
        return int(self.do(f"cu.cuMemAlloc_v2(R({name}), Q({size_bytes}))"))

    def free(self, name: str = "p") -> int:
        return int(self.do(f"cu.cuMemFree_v2({name})"))

    def kill(self) -> None:
        """As the kernel's OOM killer does, and wait for the end."""
        self.process.kill()
        self.process.wait()

    def end(self) -> str:
        """Let the client end by itself; what it wrote to stderr."""
        assert self.process.stdin
        assert self.process.stderr
        self.process.stdin.close()
        self.process.wait(timeout=60)
        return self.process.stderr.read()


@dataclass
class TenantRegion:
    """A tenant's folder, with one row: card 0."""

    folder: Path
    grants: layout.Grants

    @classmethod
    def create(
        cls, folder: Path, card_uuid: str, quota_bytes: int, *, context_bytes: int = CONTEXT_BYTES, flags: int = 0
    ) -> TenantRegion:
        folder.mkdir(parents=True)
        (folder / "locks").touch()
        usage = layout.Usage()
        usage.header.major, usage.header.size_bytes = layout.CGPU_REGION_MAJOR, ctypes.sizeof(usage)
        usage.header.magic = layout.CGPU_USAGE_MAGIC
        (folder / "usage").write_bytes(bytes(usage))
        (folder / "grants").write_bytes(bytes(ctypes.sizeof(layout.Grants)))
        with (folder / "grants").open("r+b") as file:
            grants = layout.Grants.from_buffer(mmap.mmap(file.fileno(), 0))
        row = grants.gpu[0]
        row.uuid[:] = uuid.UUID(card_uuid.removeprefix("GPU-")).bytes
        row.quota_bytes, row.context_bytes, row.flags = quota_bytes, context_bytes, layout.CGPU_GPU_PRESENT
        row.grant, row.policy = layout.CGPU_GRANT_FREE, 5
        header = grants.header
        header.major, header.size_bytes, header.gpu_count, header.flags = 1, ctypes.sizeof(layout.Grants), 1, flags
        header.magic = layout.CGPU_GRANTS_MAGIC
        return cls(folder, grants)

    @property
    def used_bytes(self) -> int:
        reader = RegionReader(self.folder)
        try:
            return reader.usage(1).gpus[0].used_bytes
        finally:
            reader.close()

    def usage(self) -> tuple[Any, tuple[Slot, ...]]:
        """The row of card 0, and the slots."""
        reader = RegionReader(self.folder)
        try:
            snapshot = reader.usage(1)
        finally:
            reader.close()
        return snapshot.gpus[0], snapshot.slots

    def slots(self) -> list[tuple[int, int]]:
        """Of each process with a slot: its pid and its charge."""
        return [(slot.pid, slot.gpus[0].charge_bytes) for slot in self.usage()[1]]


@dataclass
class SimulatedHost:
    """A simulated machine, and the processes that run on it."""

    folder: Path
    native: Path
    clients: list[Client] = field(default_factory=list)
    card_uuid: str = ""

    @classmethod
    def create(cls, folder: Path, native: Path, driver: str = "") -> SimulatedHost:
        (folder / "state").mkdir(parents=True)
        (folder / "profile.toml").write_text(PROFILE)
        host = cls(folder, native)
        library = host._control()
        cause = ctypes.create_string_buffer(1024)
        state, profile = bytes(folder / "state"), bytes(folder / "profile.toml")
        assert library.simctl_create(state, profile, driver.encode(), 1, cause, len(cause)) >= 0, cause.value
        host.card_uuid = host.card()["uuid"]
        return host

    def _control(self) -> ctypes.CDLL:
        library = ctypes.CDLL(str(self.native / "sim" / "libcgpu_simctl.so"))
        size = ctypes.c_size_t
        library.simctl_create.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_int, ctypes.c_char_p, size)
        library.simctl_status_json.argtypes = (ctypes.c_char_p, ctypes.c_char_p, size, ctypes.c_char_p, size)
        library.simctl_fault.argtypes = (
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_char_p,
            size,
        )
        return library

    def card(self) -> dict[str, Any]:
        """The truth about card 0."""
        text, cause = ctypes.create_string_buffer(_STATUS_BYTES), ctypes.create_string_buffer(1024)
        result = self._control().simctl_status_json(bytes(self.folder / "state"), text, len(text), cause, len(cause))
        assert 0 <= result <= len(text), cause.value
        card: dict[str, Any] = json.loads(text.value)["cards"][0]
        return card

    def fault(self, kind: int, value: int) -> None:
        """An enum sg_fault on card 0."""
        cause = ctypes.create_string_buffer(1024)
        assert self._control().simctl_fault(bytes(self.folder / "state"), 0, kind, value, cause, len(cause)) >= 0, (
            cause.value
        )

    def held_bytes(self, *clients: Client) -> int:
        """What the card really holds for these processes."""
        pids = {client.pid for client in clients}
        return sum(int(row["memory_bytes"]) for row in self.card()["processes"] if row["pid"] in pids)

    def tenant(self, name: str, quota_bytes: int, **options: int) -> TenantRegion:
        return TenantRegion.create(self.folder / "tenants" / name, self.card_uuid, quota_bytes, **options)

    def environment(self, region: Path | None, **more: str) -> dict[str, str]:
        own = {
            "LD_LIBRARY_PATH": str(self.native / "sim"),
            "LD_PRELOAD": str(self.native / "libcgpu.so"),
            "CGPU_SIM_STATE": str(self.folder / "state"),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
        return inherited | own | ({"CGPU_REGION": str(region)} if region else {}) | more

    def start(self, region: Path | TenantRegion | None, route: str = "dlsym") -> Client:
        """A client in the tenant of that region; None: of no tenant."""
        return self.spawn(region, sys.executable, CLIENT, route)

    def spawn(self, region: Path | TenantRegion | None, *command: str | Path) -> Client:
        """Any program in the tenant of that region."""
        folder = region.folder if isinstance(region, TenantRegion) else region
        process = subprocess.Popen(
            [str(word) for word in command], env=self.environment(folder),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.clients.append(Client(process))
        return self.clients[-1]

    def client(self, region: Path | TenantRegion | None, route: str = "dlsym") -> Client:
        """One that has the primary context current and knows PRELUDE."""
        client = self.start(region, route)
        client.start_context()
        client.do(PRELUDE)
        return client

    def close(self) -> None:
        """End what still runs."""
        for client in self.clients:
            client.process.kill()
            for stream in (client.process.stdin, client.process.stdout, client.process.stderr):
                if stream:
                    stream.close()
            client.process.wait()


def reclaim(native: Path, region: TenantRegion, slot: int) -> int:
    """As the agent does for a dead process."""
    library = ctypes.CDLL(str(native / "libcgpu_arbiter.so"))
    slots = ctypes.POINTER(ctypes.c_uint)
    library.cgpu_arbiter_reclaim.argtypes = (ctypes.c_char_p, ctypes.c_char_p, slots, ctypes.c_uint)
    usage, locks = (bytes(region.folder / name) for name in ("usage", "locks"))
    return int(library.cgpu_arbiter_reclaim(usage, locks, ctypes.c_uint(slot), 1))

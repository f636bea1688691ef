"""The shim and a region that cannot be used, one that is not used yet, and one that a forked child inherits."""

from __future__ import annotations

import subprocess

import pytest

from tests.native.memory_tenant import MIB, OUT_OF_MEMORY, PRELUDE, SimulatedHost
from tests.native.sim_machine import CONTEXT_BYTES

CONTEXT = CONTEXT_BYTES
QUOTA = CONTEXT + 400 * MIB

BREAKS = {
    "missing folder": ("rm -r {folder}", "cannot open"),
    "missing usage": ("rm {folder}/usage", "cannot open"),
    "missing locks": ("rm {folder}/locks", "cannot write"),
    "truncated grants": ("truncate -s -1 {folder}/grants", "truncated"),
    "truncated usage": ("truncate -s 100 {folder}/usage", "truncated"),
    "foreign file": ("printf NOTCUGRA | dd of={folder}/grants conv=notrunc status=none", "is not a file of cgpu"),
    "newer version": (r"printf '\002' | dd of={folder}/usage bs=1 seek=8 conv=notrunc status=none", "version 2"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_unusable_region_refuses_memory_and_names_the_cause_once(host: SimulatedHost, name: str) -> None:
    tenant = host.tenant("a", QUOTA)
    command, cause = BREAKS[name]
    subprocess.run(command.format(folder=tenant.folder), shell=True, check=True)
    client = host.start(tenant)
    client.do(PRELUDE)
    assert client.do("cu.cuInit(0)") == 0
    assert client.do("cu.cuDevicePrimaryCtxRetain(R(p), 0)") == OUT_OF_MEMORY
    assert client.do("cu.cuCtxCreate_v2(R(p), 0, 0)") == OUT_OF_MEMORY
    assert client.do("cu.cuMemAlloc_v2(R(p), Q(1))") == OUT_OF_MEMORY
    assert client.do("cu.cuMemCreate(R(p), Q(2097152), pinned(), Q(0))") == OUT_OF_MEMORY
    assert client.do("cu.cuMemAllocAsync(R(p), Q(1), None)") == OUT_OF_MEMORY
    assert host.held_bytes(client) == 0
    lines = client.end().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cgpu: ")
    assert cause in lines[0]


def test_nothing_is_opened_before_the_first_call(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.start(tenant)
    client.do(
        "import os\n"
        "def files():\n"
        "    folder = '/proc/self/fd'\n"
        "    return [os.readlink(f'{folder}/{n}') for n in os.listdir(folder) if os.path.exists(f'{folder}/{n}')]"
    )
    client.do("maps = lambda: open('/proc/self/maps').read()")
    assert not client.do(
        f"[name for name in files() if {str(tenant.folder)!r} in name] or {str(tenant.folder)!r} in maps()"
    )
    assert client.do("cu.cuInit(0)") == 0
    assert tenant.slots() == []
    client.start_context()
    assert tenant.slots() == [(client.pid, CONTEXT)]
    assert client.do(f"[name for name in files() if {str(tenant.folder)!r} in name]") == [str(tenant.folder / "locks")]


def test_forked_child_of_a_server_registers_itself(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    server = host.start(tenant)
    server.do("import os; p = out()")
    child = (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    result = cu.cuInit(0) or cu.cuDevicePrimaryCtxRetain(R(p), 0) or cu.cuCtxSetCurrent(p)\n"
        "    result = result or cu.cuMemAlloc_v2(R(p), Q(67108864))\n"
        "    os._exit(result)\n"
        "status = os.waitpid(pid, 0)[1]"
    )
    server.do(child)
    assert server.do("status") == 0
    assert [charge for _, charge in tenant.slots()] == [CONTEXT + 64 * MIB]

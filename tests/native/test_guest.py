"""In a tenant's process nothing is the shim's but what it needs: one descriptor, and nothing that outlives it.

Real C clients on a simulated card, as tenants and without the shim, side by side.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.native.c_compiler import compile_c
from tests.native.memory_tenant import MIB, SimulatedHost, TenantRegion
from tests.native.sim_machine import CONTEXT_BYTES

CLIENT = Path(__file__).with_name("clients") / "guest.c"
QUOTA = 1024 * MIB
SECONDS = 60
BLOCK = 4 * MIB


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(tmp_path_factory.mktemp("guest") / "guest", [CLIENT], libraries=["-pthread"])


@pytest.fixture
def tenant(host: SimulatedHost) -> TenantRegion:
    return host.tenant("a", QUOTA)


def run(host: SimulatedHost, tenant: TenantRegion, guest: Path, what: str, *, shimmed: bool = True) -> list[str]:
    """What it prints; it must succeed and say nothing on stderr."""
    environment = host.environment(tenant.folder)
    if not shimmed:
        del environment["LD_PRELOAD"]
    result = subprocess.run([guest, what], env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert (result.returncode, result.stderr) == (0, ""), f"{result.returncode} {result.stderr}"
    return result.stdout.splitlines()


def words_of(line: str) -> list[str]:
    """Without what differs from process to process."""
    return [re.sub(r":\[\d+\]|/proc/\d+", "", word) for word in line.split()]


def test_signals_umask_variables_threads_and_stdout_are_the_programs(
    host: SimulatedHost, tenant: TenantRegion, guest: Path
) -> None:
    ours, plain = (run(host, tenant, guest, "state", shimmed=shimmed) for shimmed in (True, False))
    before, *later = map(words_of, ours)
    assert before == words_of(plain[0])
    assert len(later) == len(plain) - 1 == 2
    lock = str(tenant.folder / "locks")
    for words, theirs in zip(later, map(words_of, plain[1:]), strict=True):
        assert sorted(words) == sorted([*theirs, lock])


def test_a_program_that_never_uses_the_card_has_nothing_but_the_mapped_library(
    host: SimulatedHost, tenant: TenantRegion, guest: Path
) -> None:
    def seen(shimmed: bool) -> tuple[list[str], set[str]]:
        look, *maps = run(host, tenant, guest, "idle", shimmed=shimmed)
        return words_of(look), {line.split()[-1] for line in maps if "/" in line}

    (ours, mapped), (plain, usual) = seen(True), seen(False)
    assert ours == plain
    libc = {"libdl.so.2", "librt.so.1", "libpthread.so.0"}
    assert {Path(path).name for path in mapped - usual} - libc == {"libcgpu.so"}
    assert tenant.usage()[1] == ()


@pytest.mark.parametrize("how", ["vfork", "spawn"])
def test_a_program_that_it_starts_inherits_nothing(
    host: SimulatedHost, tenant: TenantRegion, guest: Path, how: str
) -> None:
    ours, plain = (run(host, tenant, guest, how, shimmed=shimmed) for shimmed in (True, False))
    assert len(ours) == len(plain)
    assert not any("locks" in line or "tenants" in line for line in ours)
    assert tenant.used_bytes == 0 or tenant.slots()  # nobody else was charged meanwhile


def test_children_that_end_by_exit_leave_the_parents_memory_alone(
    host: SimulatedHost, tenant: TenantRegion, guest: Path
) -> None:
    client = host.spawn(tenant, guest, "fork")
    assert client.process.stdout
    assert client.process.stdout.readline() == "held\n"
    assert tenant.used_bytes == host.held_bytes(client) == CONTEXT_BYTES + BLOCK
    assert tenant.slots() == [(client.pid, CONTEXT_BYTES + BLOCK)]
    assert client.end() == ""
    assert client.process.returncode == 0


def test_threads_may_use_the_card_before_main_and_at_exit(host: SimulatedHost, guest: Path) -> None:
    for number in range(15):  # each on its own, as what they leave is returned a second later
        assert run(host, host.tenant(f"tenant-{number}", QUOTA), guest, "threads") == []


def test_the_driver_may_be_closed_and_opened_again(host: SimulatedHost, tenant: TenantRegion, guest: Path) -> None:
    first, last = run(host, tenant, guest, "close")
    assert first == last

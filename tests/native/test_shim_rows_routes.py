"""Every function that allocates, and that maps what was allocated, by every route: charged while held.

clients/rows.c is linked to libcuda as a program is, and finds each function by direct linking, by dlsym
and by cuGetProcAddress in several versions and both stream modes. There is no route by dlvsym: NVIDIA's
libcuda has no symbol versions, so that dlvsym finds nothing in it, and neither does the simulated one
(test_entry.py has a driver that does have versions).
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from native import build
from tests.native.c_compiler import compile_c
from tests.native.memory_tenant import MIB, NOT_SUPPORTED, OFFERS, OUT_OF_MEMORY, Client, SimulatedHost, TenantRegion
from tests.native.sim_machine import CONTEXT_BYTES
from tests.parity.hook_list import allocating, excused

CLIENTS: Final = Path(__file__).with_name("clients")
QUOTA: Final = 1024 * MIB
SIZE: Final = 64 * MIB
SETTLE_S: Final = 10

# Exported by the simulated driver, but younger than the driver that it says it is (CUDA 12.4).
UNKNOWN_TO_GET_PROC_ADDRESS: Final = {
    "cuCheckpointProcessRestore",
    "cuCtxCreate_v4",
    "cuGraphAddNode_v3",
    "cuMulticastBindAddr_v2",
    "cuMulticastBindMem_v2",
}

# A function of no size takes what it takes; of these the client asks for SIZE.
CODE: Final = re.compile("cuModule|cuLibrary")
CONTEXTS: Final = re.compile("cuCtxCreate|cuDevicePrimaryCtxRetain|cuGreenCtxCreate")
# Managed memory is charged in full, and comes onto the card when it is touched.
LAZY: Final = {"cuMemAllocManaged"}
# A library belongs to no context: it is charged by estimate until it is unloaded.
LIBRARIES: Final = re.compile("cuLibrary")
# Memory that is not its context's: handles and pools, those of graphs included.
OUTLIVES: Final = re.compile("cuMemCreate|cuMemMap|cuMemRetain|cuMemAlloc.*Async|cuMemPool|cuDeviceSetMemPool|cuGraph")
ENDINGS: Final = (
    "cuCtxDestroy",
    "cuCtxDestroy_v2",
    "cuCtxDetach",
    "cuDevicePrimaryCtxRelease",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxReset",
    "cuDevicePrimaryCtxReset_v2",
)


@dataclass(frozen=True)
class Rows:
    """The built client, and the routes by which each row's function can be had."""

    program: Path
    kinds: dict[str, str]
    routes: dict[str, list[str]]

    def of(self, kind: str) -> list[str]:
        return [label for label, its in self.kinds.items() if its == kind]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, native: Path) -> Rows:
    folder = tmp_path_factory.mktemp("rows")
    # The driver may want a newer C library than a compiler that targets an old one knows.
    driver = [f"-L{native / 'sim'}", "-l:libcuda.so.1", "-Wl,--allow-shlib-undefined"]
    program = compile_c(folder / "rows", sorted(CLIENTS.glob("rows*.c")), libraries=driver)
    bare = SimulatedHost.create(folder / "host", native).environment(None)
    del bare["LD_PRELOAD"]  # what the driver itself answers
    kinds = dict(line.split() for line in ask(program, "list", bare))
    found = defaultdict(set)
    for line in ask(program, "versions", bare):
        name, route = line.split(maxsplit=1)
        if route.startswith("procaddress ") and not route.endswith(" 1"):  # bench.escapes takes them all
            found[name].add(route)
    routes = {label: ["direct 0 0", "dlsym 0 0", *sorted(found[label.split("/")[0]])] for label in kinds}
    return Rows(program, kinds, routes)


def ask(program: Path, question: str, environment: dict[str, str]) -> list[str]:
    return subprocess.run(
        [program, question], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@dataclass
class Tenant:
    """A tenant with one process of the client, and both sides of its account."""

    host: SimulatedHost
    region: TenantRegion
    client: Client

    @classmethod
    def begin(cls, host: SimulatedHost, rows: Rows, name: str = "a") -> Tenant:
        region = host.tenant(name, QUOTA)
        client = host.spawn(region, rows.program, "run")
        assert client.do("begin") == 0
        return cls(host, region, client)

    def allocate(self, label: str, route: str, size_bytes: int = SIZE) -> int:
        return int(self.client.do(f"allocate {label} {route} {size_bytes}"))

    @property
    def state(self) -> tuple[int, int]:
        """The charge, and the truth."""
        return self.region.used_bytes, self.host.held_bytes(self.client)

    def set_quota(self, quota_bytes: int) -> None:
        self.region.grants.gpu[0].quota_bytes = quota_bytes


def least_bytes(label: str) -> int:
    """What a row takes at least."""
    return CONTEXT_BYTES if CONTEXTS.match(label) else 1 if CODE.match(label) else SIZE


def hooked_allocations() -> set[str]:
    text = (build.NATIVE / "include" / "hooks.def").read_text()
    return set(re.findall(r"^CG_HOOK\(\s*\d+, (\w+), (?:alloc_device|alloc_indirect|map_va),", text, re.MULTILINE))


def test_client_has_a_row_for_every_allocating_function_of_the_hook_list(rows: Rows) -> None:
    hooked = {label.split("/")[0] for label, kind in rows.kinds.items() if kind != "unhooked"}
    assert hooked == hooked_allocations()


def test_client_has_a_row_for_every_allocating_function_that_is_not_hooked(rows: Rows) -> None:
    assert set(rows.of("unhooked")) == allocating() - set(build.hook_names())
    assert set(rows.of("unhooked")) <= set(excused())


def test_every_row_is_reached_by_get_proc_address(rows: Rows) -> None:
    unreached = {label for label, routes in rows.routes.items() if not any("procaddress" in route for route in routes)}
    unreached -= set(rows.of("unhooked"))
    assert unreached == UNKNOWN_TO_GET_PROC_ADDRESS
    asked = {route.split()[1] for routes in rows.routes.values() for route in routes}
    assert asked >= {"11030", "12000", "13000"}


def test_each_row_is_charged_while_held_by_every_route(host: SimulatedHost, rows: Rows) -> None:
    tenant = Tenant.begin(host, rows)
    base = tenant.state
    assert base == (CONTEXT_BYTES, CONTEXT_BYTES)
    for label in rows.of("own"):
        for route in rows.routes[label]:
            where = f"{label} by {route}"
            assert tenant.allocate(label, route) == 0, where
            charge, truth = tenant.state
            assert charge - base[0] >= least_bytes(label), where
            assert charge >= truth, where
            if label not in LAZY:
                assert truth - base[1] >= least_bytes(label), where
            assert tenant.client.do("release") == 0, where
            assert tenant.state == base, where


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_the_end_of_a_context_leaves_is_charged_and_no_more(host: SimulatedHost, rows: Rows, ending: str) -> None:
    tenant = Tenant.begin(host, rows)
    for label in [label for label in rows.of("own") if not CONTEXTS.match(label)]:
        before, where = tenant.state, f"{label}, {ending}"
        assert tenant.client.do("begin primary" if "Primary" in ending else "begin") == 0
        assert tenant.allocate(label, "direct 0 0") == 0, where
        assert tenant.client.do(f"end {ending}") == 0, where
        charge, truth = tenant.state
        assert charge == truth or (LIBRARIES.match(label) and charge >= truth), where
        assert OUTLIVES.match(label) or truth == before[1], where
        tenant.client.do("release")  # fails where the context has taken it along
        charge, truth = tenant.state
        assert charge == truth, where


def test_each_row_is_refused_over_the_quota_by_every_route(host: SimulatedHost, rows: Rows) -> None:
    tenant = Tenant.begin(host, rows)
    base = tenant.state
    for label in rows.of("own"):
        for route in rows.routes[label]:
            where = f"{label} by {route}"
            tenant.set_quota(base[0] + least_bytes(label) - 1)
            refusals = tenant.region.usage()[0].oom_count
            assert tenant.allocate(label, route) == OUT_OF_MEMORY, where
            assert tenant.state == base, where
            assert tenant.region.usage()[0].oom_count == refusals + 1, where


def test_what_the_driver_does_not_have_leaves_the_charge_alone(host: SimulatedHost, rows: Rows) -> None:
    tenant = Tenant.begin(host, rows)
    base = tenant.state
    for label in rows.of("absent"):
        for route in rows.routes[label]:
            assert tenant.allocate(label, route) == NOT_SUPPORTED, f"{label} by {route}"
            assert tenant.state == base, f"{label} by {route}"


def share(exporter: Tenant, importer: Client, what: str) -> None:
    """Have the exporter offer a block of SIZE, and the importer know of it."""
    assert importer.do("expect") == 0
    assert exporter.client.do(f"offer {what} {SIZE} {importer.pid}") == 0
    assert importer.do("take") == 0


def test_each_import_is_offered_by_something(rows: Rows) -> None:
    assert set(OFFERS) == set(rows.of("import"))


@pytest.mark.parametrize("what", sorted(set(OFFERS.values())))
def test_import_of_the_tenants_own_is_charged_once_by_every_route(host: SimulatedHost, rows: Rows, what: str) -> None:
    exporter = Tenant.begin(host, rows)
    importer = Tenant(host, exporter.region, host.spawn(exporter.region, rows.program, "run"))
    assert importer.client.do("begin") == 0
    share(exporter, importer.client, what)
    base = exporter.region.used_bytes
    assert base == host.held_bytes(exporter.client, importer.client) == 2 * CONTEXT_BYTES + SIZE
    for label in [label for label, its in OFFERS.items() if its == what]:
        for route in rows.routes[label]:
            where = f"{label} by {route}"
            assert importer.allocate(label, route) == 0, where
            charge = exporter.region.used_bytes
            assert charge == base >= host.held_bytes(exporter.client, importer.client), where
            assert importer.client.do("release") == 0, where
            assert exporter.region.used_bytes == base, where


@pytest.mark.parametrize("what", sorted(set(OFFERS.values())))
def test_import_from_another_tenant_is_refused_by_every_route(host: SimulatedHost, rows: Rows, what: str) -> None:
    exporter, stranger = Tenant.begin(host, rows, "a"), Tenant.begin(host, rows, "b")
    share(exporter, stranger.client, what)
    theirs, own = exporter.state, stranger.state
    for label in [label for label, its in OFFERS.items() if its == what]:
        for route in rows.routes[label]:
            where = f"{label} by {route}"
            denied = stranger.region.usage()[0].denied_count
            assert stranger.allocate(label, route) not in (0, -1), where
            assert (exporter.state, stranger.state) == (theirs, own), where
            assert stranger.region.usage()[0].denied_count == denied + 1, where


@pytest.mark.parametrize("label", OFFERS)
def test_import_that_outlives_its_exporters_interest_stays_charged(host: SimulatedHost, rows: Rows, label: str) -> None:
    exporter = Tenant.begin(host, rows)
    importer = Tenant(host, exporter.region, host.spawn(exporter.region, rows.program, "run"))
    assert importer.client.do("begin") == 0
    share(exporter, importer.client, OFFERS[label])
    assert importer.allocate(label, "direct 0 0") == 0
    assert importer.client.do("forget") == 0
    assert exporter.client.do(f"withdraw {OFFERS[label]}") == 0
    assert exporter.region.used_bytes >= host.held_bytes(exporter.client, importer.client)
    assert importer.client.do("release") == 0
    # The simulated driver learns by a thread of its own that the last copy of a descriptor is closed.
    deadline = time.monotonic() + SETTLE_S
    while host.held_bytes(exporter.client, importer.client) > 2 * CONTEXT_BYTES and time.monotonic() < deadline:
        time.sleep(0.001)
    exporter.set_quota(2 * CONTEXT_BYTES + SIZE)  # needs what was freed
    assert exporter.allocate("cuMemAlloc_v2", "direct 0 0") == 0
    held = host.held_bytes(exporter.client, importer.client)
    assert exporter.region.used_bytes == held == 2 * CONTEXT_BYTES + SIZE

"""Every function that gives memory of a card, by every route to it, within the share and beyond it.

The client is tests/native/clients/rows.c; which routes lead to a function is what the bare driver answers.
"""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from bench.escape_places import ENDED, MIB, QUOTA_BYTES, SECONDS, Bare, settled
from bench.escape_table import NO_FUNCTION, RUN, Attempt
from tests.native.memory_tenant import OFFERS, Client

SIZE_BYTES: Final = 64 * MIB
BY_NAME: Final = ("direct 0 0", "dlsym 0 0", "default 0 0", "dlvsym 0 0")
NAMES: Final = {"direct": "linked", "default": "dlsym RTLD_DEFAULT", "procaddress": "cuGetProcAddress_v2",
                "procaddress_v1": "cuGetProcAddress"}  # fmt: skip
SIZELESS: Final = ("cuCtx", "cuDevicePrimary", "cuGreenCtx", "cuModule", "cuLibrary")


class Routes:
    """The client's rows, by kind, and the routes to each."""

    def __init__(self, place: Bare) -> None:
        """Ask the client, which is none of a tenant's here."""
        self.program = place.tools["rows"]
        self.kinds = dict(line.split() for line in self._ask(place, "list"))
        self.missing = frozenset(self._ask(place, "missing"))
        """Rows whose function this driver does not export."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for line in self._ask(place, "versions"):
            name, route = line.split(maxsplit=1)
            if route not in found[name]:
                found[name].append(route)
        self._found = found

    def to(self, label: str) -> list[str]:
        """By name, and by address in each version and with each flag."""
        return [*BY_NAME, *sorted(self._found[label.partition("/")[0]])]

    def of(self, *kinds: str) -> list[str]:
        """Rows of these kinds."""
        return [label for label, kind in self.kinds.items() if kind in kinds and label not in self.missing]

    def _ask(self, place: Bare, question: str) -> list[str]:
        command = [self.program, question]
        return subprocess.run(
            command, env=place.environment, check=True, capture_output=True, text=True, timeout=SECONDS
        ).stdout.splitlines()


def try_all(place: Bare, routes: Routes) -> Iterator[Attempt]:
    """All functions, then what other processes offer, then what the driver does not have."""
    yield from within_and_beyond(place, routes)
    yield from from_a_stranger(place, routes)
    for label in sorted(routes.missing):
        yield Attempt(RUN, label, "exported", None, NO_FUNCTION, 0, 0, QUOTA_BYTES)


def within_and_beyond(place: Bare, routes: Routes) -> Iterator[Attempt]:
    """Each by each route, once with room and once with a share that is full to the last granule."""
    for full in (False, True):
        client = tenant(place, routes)
        for label in routes.of("own", "absent", "unhooked"):
            for route in routes.to(label):
                try:
                    found = allocate(place, client, label, route, full)
                except AssertionError:  # the driver has ended its caller, which is no memory of the card either
                    found = Attempt(RUN, label, route, SIZE_BYTES, ENDED, *settled(place), QUOTA_BYTES)
                    end(client)
                    client = tenant(place, routes)
                yield found
        end(client)


def from_a_stranger(place: Bare, routes: Routes) -> Iterator[Attempt]:
    """What another tenant offers: taking it would be that one's memory beyond one's own share."""
    for what in sorted(set(OFFERS.values())):
        exporter, stranger = tenant(place, routes), tenant(place, routes)
        ordered(stranger, "expect")
        ordered(exporter, f"offer {what} {SIZE_BYTES} {stranger.pid}")
        ordered(stranger, "take")
        for label in (label for label, its in OFFERS.items() if its == what and label not in routes.missing):
            for route in routes.to(label):
                yield allocate(place, stranger, label, route, full=False, tenants=2)
        end(stranger)
        end(exporter)


def tenant(place: Bare, routes: Routes) -> Client:
    """One with a context."""
    client = place.tenant([routes.program, "run"])
    deadline = time.monotonic() + SECONDS
    # What has just gone round the shim in the same cgroup may be taken for the new tenant's for a moment.
    while answer := client.do("begin"):
        if time.monotonic() > deadline:
            seen = place.client.get("/v1/tenants"), place.client.get("/v1/gpus")
            raise SystemExit(f"bench.escapes: {answer} for the first context, {SECONDS:g} s long: {seen}")
        time.sleep(0.1)
    return client


def end(client: Client) -> None:
    """Let it end, and close its pipes."""
    client.end()
    for stream in (client.process.stdout, client.process.stderr):
        assert stream
        stream.close()


def ordered(client: Client, order: str) -> None:
    """Have the client do what attempts rest on."""
    answer = client.do(order)
    if answer and order != "fill":
        raise SystemExit(f"bench.escapes: the client answers {answer} to: {order}")


def allocate(place: Bare, client: Client, label: str, route: str, full: bool, tenants: int = 1) -> Attempt:
    """One attempt, whose memory is given back."""
    if full:
        ordered(client, "fill")  # again: the agent gives back what it has estimated too high
    answer = int(client.do(f"allocate {label} {route} {SIZE_BYTES}"))
    charged, truth = settled(place)
    if answer == 0:
        client.do("release")
    way, version, flags = route.split()
    asked = None if label.startswith(SIZELESS) else SIZE_BYTES
    said = f"{NAMES.get(way, way)} {int(version) / 1000:g} {flags}" if int(version) else NAMES.get(way, way)
    name = f"{label} of another tenant's" if tenants > 1 else label
    told = f"{said}, {'full' if full else 'room'}"
    found = NO_FUNCTION if answer == -1 else answer
    return Attempt(RUN, name, told, asked, found, charged, truth, tenants * QUOTA_BYTES)

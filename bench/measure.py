"""Measuring cells on simulated machines: some side by side, each machine one cell at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from bench import verdict
from bench.cells import Cell, Load, Reference, Table, settle_seconds
from bench.lane import Lane
from bench.load import Load as Client
from bench.stalls import Stalls
from bench.verdict import Attempt
from bench.window import Look, Window
from cgpu.errors import CgpuError

CLIENTS_MAX: Final = 20  # on a machine with tenants: so the driver's own time is measured beside as many


class Measurement:
    """What has been measured so far, and what the machines were doing last."""

    def __init__(self, table: Table, lanes: Sequence[Lane]) -> None:
        self._table = table
        self._lanes = lanes
        self._last: tuple[tuple[Load, int], ...] = ()
        self._driver_ns: dict[int, list[int]] = {}
        self.references: dict[Reference, float] = {}

    def driver(self, cells: Sequence[Cell]) -> None:
        """What a first kernel takes a client alone on the card without cgpu."""
        for probe in (cell.probe for cell in cells):
            if probe is not None and probe.kernel_ns not in self._driver_ns:
                client = self._lanes[0].bare(CLIENTS_MAX)[0]
                self._driver_ns[probe.kernel_ns] = client.first(probe.kernel_ns, probe.count, probe.gap_us)

    def refer(self, together: Sequence[Reference]) -> list[float]:
        """Measure references at the same time: how busy each keeps its card."""
        works = []
        for lane, reference in zip(self._lanes, together, strict=False):
            if reference.tenants:
                clients = lane.tenants(reference.count)
                lane.configure({"policy": 1}, [{}] * reference.count)
            else:
                clients = lane.bare(reference.count)
            works.append((lane, clients, reference.load))
        looks, _ = self._watch(works, self._table.reference_seconds)
        for reference, (_, clients, _), (before, after) in zip(together, works, looks, strict=True):
            pids = [client.pid for client in clients]
            self.references[reference] = Window.between(before, after, pids, tenants=reference.tenants).busy
        return [self.references[reference] for reference in together]

    def measure(self, together: Sequence[Cell]) -> list[Attempt]:
        """Measure cells at the same time."""
        if together[0].probe is not None:
            return [self._wake(cell) for cell in together]
        works, refusals = [], dict[int, Attempt]()
        for index, (lane, cell) in enumerate(zip(self._lanes, together, strict=False)):
            try:
                works.append((lane, self._tenants(lane, cell), cell.load))
            except CgpuError as error:
                refusals[index] = verdict.refused(str(error))
        looks, stalled = self._watch(works, self._table.window_seconds) if works else ([], 0.0)
        seen = iter(zip(works, looks, strict=True))
        attempts = []
        for index, cell in enumerate(together):
            if index in refusals:
                attempts.append(refusals[index])
                continue
            (_, clients, _), (before, after) = next(seen)
            window = Window.between(before, after, [client.pid for client in clients], tenants=True)
            attempts.append(verdict.judge(cell, window, self.references, stalled))
        return attempts

    @staticmethod
    def _tenants(lane: Lane, cell: Cell) -> list[Client]:
        clients = lane.tenants(cell.tenants.count + cell.tenants.idle)
        lane.configure(cell.policy, cell.tenants.changes)
        return clients[: cell.tenants.count]

    def _wake(self, cell: Cell) -> Attempt:
        probe, lane = cell.probe, self._lanes[0]
        assert probe is not None
        try:
            first, *others = self._tenants(lane, cell)
        except CgpuError as error:
            return verdict.refused(str(error))
        with self._only(1), self._working([(lane, others, cell.load)]), Stalls() as stalls:
            beyond_ns = first.first(probe.kernel_ns, probe.count, probe.gap_us)
        return verdict.judge_probe(cell, beyond_ns, self._driver_ns[probe.kernel_ns], stalls.part)

    @contextmanager
    def _only(self, count: int) -> Iterator[None]:
        """Only the first so many machines have the host: the agents of the others, idle as they are, stand still."""
        others = self._lanes[count:]
        for lane in others:
            lane.stop_agent()
        try:
            yield
        finally:
            for lane in others:
                lane.continue_agent()

    def _watch(
        self, works: Sequence[tuple[Lane, list[Client], Load]], seconds: float
    ) -> tuple[list[tuple[Look, Look]], float]:
        """Looks at each machine, at the two ends of a window in which all clients work."""
        with self._only(len(self._lanes) if len(works) > 1 else 1), self._working(works), Stalls() as stalls:
            before = [lane.look() for lane, _, _ in works]
            time.sleep(seconds)
            after = [lane.look() for lane, _, _ in works]
        return list(zip(before, after, strict=True)), stalls.part

    @contextmanager
    def _working(self, works: Sequence[tuple[Lane, list[Client], Load]]) -> Iterator[None]:
        """The clients work, and what was before no longer counts."""
        now = tuple((load, len(clients)) for _, clients, load in works)
        for _, clients, load in works:
            for client in clients:
                client.run(load.kind, load.kernel_ns, load.sync)
        time.sleep(settle_seconds((*self._last, *now), self._table.settle_seconds))
        yield
        everybody = [client for _, clients, _ in works for client in clients]
        for client in everybody:
            client.end()
        for client in everybody:
            client.launches()
        self._last = now

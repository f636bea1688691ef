"""The cells of the table of shares: shares.toml as values, expanded, in the order of measuring. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

_UNITS_NS: Final = {"us": 1_000, "ms": 1_000_000}
_AMOUNTS: Final = {
    "weight": "weight",
    "compute": "compute_percent",
    "limit": "compute_limit_percent",
    "priority": "priority",
}
LONG_NS: Final = 10_000_000
"""A kernel that outlasts a turn leaves a debt, which the next cell must not pay."""


class TableError(ValueError):
    """The data file contradicts itself."""


@dataclass(frozen=True)
class TenantSet:
    """Tenants on one card."""

    name: str
    changes: tuple[Mapping[str, int], ...]
    """Of those with work: amounts by the API's names."""
    asked: tuple[float, ...]
    """Of each of those, in percent."""
    idle: int = 0
    """How many tenants more are there, without work."""

    @property
    def count(self) -> int:
        """Tenants with work."""
        return len(self.changes)


@dataclass(frozen=True)
class Load:
    """What one client does."""

    kernel_ns: int
    kind: str
    sync: int
    """After so many launches it waits for the card; 0: never."""

    @property
    def held(self) -> bool:
        """Whether it cannot use all of the time that it holds."""
        return self.sync == 1


@dataclass(frozen=True)
class Reference:
    """Work whose busy share of the card others are compared with."""

    load: Load
    count: int
    tenants: bool
    """False: without cgpu."""

    @property
    def name(self) -> str:
        """As progress is told."""
        return f"{'alone' if self.tenants else 'bare'} x{self.count}/{_load_name(self.load)}"


@dataclass(frozen=True)
class Probe:
    """Waking up: idle for about a gap, then one kernel, so many times. ``us`` is the bound at ``quantile``."""

    kernel_ns: int
    count: int
    gap_us: int
    quantile: float
    us: float


@dataclass(frozen=True)
class Bounds:
    """What is allowed. None: not judged."""

    points: float | None = None
    busy: float | None = None


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    group: str
    policy: Mapping[str, Any]
    tenants: TenantSet
    load: Load
    of_time: bool
    """Whether what a tenant gets is a part of the time, rather than of what all get."""
    bounds: Bounds
    busy_of_bare: bool
    alone: bool
    """Whether nothing else is measured meanwhile."""
    probe: Probe | None = None

    @property
    def name(self) -> str:
        """GROUP/SET/KERNEL/KIND/SYNC."""
        return f"{self.group}/{self.tenants.name}/{_load_name(self.load)}"

    @property
    def reference(self) -> Reference | None:
        """What the card's busy share is judged by."""
        if self.bounds.busy is None:
            return None
        bare = self.busy_of_bare or not self.load.held
        return Reference(self.load, self.tenants.count if bare else 1, tenants=not bare)

    @property
    def references(self) -> tuple[Reference, ...]:
        """All that is measured for it. With waits after each kernel also what an overlap would give."""
        if self.reference is None:
            return ()
        if not self.load.held:
            return (self.reference,)
        bare = {Reference(self.load, count, tenants=False) for count in (1, self.tenants.count)}
        return tuple(sorted(bare | {self.reference}, key=_reference_order))


@dataclass(frozen=True)
class Table:
    """The whole file."""

    profile: str
    window_seconds: float
    settle_seconds: float
    reference_seconds: float
    attempts: int
    lanes: int
    budget_seconds: float
    cells: tuple[Cell, ...]
    peers: tuple[Mapping[str, Any], ...] = ()
    """What others have published: ``name``, ``source``, ``asked`` and ``got``, in percent."""

    def only(self, pattern: str) -> Table:
        """The cells whose name the pattern fits, or holds."""
        chosen = tuple(
            cell for cell in self.cells if fnmatchcase(cell.name, pattern) or fnmatchcase(cell.name, f"*{pattern}*")
        )
        return replace(self, cells=chosen)


def kernel_ns(text: str) -> int:
    """``20us`` or ``1ms``."""
    unit = text[-2:]
    if unit not in _UNITS_NS or not text[:-2].isdigit():
        raise TableError(f"not the length of a kernel: {text!r}")
    return int(text[:-2]) * _UNITS_NS[unit]


def kernel_name(length_ns: int) -> str:
    """The other way round."""
    unit = "ms" if length_ns >= _UNITS_NS["ms"] else "us"
    return f"{length_ns / _UNITS_NS[unit]:g}{unit}"


def read_table(text: str, *, fast: bool = False) -> Table:
    """All cells of the file, or the few of the fast version with its shorter windows and wider bounds."""
    data = tomllib.loads(text)
    sets = {name: _tenant_set(name, values) for name, values in data["sets"].items()}
    cells = tuple(cell for group in data["groups"] for cell in _cells(group, data, sets))
    table = Table(
        profile=data["profile"],
        window_seconds=data["window_seconds"],
        settle_seconds=data["settle_seconds"],
        reference_seconds=data["reference_seconds"],
        attempts=data["attempts"],
        lanes=data["lanes"],
        budget_seconds=60 * data["budget_minutes"],
        cells=cells,
        peers=tuple(data.get("peers", ())),
    )
    return _fast(table, data["fast"]) if fast else table


def rounds(items: Iterable[Cell], lanes: int) -> Iterator[tuple[Cell, ...]]:
    """Cells that are measured at the same time: short kernels first, since long ones leave debts."""
    ordered = sorted(items, key=lambda cell: (cell.load.kernel_ns, cell.alone, -cell.tenants.count))
    together: list[Cell] = []
    for cell in ordered:
        full = len(together) == lanes
        if together and (full or cell.alone or together[0].alone or cell.load.kernel_ns != together[0].load.kernel_ns):
            yield tuple(together)
            together = []
        together.append(cell)
    if together:
        yield tuple(together)


def reference_rounds(items: Iterable[Cell], lanes: int) -> Iterator[tuple[Reference, ...]]:
    """The references of these cells, each once: those without cgpu first."""
    alone = {reference for cell in items for reference in cell.references if cell.alone}
    wanted = sorted({reference for cell in items for reference in cell.references}, key=_reference_order)
    together: list[Reference] = []
    for reference in wanted:
        first = together[0] if together else reference
        fits = reference not in alone and first not in alone and reference.tenants == first.tenants
        if together and (len(together) == lanes or not fits):
            yield tuple(together)
            together = []
        together.append(reference)
    if together:
        yield tuple(together)


def settle_seconds(loads: Iterable[tuple[Load, int]], least: float) -> float:
    """How long it takes until what was before no longer counts: each may have a kernel's debt to the others."""
    debts_ns = (load.kernel_ns * count for load, count in loads if load.kernel_ns > LONG_NS)
    return least + max(debts_ns, default=0) / 1e9


def _reference_order(reference: Reference) -> tuple[Any, ...]:
    load = reference.load
    return (reference.tenants, load.kernel_ns, load.sync == 1, reference.count, load.kind)


def _load_name(load: Load) -> str:
    waits = {0: "async", 1: "sync"}.get(load.sync, f"sync {load.sync}")
    return f"{kernel_name(load.kernel_ns)}/{load.kind}/{waits}"


def _tenant_set(name: str, values: Mapping[str, Any]) -> TenantSet:
    columns = {key: values[key] for key in _AMOUNTS if key in values}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise TableError(f"set {name!r}: its amounts are not for the same tenants")
    changes = tuple({_AMOUNTS[key]: column[index] for key, column in columns.items()} for index in range(lengths.pop()))
    asked = values.get("asked") or _asked(columns)
    if len(asked) != len(changes):
        raise TableError(f"set {name!r}: asked is for {len(asked)} tenants of {len(changes)}")
    return TenantSet(name, changes, tuple(map(float, asked)), values.get("idle", 0))


def _asked(columns: Mapping[str, Sequence[int]]) -> Sequence[float]:
    for key in ("compute", "limit"):
        if key in columns:
            return columns[key]
    weights = columns["weight"]
    return [100 * weight / sum(weights) for weight in weights]


def _cells(group: Mapping[str, Any], data: Mapping[str, Any], sets: Mapping[str, TenantSet]) -> Iterator[Cell]:
    def of_group(key: str) -> Any:
        return group.get(key, data[key])

    alone_below_ns = kernel_ns(of_group("alone_below"))
    for set_name in group["sets"]:
        if set_name not in sets:
            raise TableError(f"group {group['name']!r}: there is no set {set_name!r}")
        for kernel in of_group("kernels"):
            for kind in of_group("kinds"):
                for sync in of_group("syncs"):
                    load = Load(kernel_ns(kernel), kind, sync)
                    points = group.get("points_at", {}).get(kernel, group.get("points"))
                    yield Cell(
                        group=group["name"],
                        policy=group["policy"],
                        tenants=_of_all(sets[set_name], group),
                        load=load,
                        of_time=group.get("of") == "time",
                        bounds=Bounds(points, group.get("busy")),
                        busy_of_bare=group.get("busy_of") == "bare",
                        alone="probe" in group or (load.held and load.kernel_ns < alone_below_ns),
                        probe=_probe(group.get("probe"), load),
                    )


def _of_all(tenants: TenantSet, group: Mapping[str, Any]) -> TenantSet:
    """Where what counts is the part of what all get, what is asked adds up to all."""
    if group.get("of") != "all":
        return tenants
    total = sum(tenants.asked)
    return replace(tenants, asked=tuple(100 * asked / total for asked in tenants.asked))


def _probe(values: Mapping[str, Any] | None, load: Load) -> Probe | None:
    if values is None:
        return None
    own_ns = kernel_ns(values["kernel"]) if "kernel" in values else load.kernel_ns
    quantile, us = (0.5, values["median_us"]) if "median_us" in values else (0.99, values["quantum_us"])
    if quantile > 0.5:
        us += load.kernel_ns / 1e3
    return Probe(own_ns, values["count"], values["gap_us"], quantile, us)


def _fast(table: Table, values: Mapping[str, Any]) -> Table:
    def relaxed(cell: Cell) -> Cell:
        points, busy = cell.bounds.points, cell.bounds.busy
        bounds = Bounds(
            None if points is None else points + values["points_more"],
            None if busy is None else busy - values["busy_less"],
        )
        probe = cell.probe
        if probe is not None:
            probe = replace(probe, count=values["probe_count"], us=probe.us * values["probe_times"])
        return replace(cell, bounds=bounds, probe=probe)

    chosen = [cell for pattern in values["cells"] for cell in table.cells if fnmatchcase(cell.name, pattern)]
    return replace(
        table,
        window_seconds=values["window_seconds"],
        settle_seconds=values["settle_seconds"],
        reference_seconds=values["reference_seconds"],
        attempts=values["attempts"],
        cells=tuple(relaxed(cell) for cell in chosen),
    )

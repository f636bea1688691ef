"""``cgpu demo``: tenants share a GPU, and what each asked for is compared with what it got.

Three tenants of weights 1, 2 and 4 keep the card busy. Meanwhile a fourth allocates until it is
refused, and a fifth is killed with its memory still allocated. The shares of time are measured over
all of that: on a simulated card from the card's own books, on a real one from the kernels that ran,
each of which takes a fixed time by the card's clock.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.agent_client import AgentClient
from cgpu.agent.locks import agent_has_ended
from cgpu.cli import render
from cgpu.cli.demo_picture import Line, Picture
from cgpu.cli.demo_tenant import DemoTenant
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.errors import DriverError
from cgpu.model.units import GIB, MIB, format_memory
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine

EXAMPLES = """\
examples:
  cgpu demo              on the real card, or on a simulated one where there is no NVIDIA driver
  cgpu demo --sim a10    on a simulated card in any case

It takes less than a minute and ends with what was asked and got; exit code 1 when a quota or a
share was missed. Nothing of it is left behind.
"""
_WEIGHTS: Final = (("small", 1, 2 * GIB), ("medium", 2, 3 * GIB), ("large", 4, 4 * GIB))
_HOLD_FRACTION: Final = 2  # each holds half its quota; contexts take their part
_GREEDY_BYTES: Final = 1 * GIB
_VICTIM_BYTES: Final = 2 * GIB
_WARM_UP_SECONDS: Final = 2.0
_MEASURE_SECONDS: Final = 12.0
_WAIT_SECONDS: Final = 20.0
_FRAME_SECONDS: Final = 0.5
_TOLERANCE_POINTS: Final = 5.0  # percentage points of the card's time; the machine may be busy with other things
_RETURN_SECONDS: Final = 3.0  # 1 s after the card has released the memory, and the looking on a busy machine


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "demo", run, "watch tenants share a GPU", EXAMPLES)
    parser.add_argument(
        "--sim", metavar="PROFILE", nargs="?", const="t4", help="on a simulated card of this profile; t4 when not given"
    )
    parser.add_argument(
        "--seconds", type=float, default=_MEASURE_SECONDS, help="how long to measure; 12 when not given"
    )
    add_json(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run it, and print the table."""
    with ExitStack() as stack:
        machine, environment = _stage(stack, options.sim, settings)
        settings = Settings.from_environment(environment)
        picture = Picture(quiet=options.json)
        lines = _Demo(machine, environment, settings, picture, options.seconds).play()
    missed = [line for line in lines if not line.kept]
    if options.json:
        rows = [line.as_json() for line in lines]
        print(render.as_json({"simulated": machine is not None, "kept": not missed, "tenants": rows}))
    else:
        picture.close()
        print(_verdict(lines, simulated=machine is not None))
    return 1 if missed else 0


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cgpu-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stage(stack: ExitStack, profile: str | None, settings: Settings) -> tuple[SimMachine | None, dict[str, str]]:
    """A machine and an agent's folder for the demo alone; None is the real machine."""
    folder = stack.enter_context(_temporary_folder())
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CGPU_SIM_STATE", "CGPU_AGENT_SOCKET")
    }
    environment["CGPU_RUNTIME_DIR"] = str(folder / "run")
    if profile is None and settings.sim_state is None and _has_driver():
        return None, environment
    machine = SimMachine.create(folder / "machine", profile or "t4")
    return machine, {**environment, **machine.environment(environment)}


def _has_driver() -> bool:
    from cgpu.adapters.nvml import NvmlNode  # the other verbs start faster without NVML

    try:
        node = NvmlNode()
    except DriverError:
        return False
    node.close()
    return bool(node.gpus())


class _Demo:
    """One performance."""

    def __init__(
        self,
        machine: SimMachine | None,
        environment: dict[str, str],
        settings: Settings,
        picture: Picture,
        seconds: float,
    ) -> None:
        self._machine = machine
        self._environment = environment
        self._settings = settings
        self._client = AgentClient(settings.agent_socket, settings.agent_answer_seconds)
        self._picture = picture
        self._seconds = seconds
        self._tenants: list[DemoTenant] = []

    def play(self) -> list[Line]:
        """All acts; what every tenant asked for and got."""
        try:
            workers = [
                self._start(name, quota, weight=weight, hold_bytes=quota // _HOLD_FRACTION)
                for name, weight, quota in _WEIGHTS
            ]
            for worker in workers:
                worker.wait_for("ready", _WAIT_SECONDS)
            self._title()
            self._picture.say(f"{len(workers)} tenants keep the card busy, weights 1 : 2 : 4")
            self._watch(_WARM_UP_SECONDS)
            before, began = [self._busy_ns(worker) for worker in workers], time.monotonic()
            greedy, killed = self._greedy(), self._killed()
            self._watch(self._seconds - (time.monotonic() - began))
            used = [self._busy_ns(worker) - start for worker, start in zip(workers, before, strict=True)]
            lines = self._shares(workers, used)
            return [*lines, greedy, killed]
        finally:
            self._end()

    def _start(
        self, name: str, quota_bytes: int, *, weight: int = 1, hold_bytes: int = 0, fill: bool = False
    ) -> DemoTenant:
        tenant = DemoTenant(name, quota_bytes, weight, self._environment)
        tenant.start(hold_bytes=hold_bytes, fill=fill)
        self._tenants.append(tenant)
        return tenant

    def _greedy(self) -> Line:
        tenant = self._start("greedy", _GREEDY_BYTES, fill=True)
        refusal = tenant.wait_for("refused", _WAIT_SECONDS)
        ready = tenant.seen("ready")
        held, seen_total = int(refusal["held_bytes"]), int(ready["total_bytes"])
        kept = refusal["out_of_memory"] and 0 < held <= _GREEDY_BYTES and seen_total == _GREEDY_BYTES
        self._picture.say(
            f"greedy asked for {format_memory(_GREEDY_BYTES)} and sees a card of {format_memory(seen_total)};"
            f" after {held // MIB} MiB: {refusal['error']}"
        )
        return Line("greedy", 1, _GREEDY_BYTES, held, None, None, bool(kept), str(refusal["error"]))

    def _killed(self) -> Line:
        tenant = self._start("killed", _VICTIM_BYTES, fill=True)
        held = int(tenant.wait_for("refused", _WAIT_SECONDS)["held_bytes"])
        full_bytes = self._gpu()["used_bytes"]
        tenant.kill()
        killed = time.monotonic()
        # Back on the card, and back in the agent's books.
        while self._gpu()["used_bytes"] > full_bytes - held or "killed" in self._tenant_names():
            if time.monotonic() - killed > _WAIT_SECONDS:
                break
            self._watch(_FRAME_SECONDS / 10)
        seconds = time.monotonic() - killed
        self._picture.say(f"killed -9 with {held // MIB} MiB allocated: all of it was back after {seconds:.1f} s")
        return Line(
            "killed", 1, _VICTIM_BYTES, held, None, None, seconds <= _RETURN_SECONDS, f"returned in {seconds:.1f} s"
        )

    def _shares(self, workers: list[DemoTenant], used_ns: list[int]) -> list[Line]:
        total, weights = sum(used_ns), sum(worker.weight for worker in workers)
        rows = {row["name"]: row["shares"][0] for row in self._client.get("/v1/tenants")}
        lines = []
        for worker, busy in zip(workers, used_ns, strict=True):
            asked, got = 100 * worker.weight / weights, 100 * busy / total if total else 0.0
            memory = int(rows[worker.name]["used_bytes"])
            kept = abs(got - asked) <= _TOLERANCE_POINTS and memory <= worker.quota_bytes
            lines.append(Line(worker.name, worker.weight, worker.quota_bytes, memory, asked, got, kept, ""))
        return lines

    def _busy_ns(self, worker: DemoTenant) -> int:
        if self._machine is None:
            return worker.done_ns()
        card = self._machine.status().cards[0]
        return sum(process.busy_ns for process in card.processes if process.pid == worker.pid)

    def _watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._picture.draw(self._gpu(), self._client.get("/v1/tenants"), time.monotonic_ns())
            time.sleep(min(_FRAME_SECONDS, left))

    def _gpu(self) -> dict[str, Any]:
        gpu: dict[str, Any] = self._client.get("/v1/gpus/0")
        return gpu

    def _tenant_names(self) -> set[str]:
        return {row["name"] for row in self._client.get("/v1/tenants")}

    def _title(self) -> None:
        gpu = self._gpu()
        where = render.SIMULATED if gpu["simulated"] else "real"
        self._picture.begin(f"cgpu demo on a {where} GPU: {gpu['name']}, {render.mebibytes(gpu['total_bytes'])}")

    def _end(self) -> None:
        """End the tenants, then wait for the private agent to end with the last of them."""
        for tenant in self._tenants:
            tenant.end(_WAIT_SECONDS)
        agent_has_ended(self._settings.agent_lock, _WAIT_SECONDS)


def _verdict(lines: list[Line], *, simulated: bool) -> str:
    header = ("TENANT", "WEIGHT", "MEMORY ASKED", "GOT", "TIME ASKED", "GOT", "", "")
    table = render.table(header, [line.cells() for line in lines])
    missed = sum(not line.kept for line in lines)
    words = "every quota and every share was kept" if not missed else f"{missed} of {len(lines)} missed"
    where = f"measured on a {render.SIMULATED} GPU" if simulated else "measured on the real card"
    return f"\n{table}\n\n{words} ({where}; shares of time within {_TOLERANCE_POINTS:.0f} percentage points)"

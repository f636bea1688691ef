"""A card in discrete events for the arbiter's turns: programs, their queues, and exact time.

A program launches kernels of one length whenever its shim would let it: into an open turn, one at a
time or as many as the bound on queued work admits (native/shim/gate_wait.c). Kernels are not interrupted;
the card divides itself equally between tenants that have work on it. The arbiter sees each change of
what a tenant wants or runs at the moment when it happens.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.parity.policy_model import Settings, Share
from tests.parity.policy_native import NEVER, Grant, NativeTurns

MS = 1_000_000
SECOND = 1000 * MS
OPEN, FREE = 1, 2
QUEUE_PART, PRIORITY_QUEUE_PART, QUEUE_LEAST_NS = 2, 4, MS  # native/arbiter/arbiter.c
NATIVE_QUEUE = 4


@dataclass(frozen=True)
class Load:
    """What a program does: always at work, or at work for ``on_ns`` and then away for ``off_ns``; or
    ``burst`` kernels come in every ``period_ns``."""

    kernel_ns: int = MS
    on_ns: int = 0  # 0: without end
    off_ns: int = 0
    synchronous: bool = False  # waits for each kernel before it launches the next
    burst: int = 0
    period_ns: int = 0


IDLE = Load(kernel_ns=0)


class Program:
    """One tenant of the card."""

    def __init__(self, place: int, share: Share, load: Load) -> None:
        self.place, self.share, self.load = place, share, load
        self.at_work = load.kernel_ns > 0
        self.pending = 0  # kernels that have come in and are not launched yet
        self.queued = 0  # kernels on the card, the running one included
        self.left_ns = 0.0  # of the running one
        self.had_ns = 0.0
        self.waits: list[int] = []  # of the times without anything on the card
        self.seen = (False, False)
        self.grant = Grant(0, 0, 0)
        self.waiting_since: int | None = None

    @property
    def would_launch(self) -> bool:
        has_work = self.pending > 0 if self.load.burst else self.at_work
        return has_work and not (self.load.synchronous and self.queued)

    def may_launch(self, now_ns: int, queue_ns: int) -> bool:
        if self.grant.state == FREE:
            return self.queued < NATIVE_QUEUE
        if self.grant.state != OPEN or self.grant.deadline_ns <= now_ns:
            return False
        cost_ns = self.queued * min(self.load.kernel_ns, queue_ns)
        return not self.queued or (cost_ns < queue_ns and cost_ns < self.grant.deadline_ns - now_ns)

    def launch(self, now_ns: int, queue_ns: int) -> None:
        while self.would_launch and self.may_launch(now_ns, queue_ns):
            if not self.queued:
                self.left_ns = self.load.kernel_ns
            self.queued += 1
            self.pending -= self.load.burst > 0
        if self.would_launch and not self.queued:
            self.waiting_since = now_ns if self.waiting_since is None else self.waiting_since
        elif self.waiting_since is not None:
            self.waits.append(now_ns - self.waiting_since)
            self.waiting_since = None


class Card:
    """The card, its tenants and the machine under test."""

    def __init__(self, settings: Settings) -> None:
        self.turns = NativeTurns(settings)
        self.settings = settings
        self.now_ns = 0
        self.moment_ns = 0  # when the machine wants to be called
        self.programs: list[Program] = []
        self.wasted_ns = 0  # somebody might have used the card, and nobody did
        self.begun_ns = 0
        self._actions: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # ---- what happens to the card ----

    def join(self, share: Share, load: Load = IDLE) -> Program:
        program = Program(self.turns.join(share), share, load)
        self.programs.append(program)
        self.work(program, load)
        return program

    def leave(self, program: Program) -> None:
        self.turns.leave(program.place)
        self.programs.remove(program)
        self.moment_ns = self.now_ns

    def share(self, program: Program, share: Share) -> None:
        self._advance()
        program.share = share
        self.turns.share(program.place, share)
        self.moment_ns = self.now_ns

    def set(self, settings: Settings) -> None:
        self._advance()
        self.settings = settings
        self.turns.set(settings)
        self.moment_ns = self.now_ns

    def work(self, program: Program, load: Load) -> None:
        program.load = load
        program.at_work = load.kernel_ns > 0
        if load.on_ns:
            self.at(self.now_ns + load.on_ns, lambda: self._toggle(program, load))
        if load.burst:
            self.at(self.now_ns, lambda: self._come_in(program, load))
        self.moment_ns = self.now_ns

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._actions, (time_ns, next(self._numbers), action))

    def _toggle(self, program: Program, load: Load) -> None:
        if program.load is not load:
            return
        program.at_work = not program.at_work
        self.at(self.now_ns + (load.on_ns if program.at_work else load.off_ns), lambda: self._toggle(program, load))

    def _come_in(self, program: Program, load: Load) -> None:
        if program.load is load:
            program.pending += load.burst
            self.at(self.now_ns + load.period_ns, lambda: self._come_in(program, load))

    # ---- what was measured ----

    def measure(self) -> None:
        """Shares, waits and waste count from now on."""
        self.begun_ns, self.wasted_ns = self.now_ns, 0
        for program in self.programs:
            program.had_ns, program.waits = 0.0, []

    def part(self, program: Program) -> float:
        """The program's part of the card since then, in percent."""
        return 100 * program.had_ns / (self.now_ns - self.begun_ns)

    def parts(self) -> list[float]:
        return [self.part(program) for program in self.programs]

    def entitled(self) -> list[float]:
        """What the policy says each is due if all have work, in percent."""
        return [self.turns.policy.share_ppm(program.place) / 10_000 for program in self.programs]

    def throttled(self, program: Program) -> bool:
        return bool(self.turns.state.policy.tenant[program.place].throttled)

    def counters(self, program: Program) -> Any:
        """want, busy, waited_ns, turns, preempted, preempting."""
        return self.turns.state.tenant[program.place]

    def charged_ns(self, program: Program) -> int:
        return int(self.turns.state.policy.tenant[program.place].charged_ns)

    # ---- time ----

    def run(self, time_ns: int) -> None:
        until_ns = self.now_ns + time_ns
        self._settle()
        while self.now_ns < until_ns:
            self._pass_to(min(until_ns, self._next_event()))
            self._settle()

    def _next_event(self) -> int:
        busy = [program.left_ns for program in self.programs if program.queued]
        finish = self.now_ns + max(1, math.ceil(min(busy) * len(busy) - 0.01)) if busy else NEVER
        action = self._actions[0][0] if self._actions else NEVER
        return min(self.moment_ns, finish, action)

    def _pass_to(self, time_ns: int) -> None:
        passed_ns = time_ns - self.now_ns
        busy = [program for program in self.programs if program.queued]
        if not busy and any(program.would_launch and not self.throttled(program) for program in self.programs):
            self.wasted_ns += passed_ns
        self.now_ns = time_ns
        for program in busy:
            program.had_ns += passed_ns / len(busy)
            program.left_ns -= passed_ns / len(busy)
            if program.left_ns < 0.5:
                program.queued -= 1
                program.left_ns = program.load.kernel_ns

    def _settle(self) -> None:
        while self._actions and self._actions[0][0] <= self.now_ns:
            heapq.heappop(self._actions)[2]()
        for _ in range(100):
            changed = self._look()
            if not changed and self.now_ns < self.moment_ns:
                return
            self._advance()
            for program in changed:
                long_ns = max(0, program.load.kernel_ns - self.settings.quantum_ns) if program.queued else 0
                self.turns.observe(program.place, *program.seen, long_ns=long_ns)
            self.moment_ns = self.turns.decide()
            assert self.moment_ns > self.now_ns, "the machine wants to be called again at once"
            for program in self.programs:
                program.grant = self.turns.grant(program.place)
        raise AssertionError("the machine does not settle")

    def _look(self) -> list[Program]:
        """Programs launch what they may; returns those that want or run something else than before."""
        high = any(program.share.priority for program in self.programs)
        quantum_ns = self.settings.quantum_ns
        changed = []
        for program in self.programs:
            part = PRIORITY_QUEUE_PART if high and not program.share.priority else QUEUE_PART
            program.launch(self.now_ns, max(quantum_ns // part, QUEUE_LEAST_NS))
            now = program.would_launch, program.queued > 0
            if now != program.seen:
                program.seen = now
                changed.append(program)
        return changed

    def _advance(self) -> None:
        self.turns.advance(self.now_ns)

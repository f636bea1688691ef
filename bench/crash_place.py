"""Where storms of crashes happen: a card with an agent, and tenants whose processes are born to be killed."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Self

from bench.card_truth import CardTruth
from bench.machine import CGPU
from bench.own_agent import own_environment, start_agent
from cgpu.adapters.agent_client import AgentClient, tenant_path
from cgpu.errors import CgpuError
from cgpu.readable import readable
from cgpu.region.reader import RegionReader
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine

SECONDS: Final = 60.0
QUOTA: Final = 400 << 20
"""Two processes of clients/crash.c are refused now and then within it, on the simulated card of that profile."""
PROFILE: Final = "t4"
_PROBE_QUOTA: Final = 2 << 30
_PROBE_SECONDS: Final = 1.0
_LESS: Final = 128 << 20
"""Than what two processes hold at the most on another card, so that they are refused now and then."""
STEADY_US: Final = 1_000
"""How long a process rests after each call whose rate is compared: on a busy host too it then has a processor."""
POLL_SECONDS: Final = 0.002
SPIN: Final = files("cgpu.sim") / "spin.ptx"
_BOOK_BYTES: Final = 4096


class NotListedError(Exception):
    """The card's truth about tenants cannot be had here."""


class Book:
    """What a process says of itself at every instant, in a file that both have mapped (struct book)."""

    def __init__(self, path: Path) -> None:
        """Make the file."""
        self.path = path
        path.write_bytes(bytes(_BOOK_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _BOOK_BYTES)
        self._words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Unmap, and remove the file."""
        self._words.release()
        self._map.close()
        self.path.unlink(missing_ok=True)

    @property
    def calls(self) -> int:
        """Calls that have answered."""
        return int(self._words[0])

    @property
    def began_ns(self) -> int:
        """When the call began that has not answered; 0: there is none."""
        return int(self._words[1])

    @property
    def worst_ms(self) -> tuple[float, float]:
        """The longest call that waits for nothing, and the longest that may wait for a slot."""
        return int(self._words[2]) / 1e6, int(self._words[3]) / 1e6

    @property
    def ready(self) -> bool:
        """Whether it has its context."""
        return self._words[4] != 0

    @property
    def refused(self) -> int:
        """Answers of CUDA_ERROR_OUT_OF_MEMORY."""
        return int(self._words[5])

    def forget(self) -> None:
        """Begin the longest calls anew."""
        self._words[2] = self._words[3] = 0


class Child:
    """One process of a tenant."""

    def __init__(self, pid: int, book: Book | None) -> None:
        self.pid = pid
        self._book = book
        self._pidfd = os.pidfd_open(pid)

    @property
    def book(self) -> Book:
        """Of a process that keeps one."""
        assert self._book is not None
        return self._book

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; none when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> float:
        """End it at once; when it was dead, by the monotonic clock."""
        self.signal(signal.SIGKILL)
        readable(self._pidfd, SECONDS)
        return time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not readable(self._pidfd, 0)

    def close(self) -> None:
        """End it, if need be, and let its files go."""
        self.kill()
        os.close(self._pidfd)
        if self._book is not None:
            self._book.close()

    def wait_ready(self, seconds: float = SECONDS) -> bool:
        """Wait until it has its context; False when it does not get it in that time."""
        return eventually(lambda: self.book.ready or not self.alive, seconds) and self.book.ready


class Tenant:
    """A tenant of `cgpu run` whose first process starts others and uses no GPU itself."""

    _numbers = itertools.count()

    def __init__(self, place: Place, name: str, quota_bytes: int) -> None:
        """Start it, and wait until the agent knows it."""
        self._place = place
        self.name = name
        self.quota_bytes = quota_bytes
        self.pids: set[int] = set()
        self.said = place.folder / f"{name}.err"
        command = [
            *CGPU,
            "run",
            "--memory",
            f"{quota_bytes >> 20}MiB",
            "--name",
            name,
            "--",
            str(place.program),
            "breed",
        ]
        with self.said.open("w") as errors:
            self._process = subprocess.Popen(
                command, env=place.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self._children: list[Child] = []
        if not eventually(lambda: place.answer(tenant_path(name)) is not None or not self.alive) or not self.alive:
            raise SystemExit(f"bench.crashes: tenant {name}: {self.said.read_text()}")
        document = place.client.get(tenant_path(name))
        self.id = str(document["id"])
        self.region = Path(document["region"])
        self.reader = RegionReader(self.region)

    @property
    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._process.poll() is None

    def churn(self, pause_us: int = 0, *, grows: bool = False) -> Child:
        """Start a process that allocates, frees and launches."""
        book = Book(self._place.folder / f"book-{next(self._numbers)}")
        return self._spawn(f"churn {book.path} {pause_us} {SPIN} {'grow' if grows else ''}", book)

    def scribble(self, pattern: str) -> Child:
        """Start a process that writes to the tenant's usage file."""
        return self._spawn(f"scribble {self.region / 'usage'} {pattern}", None)

    def _spawn(self, words: str, book: Book | None) -> Child:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        self.pids = self.pids | {pid}
        self._children = [child for child in self._children if child.pid != pid]
        child = Child(pid, book)
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """A child has been closed."""
        self._children.remove(child)
        self.pids = self.pids - {child.pid}
        child.close()

    def charges_of(self, pid: int) -> bool:
        """Whether its region still has a slot of that process."""
        return any(slot.pid == pid for slot in self.reader.usage(1).slots)

    @property
    def used_bytes(self) -> int:
        """What its account says."""
        return self.reader.usage(1).gpus[0].used_bytes

    def close(self) -> None:
        """End all of it."""
        for child in tuple(self._children):
            self.forget(child)
        self._process.kill()
        self._process.communicate()
        self.reader.close()


class Place:
    """A context manager: ends all that it started."""

    def __init__(self, program: Path, runtime_dir: Path | None = None, profile: str | None = PROFILE) -> None:
        """``program``: the compiled client; ``runtime_dir``: where the agent works, if not in a folder of its own.

        ``profile`` None: the real card, on which nobody else may come or go meanwhile.
        """
        self.program = program
        self._profile = profile
        self.quota_bytes = QUOTA
        self.folder = Path(tempfile.mkdtemp(prefix="cgpu-crash-"))
        self._runtime_dir = runtime_dir
        self.log = self.folder / "agent.log"
        self.agent: subprocess.Popen[bytes] | None = None
        self.tenants: list[Tenant] = []

    def __enter__(self) -> Self:
        machine = SimMachine.create(self.folder / "machine", self._profile) if self._profile else None
        self.card = CardTruth(machine)
        self.environment = own_environment(self.folder, machine, self._runtime_dir)
        self.settings = Settings.from_environment(self.environment)
        self.client = AgentClient(self.settings.agent_socket, SECONDS)
        self.start_agent()
        if self._profile != PROFILE:
            self.quota_bytes = self._fitting_quota()
        return self

    def __exit__(self, *_: object) -> None:
        for tenant in self.tenants:
            tenant.close()
        self.card.close()
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
        shutil.rmtree(self.folder)

    def tenant(self, name: str, quota_bytes: int = 0) -> Tenant:
        """Start a tenant; 0: of ``quota_bytes`` of this place."""
        self.tenants.append(Tenant(self, name, quota_bytes or self.quota_bytes))
        return self.tenants[-1]

    def _fitting_quota(self) -> int:
        """One within which two processes at work are refused now and then: contexts differ in size by card."""
        tenant = self.tenant("probe", _PROBE_QUOTA)
        child = tenant.churn(STEADY_US)
        if not child.wait_ready():
            raise SystemExit(f"bench.crashes: no context: {tenant.said.read_text()}")
        most, deadline = 0, time.monotonic() + _PROBE_SECONDS
        while time.monotonic() < deadline:
            most = max(most, self.held_by_pid().get(child.pid, 0))
            time.sleep(POLL_SECONDS)
        self.end(tenant)
        if not most:
            raise NotListedError("NVML does not list this process's children: it needs the host's PID namespace")
        return 2 * most - _LESS

    def end(self, tenant: Tenant) -> None:
        """End a tenant before its time."""
        self.tenants.remove(tenant)
        tenant.close()

    def start_agent(self) -> None:
        """Start an agent, and wait until it answers."""
        self.agent = start_agent(self.environment, self.log)

    def kill_agent(self) -> None:
        """End the agent at once; the tenants run on."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()

    def answer(self, path: str) -> Any:
        """What the agent answers; None when it does not, or knows no such thing."""
        try:
            return self.client.get(path)
        except CgpuError:
            return None

    def held_by_pid(self) -> dict[int, int]:
        """The card's truth."""
        return self.card.by_pid()

    def cgpu(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``cgpu`` to its end."""
        return subprocess.run([*CGPU, *words], env=self.environment, text=True, capture_output=True, timeout=SECONDS)


def eventually(condition: Any, seconds: float = SECONDS) -> bool:
    """Wait for what another process is about to do; whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


@contextlib.contextmanager
def stopped(child: Child) -> Iterator[None]:
    """The process stands still meanwhile."""
    child.signal(signal.SIGSTOP)
    try:
        eventually(lambda: _state(child.pid) in "TZX", 1.0)
        yield
    finally:
        child.signal(signal.SIGCONT)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"

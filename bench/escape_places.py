"""Where attempts are made: below a bare `cgpu run`, on a simulated or the real card, and in containers.

On a real card whoever was there before (a desktop) is left out of the card's truth.

A place starts a tenant's process and tells, of everything that runs there, the charge and the card's truth.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

from bench.card_truth import CardTruth
from bench.escape_table import CONTAINER, DRIVER, RUN, Attempt
from bench.machine import CGPU, CLIENTS
from bench.own_agent import own_environment, start_agent
from cgpu.adapters.agent_client import AgentClient
from cgpu.adapters.native import SIMULATED_CUDA, native_library
from cgpu.errors import CgpuError
from cgpu.region.reader import RegionReader
from cgpu.settings import Settings
from cgpu.sim.machine import SimMachine
from native import build
from tests.e2e.engines import Runc
from tests.e2e.host import Host
from tests.e2e.node import Node
from tests.e2e.wanted import Volume, Wanted
from tests.native import memory_tenant, sim_machine
from tests.native.c_compiler import compile_c

MIB: Final = 1 << 20
QUOTA_BYTES: Final = 2048 * MIB
"""A context of a large card takes up to 600 MiB: room for several, and for what is tried beside them."""
QUOTA: Final = f"{QUOTA_BYTES // MIB}MiB"
ASKED_BYTES: Final = 2560 * MIB
SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 1.0
HELD_SECONDS: Final = 10.0
"""For so long at most the agent, which measures twice a second, may take to charge what has to be held."""
"""In which what is found may still be corrected: a descriptor's last close, an estimate of the agent's."""
ENDED: Final = "ended, refused"


@dataclass(frozen=True)
class Programs:
    """The clients and what they use, compiled below one folder."""

    folder: Path
    missing: frozenset[str] = frozenset()
    """Names of what cannot be made on this machine."""

    @classmethod
    def make(cls, folder: Path, simulated: bool) -> Self:
        """Compile all of it; on a simulated card also what goes below its driver."""
        folder.mkdir(parents=True, exist_ok=True)
        # Linked to the simulated driver, which has all names; a real one may lack some that are never called then.
        found = f"-L{native_library(SIMULATED_CUDA).parent}"
        driver = [found, "-l:libcuda.so.1", "-Wl,--allow-shlib-undefined", "-Wl,-z,lazy"]
        rows = sorted((build.ROOT / "tests" / "native" / "clients").glob("rows*.c"))
        compile_c(folder / "rows", rows, libraries=driver)
        source = [CLIENTS / "escapes.c"]
        compile_c(folder / "client", source, libraries=["-pthread"])
        compile_c(folder / "plugin.so", source, flags=["-DPLUGIN"], shared=True)
        missing = set()
        if simulated:
            sim_machine.build_holder(folder)
            try:
                card = sorted((build.NATIVE / "simgpu").glob("card*.c"))
                compile_c(folder / "static", [sim_machine.HOLDER, *card], flags=["-static"])
            except AssertionError:  # this machine's compiler has no static C library
                missing.add("static")
            image = native_library(SIMULATED_CUDA).read_bytes()
            (folder / "copied").write_bytes(image)
            (folder / "renamed").write_bytes(image.replace(b"libcuda.so.1\0", b"libcudb.so.1\0"))
        return cls(folder, frozenset(missing))


class Place(Protocol):
    """A kind of tenant that attempts are made by."""

    name: str

    @property
    def tools(self) -> Mapping[str, str]:
        """Paths by the words that stand for them in a trick's command."""

    def start(self, command: Sequence[str]) -> Running:
        """Start a command as a tenant of QUOTA_BYTES."""

    def charged_bytes(self) -> int:
        """To all tenants there are."""

    def truth_bytes(self) -> int:
        """What the card holds for everybody."""


@dataclass
class Running:
    """A tenant's first process, its output in files."""

    process: subprocess.Popen[str]
    output: Path

    def answer(self) -> int | str:
        """The first line that it writes, as a number; or that it has ended, perhaps in its own words."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            for line in self.output.read_text(errors="replace").splitlines(keepends=True):
                word = line.strip()
                if line.endswith("\n") and (word == "ready" or word.lstrip("-").isdigit()):
                    return 0 if word == "ready" else int(word)
            if ended:
                return ENDED
            time.sleep(0.01)
        return "no answer"

    def end(self) -> None:
        """Let it end, and with it what it has started."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def attempt(place: Place, way: str, command: Sequence[str], asked_bytes: int, below: str) -> Attempt:
    """Try one way to its end, and leave the place empty again."""
    running = place.start([word.format(**place.tools) for word in command])
    try:
        answer = running.answer()
        charged, truth = settled(place, SETTLE_SECONDS if below else HELD_SECONDS)
    finally:
        running.end()
        eventually_empty(place)
    return Attempt(place.name, way, "", asked_bytes, answer, charged, truth, QUOTA_BYTES, below)


def settled(place: Place, seconds: float = SETTLE_SECONDS) -> tuple[int, int]:
    """The charge and the truth, looked at until they agree or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        truth, charged = place.truth_bytes(), place.charged_bytes()
        if truth <= charged or time.monotonic() > deadline:
            return charged, truth
        time.sleep(0.01)


def eventually_empty(place: Place) -> None:
    """Wait until nobody is on the card and no tenant is left."""
    deadline = time.monotonic() + SECONDS
    while place.truth_bytes() or place.charged_bytes():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench.escapes: {place.name}: something is left on the card")
        time.sleep(0.01)


def of_tenants(folder: Path) -> int:
    """The charge to all tenants of an agent, by their regions in its folder of tenants."""
    total = 0
    for region in folder.iterdir() if folder.is_dir() else ():
        try:
            reader = RegionReader(region)
        except (CgpuError, OSError):  # it is just made, or goes
            continue
        with contextlib.closing(reader):
            granted = reader.grants().gpus
            total += sum(used.used_bytes for used in reader.usage(len(granted)).gpus)
            total += sum(gpu.overhead_bytes for gpu in granted)
    return total


@dataclass
class Bare:
    """Tenants of `cgpu run` with an agent of their own. A context manager."""

    programs: Programs
    profile: str | None
    """None: the real card."""
    name: str = RUN
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cgpu-esc-")))
    started: int = 0

    def __enter__(self) -> Self:
        self.machine = SimMachine.create(self.folder / "machine", self.profile) if self.profile else None
        self.environment = own_environment(self.folder, self.machine)
        settings = Settings.from_environment(self.environment)
        self._tenants = settings.tenants_dir
        self._truth = CardTruth(self.machine)
        self.client = AgentClient(settings.agent_socket, SECONDS)
        made = {path.name.replace(".", "_"): str(path) for path in self.programs.folder.iterdir()}
        self.tools = {
            **made, "python": sys.executable, "unshare": "unshare", "run": str(settings.runtime_dir),
            "folder": str(self.folder), "uuid": self._truth.uuid,
        }  # fmt: skip
        self._agent = start_agent(self.environment, self.folder / "log")
        return self

    def __exit__(self, *_: object) -> None:
        self._agent.terminate()
        self._agent.wait()
        self._truth.close()
        shutil.rmtree(self.folder)

    def start(self, command: Sequence[str]) -> Running:
        self.started += 1
        output = self.folder / f"out-{self.started}"
        with output.open("w") as out:
            process = subprocess.Popen(
                [*CGPU, "run", "--memory", QUOTA, "--", *command],
                env=self.environment, text=True, stdin=subprocess.PIPE, stdout=out, stderr=out,
            )  # fmt: skip
        return Running(process, output)

    def tenant(self, command: Sequence[str]) -> memory_tenant.Client:
        """The same for a process that obeys lines."""
        process = subprocess.Popen(
            [*CGPU, "run", "--memory", QUOTA, "--", *command],
            env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return memory_tenant.Client(process)

    def charged_bytes(self) -> int:
        return of_tenants(self._tenants)

    def truth_bytes(self) -> int:
        return self._truth.total_bytes()


@dataclass
class Container:
    """Containers of runc behind cgpu-runtime, on a simulated card."""

    host: Host
    node: Node
    rootfs: Path
    programs: Programs
    name: str = CONTAINER
    started: int = 0

    def __post_init__(self) -> None:
        for name in ("bare", "escapes"):
            (self.rootfs / name).mkdir(exist_ok=True)
        # Without a cgroup namespace, as the simulated driver knows a cgroup in a bare root by its path alone.
        self._runc = Runc(self.host, self.node.runtime, self.rootfs, copies=False, cgroup_namespace=False)
        made = {path.name.replace(".", "_"): f"/escapes/{path.name}" for path in self.programs.folder.iterdir()}
        self.tools = {
            **made, "python": "/escapes/python", "unshare": "busybox unshare", "run": "/.cgpu", "folder": "/tmp",
            "uuid": self.node.machine.status().cards[0].uuid,
        }  # fmt: skip

    def start(self, command: Sequence[str]) -> Running:
        self.started += 1
        name = f"{self.node.name}-{self.started}"
        required = {"CGPU_REQUIRE_LAYER": "driver"} if self.name == DRIVER else {}
        volumes = (
            Volume(self.programs.folder, "/escapes"),
            Volume(self.rootfs, "/bare"),
            Volume(Path("/proc"), "/bare/proc"),
            Volume(self.programs.folder, "/bare/escapes"),
            Volume(native_library(SIMULATED_CUDA).parent, "/bare/sim"),
            Volume(self.node.machine.folder, "/bare/machine", writable=True),
        )
        wanted = Wanted(tuple(command), {"CGPU_MEMORY": QUOTA, **required}, volumes)
        process = self._runc.begin_run(name, wanted)
        return Running(process, self.host.folder / "bundles" / name / "log")

    def charged_bytes(self) -> int:
        return of_tenants(self.node.settings.tenants_dir)

    def truth_bytes(self) -> int:
        return self.node.used_bytes()


@contextlib.contextmanager
def containers(programs: Programs, rootfs_of: Path | None = None) -> Iterator[list[Container]]:
    """Both places with containers: a driver without limits, and one that has them.

    Raises MissingToolError where the engine's programs are missing.
    """
    from tests.e2e import image, tools

    tools.root_with_namespaces()
    for name in ("busybox", "ip", "runc"):
        tools.program(name)
    with Host() as host:
        rootfs = rootfs_of or image.make_rootfs(host.folder / "image")
        with Node(host) as plain, Node(host, driver="615.10", name="cgpu-615") as limiting:
            yield [
                Container(host, plain, rootfs, programs),
                Container(host, limiting, rootfs, programs, name=DRIVER),
            ]

"""One version takes over from another on a host of one's own, under systemd and without, while a tenant computes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cgpu
from bench.load import Load
from bench.machine import compile_client
from cgpu.sim.machine import SimMachine
from cgpu.sim.status import MachineStatus
from tests.integration.own_host import MACHINE, PYTHON, SYSTEMD, OwnHost, another_version, eventually, needed

pytestmark = pytest.mark.timeout(300)

LATER = "99.0.0"
KERNEL_NS = 10_000_000
BUSY = 0.7  # of the card's time, by one tenant that always has work, beside an upgrade that takes processors from it
PAUSE_S = 0.4  # on a machine with four times the work that it can do 0.08 s were seen
LOOK_S = 0.05
LATE = 3  # a look that comes after so many times that
BROKEN = {"agent/main.py": ("    agent.run(", '    raise StateError("a planted mistake")\n    agent.run(')}
FOREIGN = {"region/layout.py": ("CGPU_REGION_MAJOR: Final = 1", "CGPU_REGION_MAJOR: Final = 2")}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client("load", tmp_path_factory.mktemp("clients"))


@pytest.fixture(params=["systemd", "by hand"])
def host(request: pytest.FixtureRequest) -> Iterator[OwnHost]:
    """A host with this version installed, and its agent."""
    systemd = request.param == "systemd"
    needed("unshare", "nsenter", "pgrep", *([SYSTEMD, "systemctl"] if systemd else []))
    with OwnHost.temporary(systemd=systemd) as host:
        host.before = host.files()
        said = host.cgpu("install")
        if systemd:
            assert "start cgpu-agent.service" in said
        else:
            assert "systemd does not run here" in said
            host.run("sh", "-c", "/opt/cgpu/current/bin/cgpu agent >/run/log 2>&1 &")
            eventually(lambda: host.agent() is not None)
        yield host


class Computing:
    """What the card did for a tenant while something else happened."""

    def __init__(self, machine: SimMachine) -> None:
        self._machine = machine
        self._looks: list[tuple[int, int]] = []  # time and busy time, ns
        self._end = threading.Event()

    def _look(self) -> None:
        while not self._end.wait(LOOK_S):
            status: MachineStatus = self._machine.status()
            self._looks.append((status.time_ns, status.cards[0].busy_ns))

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    @property
    def busy(self) -> float:
        """Of the whole time."""
        (start, before), (end, after) = self._looks[0], self._looks[-1]
        return (after - before) / (end - start)

    @property
    def longest_pause_s(self) -> float:
        """The longest time in which it stood still from look to look. Where nobody looked, the machine did."""
        longest = pause = 0
        for (then, before), (now, worked) in itertools.pairwise(self._looks):
            idle = (now - then) - (worked - before)
            if now - then > LATE * LOOK_S * 1e9:
                continue
            pause = pause + idle if 2 * idle > now - then else 0
            longest = max(longest, pause)
        return longest / 1e9


def busy_tenant(host: OwnHost, program: Path) -> Load:
    load = host.tenant(program)
    load.run("plain", KERNEL_NS, 0)
    return load


def end(host: OwnHost, load: Load) -> None:
    """Nothing failed in it, and it goes in order."""
    load.end()
    assert load.launches() > 0
    load.close()
    eventually(lambda: host.json("ps") == [])


def place(host: OwnHost, change: dict[str, tuple[str, str]] | None = None) -> str:
    """Another version's source, on the host."""
    another_version(host.root / "run/later", LATER, change)
    return "/run/later"


def upgraded(host: OwnHost, source: str, code: int = 0) -> str:
    return host.cgpu("upgrade", source=source, code=code)


@pytest.mark.timing
def test_a_tenant_computes_through_an_upgrade_and_nothing_is_left_in_the_end(host: OwnHost, program: Path):
    source = place(host)
    load = busy_tenant(host, program)
    tenants = host.json("ps")
    libraries = {path.name: path.stat().st_ino for path in (host.root / "run/cgpu").rglob("lib/*")}
    assert "/cgpu-" in tenants[0]["cgroup"]  # a leaf of its own, which the agent has made
    (pid,) = host.pids("load")
    old = host.agent()
    assert old is not None
    computing = Computing(SimMachine(host.root / MACHINE.lstrip("/")))
    with computing.watched():
        said = upgraded(host, source)
    new = host.agent()
    assert new is not None
    assert (old["version"], new["version"]) == (cgpu.__version__, LATER)
    assert new["pid"] != old["pid"]
    assert "tenants as before: 1" in said
    assert "kept for the tenants that run" in said
    assert [row["id"] for row in host.json("ps")] == [row["id"] for row in tenants]
    assert host.pids("load") == [pid]
    assert computing.busy >= BUSY
    assert computing.longest_pause_s < PAUSE_S

    # Its library is the one that it began with, though the new version has another; a new tenant gets that one.
    assert {path.name: path.stat().st_ino for path in (host.root / "run/cgpu").rglob("lib/*")} == libraries
    host.run("/usr/local/bin/cgpu", "run", "--memory", "1GiB", "--", "true")
    assert len(list((host.root / "run/cgpu").rglob("lib/*"))) == len(libraries) + 1

    assert "tenants run here (1): " in host.cgpu("uninstall", source=source, code=3)
    end(host, load)
    assert cgpu.__version__ in upgraded(host, source)  # removes the old version, which nobody needs any more
    assert "nothing to do" in upgraded(host, source)
    assert len(list((host.root / "opt/cgpu").iterdir())) == 2
    host.cgpu("uninstall", "--purge", source=source)
    assert host.agent() is None
    assert host.files() == host.before


@pytest.mark.timing
@pytest.mark.parametrize("host", ["systemd"], indirect=True)
def test_a_container_computes_through_an_upgrade(host: OwnHost, program: Path):
    needed("runc")
    source = place(host)
    installed = ("/usr/local/bin/cgpu", "runtime")
    install = host.run(*installed, "install", "--engine", "docker", "--real-runtime", shutil.which("runc") or "")
    assert install.returncode == 0, install.stdout
    load = host.container(program, "one")
    load.run("plain", KERNEL_NS, 0)
    (pid,) = host.pids("load")
    computing = Computing(SimMachine(host.root / MACHINE.lstrip("/")))
    with computing.watched():
        upgraded(host, source)
    assert host.pids("load") == [pid]
    assert computing.busy >= BUSY
    assert computing.longest_pause_s < PAUSE_S
    other = host.container(program, "two")  # made by the new version, with its shim
    shims = {path: shim_of(host, path) for path in host.pids("load")}
    assert len(set(shims.values())) == len(shims) == 2
    other.close()
    end(host, load)
    assert "cgpu runtime uninstall --engine docker" in host.cgpu("uninstall", source=source, code=3)
    host.run(*installed, "uninstall", "--engine", "docker")
    host.cgpu("uninstall", "--purge", source=source)
    assert host.files() == host.before


def shim_of(host: OwnHost, pid: int) -> str:
    """The library of ours that a process has loaded."""
    maps = (host.root / "proc" / str(pid) / "maps").read_text()
    (shim,) = {line.split()[-1] for line in maps.splitlines() if "/libcgpu-" in line}
    return shim


def test_a_version_that_does_not_start_leaves_the_old_one_at_work(host: OwnHost, program: Path):
    source = place(host, BROKEN)
    load = busy_tenant(host, program)
    before = host.files()
    said = upgraded(host, source, code=4)
    assert "a planted mistake" in said
    assert "runs again" in said
    agent = host.agent()
    assert agent is not None
    assert (agent["version"], agent["tenants"]) == (cgpu.__version__, 1)
    assert (host.root / "opt/cgpu/current").readlink().name.startswith(f"{cgpu.__version__}-")
    assert {name for name in host.files() - before if "/agent.log" not in name} == {
        name for name in host.files() if name.startswith(f"/opt/cgpu/{LATER}-")
    }
    end(host, load)


def test_a_version_with_another_layout_is_refused_before_anything_is_changed(host: OwnHost, program: Path):
    source = place(host, FOREIGN)
    load = busy_tenant(host, program)
    before, agent = host.files(), host.agent()
    said = upgraded(host, source, code=3)
    assert "layout version 1" in said
    assert "nothing was changed" in said
    assert host.files() == before
    assert host.agent() == agent
    end(host, load)


def test_with_force_a_tenant_runs_on_without_an_installation_until_its_end(host: OwnHost, program: Path):
    load = busy_tenant(host, program)
    assert "kept for them" in host.cgpu("uninstall", "--force")
    assert host.agent() is None
    assert not (host.root / "usr/local/bin/cgpu").is_symlink()
    load.end()
    assert load.launches() > 0
    load.close()
    eventually(lambda: not host.pids("load"))
    host.cgpu("uninstall", "--purge")
    assert host.files() == host.before


@pytest.mark.parametrize("host", ["systemd"], indirect=True)
def test_an_agent_that_is_killed_comes_back(host: OwnHost):
    agent = host.agent()
    assert agent is not None
    host.run("kill", "-KILL", str(agent["pid"]))

    def is_back() -> bool:
        now = host.agent()
        return now is not None and now["pid"] != agent["pid"]

    eventually(is_back)


@pytest.mark.parametrize("host", ["systemd"], indirect=True)
def test_an_agent_that_systemd_did_not_start_is_left_alone(host: OwnHost):
    host.run("systemctl", "stop", "cgpu-agent")
    assert host.agent() is None
    source = place(host)
    assert "no agent runs, so none was restarted" in upgraded(host, source)  # somebody has stopped it
    host.run("sh", "-c", "/usr/local/bin/cgpu agent >/run/log 2>&1 &")
    eventually(lambda: host.agent() is not None)
    for verb in ("install", "upgrade"):
        assert "an agent that systemd did not start runs here" in host.cgpu(verb, source=source, code=3)


def slow_end(host: OwnHost) -> None:
    """The agent's service does not end before there is /run/go."""
    slow = host.root / "etc/systemd/system/cgpu-agent.service.d/slow.conf"
    slow.parent.mkdir()
    slow.write_text("[Service]\nExecStopPost=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.05; done'\n")
    host.run("systemctl", "daemon-reload")


@pytest.mark.parametrize("host", ["systemd"], indirect=True)
def test_an_upgrade_that_was_killed_is_finished_by_the_next(host: OwnHost, program: Path):
    source = place(host)
    load = busy_tenant(host, program)
    slow_end(host)  # so that it is there when it is to be killed
    environment = {**host.environment, "PYTHONPATH": source}
    process = subprocess.Popen(host.inside(PYTHON, "-m", "cgpu", "upgrade"), env=environment)
    link = host.root / "opt/cgpu/current"
    eventually(lambda: link.readlink().name.startswith(LATER))
    (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    process.wait()
    (host.root / "run/go").touch()
    upgraded(host, source)
    agent = host.agent()
    assert agent is not None
    assert (agent["version"], agent["tenants"]) == (LATER, 1)
    end(host, load)


@pytest.mark.parametrize("host", ["systemd"], indirect=True)
def test_an_agent_that_is_just_restarting_is_not_taken_for_a_stopped_one(host: OwnHost):
    source = place(host)
    slow_end(host)
    host.run("systemctl", "restart", "--no-block", "cgpu-agent")
    state = ("systemctl", "show", "--property", "ActiveState", "--value", "cgpu-agent")
    eventually(lambda: host.run(*state).stdout.strip() == "deactivating" and host.agent() is None)
    environment = {**host.environment, "PYTHONPATH": source}
    process = subprocess.Popen(host.inside(PYTHON, "-m", "cgpu", "upgrade"), env=environment)
    link = host.root / "opt/cgpu/current"
    eventually(lambda: link.readlink().name.startswith(LATER))
    (host.root / "run/go").touch()
    assert process.wait() == 0
    agent = host.agent()
    assert agent is not None
    assert agent["version"] == LATER

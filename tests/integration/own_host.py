"""A host of one's own to install on: nothing that its processes do to files, systemd included, leaves it.

Its root folder is an overlay: the machine's files are below it, read-only, and what is written lies in memory.
/run, /tmp, /var/tmp and the folder of units are empty at first, /dev has no disk, /sys and /proc/sys are
read-only. Its processes have their own mounts, PIDs and cgroups. Its first process is systemd, where that is
wanted, and then knows no unit but those that a test or `cgpu install` brings: the machine's own would do to
it what they do at its start, such as emptying /tmp.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import pytest

import cgpu
from bench.load import Load
from tests.e2e.bundle import config
from tests.e2e.wanted import Volume, Wanted

SECONDS: Final = 120.0
SYSTEMD: Final = "/lib/systemd/systemd"
MACHINE: Final = "/run/machine"
UNITS: Final = "/etc/systemd/system"
_SOURCE: Final = Path(cgpu.__file__).parents[1]
_ENVIRONMENT: Final = Path(sys.prefix).resolve()
PYTHON: Final = str(_ENVIRONMENT / "bin" / "python")
_NAMESPACES: Final = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
# In a cgroup of its own first, which is then all that the cgroup namespace shows.
_ENTER_CGROUP: Final = """
mount -t tmpfs tmpfs "$2"
mkdir "$2/cgroup"
mount -t cgroup2 none "$2/cgroup"
mkdir "$2/cgroup/$1"
echo $$ >"$2/cgroup/$1/cgroup.procs"
umount "$2/cgroup"
exec unshare --cgroup sh -euc "$4" own-host "$@"
"""
# $1: the cgroup; $2: an empty folder; $3: the source folder of cgpu; $5: the virtual environment.
_ENTER_ROOT: Final = f"""
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$2/upper,workdir=$2/work" "$2/root"
mkdir "$2/source" "$2/python"
mount --bind -o ro "$3" "$2/source"
mount --bind -o ro "$5" "$2/python"
cd "$2/root"
mount -t proc proc proc
mount --bind -o ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mkdir -p etc/systemd/system
for folder in dev run tmp var/tmp etc/systemd/system; do
  mount -t tmpfs tmpfs "$folder"
done
mkdir dev/shm run/lock run/old
for device in null zero full random urandom; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
mkdir -p "./$3" "./$5"
mount --move "$2/source" "./$3"
mount --move "$2/python" "./$5"
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
for target in sysinit basic shutdown multi-user bare; do
  printf '[Unit]\\nDefaultDependencies=no\\n' >{UNITS}/$target.target
done
exec </dev/null
mkdir /sys/fs/cgroup/session
touch /run/ready
"""
# What is run on the host is in a cgroup of it too, as behind a login; nsenter changes the view alone.
_LOG_IN: Final = ("sh", "-euc", 'echo $$ >/sys/fs/cgroup/session/cgroup.procs; exec "$@"', "own-host")
_FIRST: Final = {
    False: "trap '' CHLD; exec sleep infinity",  # children of nobody do not stay zombies
    True: f"exec env --ignore-environment container=test SYSTEMD_UNIT_PATH={UNITS} SYSTEMD_GENERATOR_PATH=/run/none"
    f" PATH=/usr/sbin:/usr/bin:/sbin:/bin {SYSTEMD} --system --unit=bare.target --log-target=null",
}


def needed(*programs: str) -> None:
    """Skip, or in CI fail, where one of the programs is not installed, or the user is not root."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {', '.join(missing)}")


def another_version(folder: Path, version: str, change: dict[str, tuple[str, str]] | None = None) -> Path:
    """The source folder of another cgpu: its version, another shim, and texts replaced in named files."""
    shutil.copytree(_SOURCE / "cgpu", folder / "cgpu", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in {"__init__.py": (cgpu.__version__, version), **(change or {})}.items():
        file = folder / "cgpu" / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
    with (folder / "cgpu" / "_native" / "libcgpu.so").open("ab") as shim:
        shim.write(version.encode())  # behind the last section: another content, the same code
    return folder


class OwnHost:
    """The host, with a simulated T4, on which its commands are put by their variables."""

    def __init__(self, folder: Path, *, systemd: bool) -> None:
        """``folder``: an empty one."""
        self._folder = folder
        self._cgroup = f"cgpu-own-host-{os.getpid()}-{folder.name}"
        self._systemd = systemd
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environment = {**kept, "PYTHONPATH": str(_SOURCE), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}
        self._loads: list[Load] = []
        self.before: set[str] = set()  # the files of an empty host, for tests that compare

    @classmethod
    @contextmanager
    def temporary(cls, *, systemd: bool) -> Iterator[Self]:
        """In a folder that goes with it."""
        with tempfile.TemporaryDirectory(prefix="cgpu-host-") as folder, cls(Path(folder), systemd=systemd) as host:
            yield host

    def __enter__(self) -> Self:
        script = _ENTER_ROOT + _FIRST[self._systemd]
        shell = ["sh", "-euc", _ENTER_CGROUP, "own-host", self._cgroup, str(self._folder), str(_SOURCE), script]
        shell.append(str(_ENVIRONMENT))
        self._holder = subprocess.Popen([*_NAMESPACES, "--propagation", "private", *shell])
        try:
            eventually(self._is_ready)
            if self._systemd:
                eventually(lambda: self.run("systemctl", "is-system-running").stdout.strip() == "running")
            self.cgpu("sim", "create", "t4", "--state", MACHINE)
            self.environment |= json.loads(self.cgpu("sim", "env", MACHINE, "--json"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for load in self._loads:
            load.kill()
        self._holder.kill()  # and with it, by --kill-child, the first process and all others
        self._holder.communicate()
        eventually(self._remove_cgroup)

    def _remove_cgroup(self) -> bool:
        """Of folders in a hierarchy of cgroups nothing but the folders themselves can be removed."""
        script = 'mount -t cgroup2 none "$1" && cd "$1" && [ ! -d "$2" ] || find "$2" -depth -type d -exec rmdir {} +'
        with tempfile.TemporaryDirectory() as mount:
            command = ["unshare", "--mount", "sh", "-c", script, "clean", mount, self._cgroup]
            return subprocess.run(command, capture_output=True).returncode == 0

    @property
    def root(self) -> Path:
        """The host's root folder, from outside."""
        return Path(f"/proc/{self._first}/root")

    @property
    def _first(self) -> int:
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        return int(children[0])

    def _is_ready(self) -> bool:
        assert self._holder.poll() is None, "the namespaces cannot be made"
        try:
            return (self.root / "run" / "ready").exists()
        except (IndexError, OSError):
            return False

    def inside(self, *command: str) -> list[str]:
        """The command that runs a command on the host."""
        target = f"--target={self._first}"
        return [
            "nsenter",
            target,
            "--mount",
            "--pid",
            "--cgroup",
            "--ipc",
            "--uts",
            "--root",
            "--wd",
            *_LOG_IN,
            *command,
        ]

    def run(self, *command: str, source: str = str(_SOURCE)) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``source``: folder, on the host, of the cgpu that Python is to find."""
        environment = {**self.environment, "PYTHONPATH": source}
        with tempfile.TemporaryFile("w+") as out:  # a pipe would be kept by an agent in the background
            ended = subprocess.run(
                self.inside(*command), env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True,
                timeout=SECONDS, check=False,
            )  # fmt: skip
            out.seek(0)
            return subprocess.CompletedProcess(command, ended.returncode, out.read())

    def cgpu(self, *arguments: str, source: str = str(_SOURCE), code: int = 0) -> str:
        """Run `cgpu` from a source folder; what it says, errors included. Another exit code fails the test."""
        result = self.run(PYTHON, "-m", "cgpu", *arguments, source=source)
        assert result.returncode == code, result.stdout
        return result.stdout

    def json(self, *arguments: str) -> Any:
        """Run `cgpu ... --json`."""
        return json.loads(self.cgpu(*arguments, "--json"))

    def agent(self) -> dict[str, Any] | None:
        """What the agent says of itself; None where none answers."""
        answer: dict[str, Any] | None = self.json("info")["agent"]
        return answer

    def tenant(self, program: Path) -> Load:
        """A client of bench/clients/load.c, as a tenant."""
        place = self.root / "run" / "load"
        if not place.exists():
            shutil.copy(program, place)
        run = (PYTHON, "-m", "cgpu", "run", "--memory", "1GiB", "--name", "load", "--", "/run/load")
        load = Load(self.inside(*run), self.environment)
        self._loads.append(load)
        load.wait_ready()
        return load

    def container(self, program: Path, name: str) -> Load:
        """The same client in a container of runc below the runtime that is installed for Docker."""
        bundle = self.root / "run" / name
        rootfs = bundle / "rootfs"
        rootfs.mkdir(parents=True)
        for folder in ("etc", "usr", "run"):
            (rootfs / folder).mkdir()
        for link in ("bin", "lib", "lib64"):
            (rootfs / link).symlink_to(f"usr/{link}")
        shutil.copy(program, rootfs / "load")
        wanted = Wanted(("/load",), {"CGPU_MEMORY": "1GiB", "CGPU_NAME": name}, volumes=(Volume(Path("/usr"), "/usr"),))
        configuration = config(name, Path(f"/run/{name}/rootfs"), wanted, cgroup_namespace=True)
        (bundle / "config.json").write_text(json.dumps(configuration))
        runtime = "/usr/local/lib/cgpu/docker/cgpu-runtime"
        load = Load(self.inside(runtime, "run", "--bundle", f"/run/{name}", name), self.environment)
        self._loads.append(load)
        load.wait_ready()
        return load

    def pids(self, command: str) -> list[int]:
        """Processes of the host by their short name, as they are called here."""
        return [int(word) for word in self.run("pgrep", "--exact", command).stdout.split()]

    def files(self) -> set[str]:
        """All files, links and empty folders where an installation or an agent may leave something."""
        found = self.run(
            "find", "/etc/cgpu", UNITS, "/opt", "/usr/local/bin", "/usr/local/lib/cgpu", "/run/cgpu", "/run/lock",
            "(", "-not", "-type", "d", "-o", "-empty", ")", "-print",
        )  # fmt: skip
        return {line for line in found.stdout.splitlines() if line.startswith("/")}


def eventually(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for what another process is about to do; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)

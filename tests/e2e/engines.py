"""Real container engines on a host of one's own, behind the few verbs that the tests need.

Each uses the runtime that it is told to: runc, or cgpu-runtime around it. No engine has a network.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

from tests.e2e import image
from tests.e2e.bundle import add_user_namespace, config
from tests.e2e.host import Host, Process, eventually
from tests.e2e.tools import SEARCHED, program
from tests.e2e.wanted import Result, Wanted

_BASE_ENVIRONMENT: Final = {"PATH": SEARCHED, "HOME": "/root", "LANG": "C.UTF-8"}
RUNTIME: Final = "cgpu"
"""The name of the wrapped runtime in Docker's configuration."""


class Engine(Protocol):
    """What the tests ask of an engine. Containers are known by the name they were given."""

    def run(self, name: str, wanted: Wanted) -> Result:
        """Run a container to its end and remove it."""

    def start(self, name: str, wanted: Wanted) -> Result:
        """Start a container and leave it."""

    def execute(self, name: str, *command: str) -> Result:
        """Run a command in a running container."""

    def pid(self, name: str) -> int:
        """The container's first process, as the host sees it."""

    def kill(self, name: str) -> Result:
        """Kill the container's first process, as the engine does it."""

    def remove(self, name: str) -> Result:
        """Remove a container, running or not."""


def options(wanted: Wanted, annotation: str) -> list[str]:
    """The options of `docker run` and `podman run`."""
    found = ["--network=none", f"--user={wanted.user}"]
    for name, value in wanted.env.items():
        found += ["--env", f"{name}={value}"]
    for volume in wanted.volumes:
        found += ["--volume", f"{volume.source}:{volume.destination}{'' if volume.writable else ':ro'}"]
    for name, value in wanted.annotations.items():
        found += [annotation, f"{name}={value}"]
    if wanted.memory_bytes is not None:
        found.append(f"--memory={wanted.memory_bytes}")
    return found + [f"--device={name}" for name in wanted.devices]


class _RunsOrDetaches:
    """An engine whose ``run`` has an option for either."""

    def run(self, name: str, wanted: Wanted) -> Result:
        return self._run(name, wanted, "--rm")

    def start(self, name: str, wanted: Wanted) -> Result:
        return self._run(name, wanted, "--detach")

    def _run(self, name: str, wanted: Wanted, how: str) -> Result:
        raise NotImplementedError


class _DockersCommands(_RunsOrDetaches):
    """What Docker and Podman have the same words for."""

    def execute(self, name: str, *command: str) -> Result:
        return self._command("exec", name, *command)

    def inspect(self, name: str, what: str) -> str:
        """What the engine tells of a container, in its own words for it."""
        return self._command("inspect", f"--format={what}", name).stdout.strip()

    def pid(self, name: str) -> int:
        return int(self.inspect(name, "{{.State.Pid}}"))

    def kill(self, name: str) -> Result:
        return self._command("kill", name)

    def _command(self, *arguments: str) -> Result:
        raise NotImplementedError


@dataclass
class Docker(_DockersCommands):
    """Debian's dockerd with everything of its own below one folder. A context manager."""

    host: Host
    runtime: str
    rootfs_tar: Path
    wrapped: bool = True
    name: str = "docker"
    live_restore: bool = True
    """Whether containers go on without dockerd."""
    own_containerd: bool = False
    """Whether containerd is started beside dockerd, as systemd does it, and not by it."""
    more: tuple[str, ...] = ()
    """Further options of dockerd."""
    daemon: Process | None = None
    containerd: Process | None = None

    @property
    def folder(self) -> Path:
        """All that it has on the host."""
        return self.host.folder / self.name

    def __enter__(self) -> Self:
        self.folder.mkdir()
        runtimes = {RUNTIME: {"path": self.runtime}, "plain": {"path": program("runc")}}
        (self.folder / "daemon.json").write_text(json.dumps({"runtimes": runtimes}))
        if self.own_containerd:
            self.start_containerd()
        self.start_daemon()
        self._command("import", str(self.rootfs_tar), image.NAME).check_returncode()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_daemon()
        if self.containerd:
            self.host.stop(self.containerd)

    def start_daemon(self) -> None:
        """Start dockerd and wait until it answers."""
        folder = self.folder
        chosen = [f"--containerd={folder / 'containerd.sock'}"] if self.own_containerd else []
        chosen += ["--live-restore"] if self.live_restore else []
        self.daemon = self.host.start(
            program("dockerd"), f"--data-root={folder / 'data'}", f"--exec-root={folder / 'exec'}",
            f"--host=unix://{folder / 's'}", f"--pidfile={folder / 'pid'}", f"--config-file={folder / 'daemon.json'}",
            "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", *chosen, *self.more,
            log=folder / "log", env=_BASE_ENVIRONMENT,
        )  # fmt: skip
        process = self.daemon
        eventually(lambda: process.poll() is not None or self._command("version").returncode == 0, "dockerd answers")
        assert process.poll() is None, (folder / "log").read_text()[-2000:]

    def start_containerd(self) -> None:
        """Start the containerd of one's own and wait until it listens."""
        folder, socket = self.folder, self.folder / "containerd.sock"
        socket.unlink(missing_ok=True)
        (folder / "containerd.toml").write_text(
            f'version = 2\nroot = "{folder}/containerd/root"\nstate = "{folder}/containerd/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
        )
        self.containerd = self.host.start(
            program("containerd"), f"--config={folder / 'containerd.toml'}",
            log=folder / "containerd.log", env=_BASE_ENVIRONMENT,
        )  # fmt: skip
        eventually(socket.exists, "containerd listens")

    def stop_daemon(self) -> None:
        """End dockerd, as an upgrade does; its containers go on."""
        assert self.daemon
        self.host.stop(self.daemon)

    def kill_daemon(self) -> None:
        """Kill dockerd; a containerd that it has started itself goes with it."""
        assert self.daemon
        self.host.signal(self.daemon, signal.SIGKILL)
        self.daemon.wait()

    def kill_containerd(self) -> None:
        """Kill the containerd of one's own."""
        assert self.containerd
        self.host.signal(self.containerd, signal.SIGKILL)
        self.containerd.wait()

    def container_id(self, name: str) -> str:
        """The whole id of a container."""
        return self.inspect(name, "{{.Id}}")

    def remove(self, name: str) -> Result:
        return self._command("rm", "--force", name)

    def _run(self, name: str, wanted: Wanted, how: str) -> Result:
        runtime = RUNTIME if self.wrapped else "plain"
        return self._command(
            "run", how, f"--name={name}", f"--runtime={runtime}", *options(wanted, "--annotation"),
            image.NAME, *wanted.command,
        )  # fmt: skip

    def _command(self, *arguments: str) -> Result:
        socket = f"--host=unix://{self.folder / 's'}"
        return self.host.run(program("docker"), socket, *arguments, env=_BASE_ENVIRONMENT)


@dataclass
class Podman(_DockersCommands):
    """Podman, which has no daemon, on a root file system of one's own."""

    host: Host
    runtime: str
    rootfs: Path
    first_user: int = 0
    """The host's user who is root in the containers; above 0 they have a user namespace."""

    def remove(self, name: str) -> Result:
        return self._command("rm", "--force", "--time=0", name)

    def _run(self, name: str, wanted: Wanted, how: str) -> Result:
        # As this root may not raise limits, the container's have to be ones it has; runc has no pids controller here.
        rootfs = image.copy(self.rootfs, self.host.folder / "podman" / "rootfs" / name)
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=512:512", "--pids-limit=-1"]
        if self.first_user:
            image.give(rootfs, self.first_user)
            limits += [f"--{kind}map=0:{self.first_user}:65536" for kind in ("uid", "gid")]
        return self._command(
            "run", how, f"--name={name}", *limits, *options(wanted, "--annotation"),
            "--rootfs", str(rootfs), *wanted.command,
        )  # fmt: skip

    def _command(self, *arguments: str) -> Result:
        folder = self.host.folder / "podman"
        return self.host.run(
            program("podman"), f"--root={folder / 'root'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs",
            f"--tmpdir={folder / 'tmp'}", "--cgroup-manager=cgroupfs", "--events-backend=file",
            f"--runtime={self.runtime}", *arguments, env=_BASE_ENVIRONMENT,
        )  # fmt: skip


def tells_why(engine: Engine) -> bool:
    """Whether it shows all that the runtime has said of a container that does not start.

    Of lines that name a file which is not there Podman shows the first alone, and without the memory controller runc
    has such a warning. ``podman --log-level=debug`` shows all.
    """
    return not isinstance(engine, Podman)


@dataclass
class Containerd(_RunsOrDetaches):
    """containerd v2 and its ``ctr``. A context manager."""

    host: Host
    runtime: str
    rootfs: Path
    programs: Path
    daemon: Process | None = None

    @property
    def _folder(self) -> Path:
        return self.host.folder / "containerd"

    def __enter__(self) -> Self:
        self._folder.mkdir()
        (self._folder / "config.toml").write_text(
            f'version = 3\nroot = "{self._folder}/root"\nstate = "{self._folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._folder}/s"\n'
        )
        path = f"{self.programs}{os.pathsep}{SEARCHED}"
        self.daemon = self.host.start(
            str(self.programs / "containerd"), f"--config={self._folder / 'config.toml'}",
            log=self._folder / "log", env={**_BASE_ENVIRONMENT, "PATH": path},
        )  # fmt: skip
        process = self.daemon
        eventually(lambda: process.poll() is not None or self._ctr("version").returncode == 0, "containerd answers")
        assert process.poll() is None, (self._folder / "log").read_text()[-2000:]
        return self

    def __exit__(self, *_: object) -> None:
        assert self.daemon
        self.host.stop(self.daemon)

    def execute(self, name: str, *command: str) -> Result:
        return self._ctr("task", "exec", "--exec-id=probe", name, *command)

    def pid(self, name: str) -> int:
        rows = [line.split() for line in self._ctr("task", "ls").stdout.splitlines()]
        return next(int(row[1]) for row in rows if row[0] == name)

    def kill(self, name: str) -> Result:
        return self._ctr("task", "kill", "--signal=SIGKILL", name)

    def remove(self, name: str) -> Result:
        self._ctr("task", "rm", "--force", name)
        return self._ctr("container", "rm", name)

    def _run(self, name: str, wanted: Wanted, how: str) -> Result:
        arguments = [how, "--cpu-shares=0", f"--user={wanted.user}", f"--runc-binary={self.runtime}", "--rootfs"]
        for key, value in {"PATH": image.PATH, **wanted.env}.items():
            arguments += ["--env", f"{key}={value}"]
        for key, value in wanted.annotations.items():
            arguments += ["--annotation", f"{key}={value}"]
        for volume in wanted.volumes:
            access = "rw" if volume.writable else "ro"
            mount = f"type=bind,src={volume.source},dst={volume.destination},options=rbind:{access}"
            arguments += ["--mount", mount]
        arguments += [f"--device={device}" for device in wanted.devices]
        rootfs = image.copy(self.rootfs, self._folder / "rootfs" / name)
        return self._ctr("run", *arguments, str(rootfs), name, *wanted.command)

    def _ctr(self, *arguments: str) -> Result:
        return self.host.run(
            str(self.programs / "ctr"), f"--address={self._folder / 's'}", *arguments, env=_BASE_ENVIRONMENT
        )


@dataclass
class Runc:
    """The runtime by itself, on bundles written here."""

    host: Host
    runtime: str
    rootfs: Path
    copies: bool = True
    """Whether each container gets a root file system of its own."""
    cgroup_namespace: bool = True
    first_user: int = 0
    """As Podman's."""

    @property
    def _root(self) -> Path:
        return self.host.folder / "runc"

    def bundle(self, name: str, wanted: Wanted) -> Path:
        """Make a container's bundle; its folder."""
        folder = self.host.folder / "bundles" / name
        folder.mkdir(parents=True, exist_ok=True)
        rootfs = image.copy(self.rootfs, folder / "rootfs") if self.copies else self.rootfs
        made = config(name, rootfs, wanted, self.cgroup_namespace)
        if self.first_user:
            image.give(rootfs, self.first_user)
            add_user_namespace(made, self.first_user)
        (folder / "config.json").write_text(json.dumps(made))
        return folder

    def run(self, name: str, wanted: Wanted) -> Result:
        return self._runtime("run", "--bundle", str(self.bundle(name, wanted)), name)

    def start(self, name: str, wanted: Wanted) -> Result:
        return self._runtime("run", "--detach", "--bundle", str(self.bundle(name, wanted)), name)

    def create(self, name: str, wanted: Wanted) -> Process:
        """Begin to create a container, and leave the runtime to it."""
        return self._begin("create", name, wanted)

    def begin_run(self, name: str, wanted: Wanted) -> Process:
        """Begin to run a container in the foreground, and leave the runtime to it."""
        return self._begin("run", name, wanted)

    def is_there(self, name: str) -> bool:
        """Whether the runtime knows a container of that name that has a process."""
        result = self._runtime("state", name)
        return result.returncode == 0 and json.loads(result.stdout)["status"] != "stopped"

    def state(self, name: str, root: Path | None = None) -> dict[str, Any]:
        """What the runtime tells of a container, perhaps an engine's, with a root folder of its own."""
        result = self.host.run(self.runtime, f"--root={root or self._root}", "state", name, check=True)
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def execute(self, name: str, *command: str) -> Result:
        return self._runtime("exec", name, *command)

    def pid(self, name: str) -> int:
        return int(self.state(name)["pid"])

    def kill(self, name: str) -> Result:
        return self._runtime("kill", name, "KILL")

    def remove(self, name: str) -> Result:
        return self._runtime("delete", "--force", name)

    def _begin(self, verb: str, name: str, wanted: Wanted) -> Process:
        bundle = self.bundle(name, wanted)
        return self.host.start(*self._command(verb, "--bundle", str(bundle), name), log=bundle / "log")

    def _runtime(self, *arguments: str) -> Result:
        return self.host.run(*self._command(*arguments), env=_BASE_ENVIRONMENT)

    def _command(self, *arguments: str) -> tuple[str, ...]:
        return (self.runtime, f"--root={self._root}", *arguments)

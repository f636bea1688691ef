"""CDI devices of this node: a tenant of the agent, a view below the agent's folder, a file for the engines.

They are made in that order and the file goes first, so an engine never finds a device that is not
whole. What a killed command leaves is shown as broken; the same command again, or ``remove``,
finishes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgpu.adapters import host_files
from cgpu.adapters.agent_client import AgentClient, tenant_path
from cgpu.adapters.cdi import spec
from cgpu.adapters.container_view import make_view
from cgpu.adapters.mounts import users_of
from cgpu.adapters.native import RUNTIME, content_named_copy, native_library
from cgpu.errors import CgpuError, NoSuchTenantError, RefusedError, StateError, TenantExistsError
from cgpu.model import container
from cgpu.model.container import cdi_name_of, cdi_tenant_id

_FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Device:
    """A device, whole or not."""

    name: str
    tenant: Mapping[str, Any] | None  # the agent's document
    file: Path | None  # by which engines know it
    fault: str  # "" when engines can use it
    processes: int | None  # in its containers; None: this user may not look


class Devices:
    """The devices that have their tenants at one agent."""

    def __init__(
        self,
        client: AgentClient,
        *,
        sim_state: Path | None,
        folder: Path | None = None,
        users: Callable[[Path], Sequence[int] | None] = lambda view: users_of(view, container.ROOT),
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``folder`` is where the files are; None: where engines look, or where a device's file is known to be.

        ``users`` tells the processes that have a view mounted; ``step`` is called between steps, for tests.
        """
        self._client = client
        self._folder = Path(client.get("/v1/info")["runtime_dir"])
        self._sim_state = sim_state
        self._files = None if folder is None else folder.absolute()
        self._users = users
        self._step = step

    def create(self, name: str, wish: Mapping[str, Any]) -> Device:
        """Make a device. One that is there with the same wish is left as it is, or completed.

        ``wish`` has the ``shares`` and what else the API takes for a tenant.

        Raises RefusedError or one of its kinds when the node says no, or a device of that name is another
        one; StateError when a file cannot be written: then nothing is left of a new device.
        """
        tenant_id = cdi_tenant_id(name)
        with self._locked():
            target = self._target(name)
            tenant, is_new = self._make_tenant(name, {**wish, "name": name, "container": container.CDI_CONTAINER})
            self._step("tenant")
            try:
                self._write(name, tenant, target)
            except CgpuError:
                if is_new:
                    self._client.delete(tenant_path(tenant_id))
                    self._forget(name)
                raise
            return self._device(name, tenant, target)

    def list(self) -> tuple[Device, ...]:
        """All devices by name: those of the agent, and those that have a file where engines look."""
        tenants = {}
        for tenant in self._client.get("/v1/tenants"):
            name = cdi_name_of(tenant["id"], tenant["container"])
            if name:
                tenants[name] = tenant
        names = sorted({*tenants, *(name for folder in self._folders for name in _devices_in(folder))})
        return tuple(self._device(name, tenants.get(name), self._known_file(name)) for name in names)

    def remove(self, name: str, *, force: bool) -> Device:
        """Remove a device, or what is left of one; returns what it was.

        Containers that run lose their tenant: ``force`` is needed then. They keep what they have mounted, and
        with it the quota among them, unseen by the agent; the view stays for them.

        Raises NoSuchTenantError, RefusedError or StateError.
        """
        tenant_id = cdi_tenant_id(name)
        with self._locked():
            found = next((device for device in self.list() if device.name == name), None)
            if found is None and not any(map(os.path.lexists, (self._view(name), self._record(name)))):
                raise NoSuchTenantError(f"there is no CDI device {name!r}", "`cgpu cdi list` shows them")
            users = self._users(self._view(name)) or ()
            if users and found is not None and not force:
                pids = ", ".join(map(str, users[:5])) + (", …" if len(users) > 5 else "")
                raise RefusedError(
                    f"{len(users)} processes are in containers with the device {name!r}: {pids}",
                    "end the containers, or use --force",
                )
            if found is not None and found.file is not None:
                _remove(found.file)
            self._step("file")
            with contextlib.suppress(NoSuchTenantError):
                self._client.delete(tenant_path(tenant_id))
            self._step("tenant")
            self._forget(name)
            return found or Device(name, None, None, "", 0)

    # ---- parts ----

    def _view(self, name: str) -> Path:
        return self._folder / "cdi" / name

    def _record(self, name: str) -> Path:
        """A link to the device's file: it may be in any folder."""
        return self._folder / "cdi-files" / name

    @property
    def _folders(self) -> tuple[Path, ...]:
        return spec.FOLDERS if self._files is None else (self._files,)

    def _known_file(self, name: str) -> Path | None:
        """Where the device's file was written, or is; None where nobody knows of one."""
        try:
            return self._record(name).readlink()
        except OSError:
            places = (folder / spec.file_name(name) for folder in self._folders)
            return next((path for path in places if path.exists()), None)

    def _target(self, name: str) -> Path:
        known = self._known_file(name)
        if known is None:
            return self._folders[0] / spec.file_name(name)
        if self._files not in (None, known.parent):
            raise RefusedError(f"the file of the CDI device {name!r} is {known}", f"`cgpu cdi remove {name}` first")
        return known

    def _make_tenant(self, name: str, wish: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        path = tenant_path(cdi_tenant_id(name))
        try:
            return self._client.create(path, wish)
        except TenantExistsError as error:
            with contextlib.suppress(NoSuchTenantError):
                self._client.get(path)
                raise TenantExistsError(
                    f"there is a CDI device {name!r} with another share",
                    f"`cgpu set {name}` changes it while it is used; `cgpu cdi remove {name}` takes it away",
                ) from error
            raise

    def _write(self, name: str, tenant: Mapping[str, Any], target: Path) -> None:
        region = Path(tenant["region"])
        if not region.is_dir():
            raise StateError(f"{region} is gone", f"`cgpu cdi remove {name}`, then make it again")
        mounts = make_view(self._view(name), region=region, helper=True, sim_state=self._sim_state)
        self._step("view")
        simulated = self._sim_state is not None
        environment = spec.simulated_environment(share["gpu_uuid"] for share in tenant["shares"]) if simulated else {}
        program = content_named_copy(native_library(RUNTIME), self._folder / "lib")
        content = spec.content(name, mounts, program, environment)
        record = host_files.Link(self._record(name), str(target))
        for change in (record, host_files.Write(target, content, _FILE_MODE)):
            host_files.carry_out((change,), dry_run=False)
            self._step(str(change))

    def _forget(self, name: str) -> None:
        if not self._users(self._view(name)):  # what is mounted on a place goes with it, in every container
            host_files.carry_out((host_files.Remove(self._view(name), tree=True),), dry_run=False)
            self._step("view")
        _remove(self._record(name))
        self._step("record")

    def _device(self, name: str, tenant: Mapping[str, Any] | None, file: Path | None) -> Device:
        users = self._users(self._view(name))
        processes = None if users is None else len(users)
        return Device(name, tenant, file, _fault(name, tenant, file), processes)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time: else a device could be made and removed at once, and only half be there."""
        path = self._folder / "cdi.lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}", "run it as root") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _devices_in(folder: Path) -> list[str]:
    """The devices that have a file in a folder."""
    try:
        return [name for path in folder.iterdir() if (name := spec.device_of_file(path.name))]
    except OSError:
        return []


def _fault(name: str, tenant: Mapping[str, Any] | None, file: Path | None) -> str:
    """Why engines cannot use the device; "" when they can."""
    if tenant is None:
        return f"the agent has no tenant {container.CDI_TENANT_PREFIX}{name}"
    if tenant["fault"]:
        return str(tenant["fault"])
    if file is None:
        return "it has no file"
    try:
        said = spec.written(name, file.read_bytes())
    except OSError as error:
        return f"{file}: {error.strerror}"
    except ValueError as error:
        return f"{file}: {error}"
    if said.region != Path(tenant["region"]):
        return f"{file} is of another tenant: {said.region}"
    gone = next((file for file in said.files if _is_gone(file)), None)
    return "" if gone is None else f"{gone} is gone"


def _is_gone(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # what this user may not look at
        return False
    return False


def _remove(path: Path) -> None:
    host_files.carry_out((host_files.Remove(path),), dry_run=False)

"""A container's bundle on disk: its config.json, and the edit that makes it a tenant's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.container_view import ViewMount, make_view
from cgpu.adapters.host_files import replace_file
from cgpu.errors import BundleError
from cgpu.model import container
from cgpu.oci import spec
from cgpu.oci.rootfs import Rootfs, mounted_preloads

_VIEW: Final = "cgpu"


class Bundle:
    """The folder that an engine has made for a container."""

    def __init__(self, folder: Path) -> None:
        """Read it. Raises BundleError."""
        self._folder = folder.absolute()
        self._path = self._folder / "config.json"
        try:
            self._content = self._path.read_bytes()
            self.config: dict[str, Any] = json.loads(self._content)
        except OSError as error:
            raise BundleError(f"{self._path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self._path} is not JSON: {error}") from error
        _check(self._path, self.config)

    @property
    def environment(self) -> list[str]:
        """Of the container's first process."""
        return list((self.config.get("process") or {}).get("env") or [])

    @property
    def annotations(self) -> dict[str, str]:
        """Of the container."""
        return dict(self.config.get("annotations") or {})

    def check_no_device(self) -> None:
        """Raise BundleError where a CDI device of ours is in the container: it can only be one tenant's."""
        for mount in self.config.get("mounts") or []:
            if spec.place(mount) == container.ROOT and Path(str(mount.get("source", ""))) != self._folder / _VIEW:
                raise BundleError(
                    f"the container has a CDI device {container.CDI_KIND}, and asks for a share of its own",
                    "leave out the device, or the variables and annotations",
                )

    def make_tenant(
        self,
        region: Path,
        *,
        sim_state: Path | None,
        environment: Mapping[str, str],
        annotations: Mapping[str, str],
        hook: tuple[str, ...],
    ) -> None:
        """Make the view and write the edited config.json. Raises BundleError or StateError."""
        view = self._folder / _VIEW
        rootfs = Rootfs(self._folder / (self.config.get("root") or {}).get("path", "rootfs"))
        foreign = spec.foreign_mounts(self.config, view, rootfs.folder)
        preload = _image_preload(rootfs, foreign)
        mounts = make_view(view, region=region, helper=True, sim_state=sim_state, image_preload=preload)
        pins_etc = rootfs.is_folder(spec.ETC) and not any(spec.place(mount) == spec.ETC for mount in foreign)
        edit = spec.Edit(
            mounts=(*mounts, *_helper_in_path(rootfs, foreign, mounts)),
            rootfs=rootfs.folder,
            pins_etc=pins_etc,
            environment=environment,
            library_folder=None if sim_state is None else str(container.SIM_LIBRARIES),
            annotations=annotations,
            hook=hook,
        )
        if pins_etc and spec.is_readonly(self.config):
            _make_places(rootfs, foreign)
        self._write(json.dumps(spec.edited(self.config, edit)).encode())

    def restore(self) -> None:
        """Write config.json as it was read."""
        self._write(self._content)

    def _write(self, content: bytes) -> None:
        """Replace config.json at once, with the owner and mode that it has."""
        try:
            replace_file(self._path, content, durable=False)  # a bundle does not outlive the machine's uptime
        except OSError as error:
            raise BundleError(f"{self._path}: {error.strerror}") from error


def _check(path: Path, config: object) -> None:
    """Look at the types of all that is read here; whether the rest is right, the runtime finds."""
    if not isinstance(config, dict):
        raise BundleError(f"{path} is not a JSON object")
    kinds = {"process": dict, "root": dict, "annotations": dict, "hooks": dict, "mounts": list, "linux": dict}
    for name, kind in kinds.items():
        if config.get(name) is not None and not isinstance(config[name], kind):
            raise BundleError(f"{path}: {name} is malformed")
    environment = (config.get("process") or {}).get("env") or []
    if not isinstance(environment, list) or not all(isinstance(entry, str) for entry in environment):
        raise BundleError(f"{path}: process.env is not a list of texts")
    if not all(isinstance(text, str) for text in (config.get("annotations") or {}).values()):
        raise BundleError(f"{path}: an annotation is not a text")
    if not isinstance((config.get("root") or {}).get("path", ""), str):
        raise BundleError(f"{path}: root.path is not a text")
    _check_users(path, config)
    hooks = (config.get("hooks") or {}).get("createRuntime") or []
    for name, rows in {"mounts": config.get("mounts") or [], "hooks.createRuntime": hooks}.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BundleError(f"{path}: {name} is malformed")


def _check_users(path: Path, config: dict[str, Any]) -> None:
    user = (config.get("process") or {}).get("user") or {}
    if not isinstance(user, dict) or not isinstance(user.get("uid", 0), int):
        raise BundleError(f"{path}: process.user is malformed")
    mappings = (config.get("linux") or {}).get("uidMappings") or []
    names = ("containerID", "hostID", "size")
    if not isinstance(mappings, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(name), int) for name in names) for row in mappings
    ):
        raise BundleError(f"{path}: linux.uidMappings is malformed")


def _image_preload(rootfs: Rootfs, foreign: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """What the container would preload without us: its own file, or what is mounted over it."""
    mounted = [Path(str(mount.get("source", ""))) for mount in foreign if spec.place(mount) == container.PRELOAD]
    if mounted:
        return mounted_preloads(mounted[-1])
    etc = [Path(str(mount.get("source", ""))) for mount in foreign if spec.place(mount) == spec.ETC]
    if etc:
        return mounted_preloads(etc[-1] / container.PRELOAD.name)
    return rootfs.preloads(container.PRELOAD)


def _helper_in_path(
    rootfs: Rootfs, foreign: list[Mapping[str, Any]], mounts: tuple[ViewMount, ...]
) -> tuple[ViewMount, ...]:
    """The helper's second place, where nothing is in its way and a mount can be made there."""
    where = container.HELPER_IN_PATH
    if spec.covers(foreign, where) or not rootfs.may_cover(where):
        return ()
    source = next(mount.source for mount in mounts if mount.destination == str(container.HELPER))
    return (ViewMount(source, str(where), writable=False, executable=True),)


def _make_places(rootfs: Rootfs, foreign: list[Mapping[str, Any]]) -> None:
    """Below an /etc that is bound read-only the runtime cannot make the places of other mounts any more."""
    rootfs.make_place(container.PRELOAD, folder=False)
    for mount in foreign:
        where = spec.place(mount)
        if where.parent == spec.ETC:
            rootfs.make_place(where, folder=mount.get("type") != "bind" or Path(str(mount.get("source", ""))).is_dir())

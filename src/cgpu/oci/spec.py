"""A container's config.json with a tenant in it. Pure: a new document, of which nothing else is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from cgpu.adapters.container_view import ViewMount
from cgpu.adapters.native import HELPER
from cgpu.model import container

ETC: Final = PurePosixPath("/etc")
_HOOK_SECONDS: Final = 15  # the hook itself gives up after 10


@dataclass(frozen=True, slots=True)
class Edit:
    """All that is added to a container."""

    mounts: tuple[ViewMount, ...]
    rootfs: Path  # the container's root on the host
    pins_etc: bool  # its /etc is bound onto itself: a mount point cannot be renamed
    environment: Mapping[str, str]  # replaces what is there
    library_folder: str | None  # first in LD_LIBRARY_PATH
    annotations: Mapping[str, str]
    hook: tuple[str, ...]  # program and arguments, before the container's root is entered


def edited(config: Mapping[str, Any], edit: Edit) -> dict[str, Any]:
    """The document with the edit. What an earlier edit has put in is replaced."""
    return {
        **config,
        "mounts": _mounts(config, edit),
        **_process(config, edit),
        "annotations": {**(config.get("annotations") or {}), **edit.annotations},
        "hooks": _hooks(config.get("hooks") or {}, edit.hook),
    }


def foreign_mounts(config: Mapping[str, Any], view: Path, rootfs: Path) -> list[Mapping[str, Any]]:
    """The mounts that are not ours, of an earlier edit. ``view`` and ``rootfs`` are folders on the host."""
    return [mount for mount in config.get("mounts") or [] if not _is_ours(mount, view, rootfs)]


def covers(mounts: Iterable[Mapping[str, Any]], path: PurePosixPath) -> bool:
    """Whether one of the mounts is at the path or above it, below the root."""
    places = {path, *path.parents} - {PurePosixPath("/")}
    return any(place(mount) in places for mount in mounts)


def place(mount: Mapping[str, Any]) -> PurePosixPath:
    """Where a mount is in the container; relative ones are relative to its root."""
    parts: list[str] = []
    for part in PurePosixPath("/", str(mount.get("destination", ""))).parts[1:]:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return PurePosixPath("/", *parts)


def _is_ours(mount: Mapping[str, Any], view: Path, rootfs: Path) -> bool:
    where, source = place(mount), Path(str(mount.get("source", "")))
    if where == container.ROOT or container.ROOT in where.parents:
        return True  # nobody else has a business there
    return (
        (where == container.PRELOAD and view in source.parents)
        or (where == ETC and source == rootfs / "etc")
        or (where == container.HELPER_IN_PATH and source.name.startswith(PurePosixPath(HELPER).name))
    )


def _mounts(config: Mapping[str, Any], edit: Edit) -> list[Any]:
    kept = foreign_mounts(config, edit.mounts[0].source, edit.rootfs)
    ours = [_bind(mount) for mount in edit.mounts]
    if not edit.pins_etc:
        return [*kept, *ours]
    access = "ro" if is_readonly(config) else "rw"
    # The first of all: what the engine mounts below /etc goes on top of it.
    source = str(edit.rootfs / "etc")
    pin = {"destination": str(ETC), "type": "bind", "source": source, "options": ["bind", "rprivate", access]}
    return [pin, *kept, *ours]


def is_readonly(config: Mapping[str, Any]) -> bool:
    """Whether the container may not write to its root."""
    return bool((config.get("root") or {}).get("readonly"))


def _bind(mount: ViewMount) -> dict[str, Any]:
    return {
        "destination": mount.destination,
        "type": "bind",
        "source": str(mount.source),
        "options": list(mount.options),
    }


def _process(config: Mapping[str, Any], edit: Edit) -> dict[str, Any]:
    process = config.get("process")
    changes = dict(edit.environment)
    if process is None or (not changes and edit.library_folder is None):
        return {}
    environment = process.get("env") or []
    if edit.library_folder is not None:
        rest = [path for path in _value(environment, "LD_LIBRARY_PATH").split(":") if path]
        changes["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys([edit.library_folder, *rest]))
    kept = [entry for entry in environment if entry.partition("=")[0] not in changes]
    return {"process": {**process, "env": [*kept, *(f"{name}={value}" for name, value in changes.items())]}}


def _value(environment: Sequence[str], name: str) -> str:
    return next((entry.partition("=")[2] for entry in reversed(environment) if entry.startswith(f"{name}=")), "")


def _hooks(hooks: Mapping[str, Any], hook: tuple[str, ...]) -> dict[str, Any]:
    others = [entry for entry in hooks.get("createRuntime") or [] if not _is_our_hook(entry, hook)]
    # The first: a hook of another after ours finds the tenant with its limits.
    ours = {"path": hook[0], "args": list(hook), "timeout": _HOOK_SECONDS}
    return {**hooks, "createRuntime": [ours, *others]}


def _is_our_hook(entry: Mapping[str, Any], hook: tuple[str, ...]) -> bool:
    arguments = entry.get("args")
    return isinstance(arguments, list) and arguments[1:3] == list(hook[1:3])

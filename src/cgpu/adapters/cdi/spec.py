"""The specification of one CDI device: values to JSON and back. Pure.

Every engine's library refuses a file that says a version which it does not know, or a lower one than
what the file uses; so the lowest is written. What each version brought is in the table of releases in
CDI's SPEC.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.cdi.driver_files import DeviceNode
from cgpu.adapters.container_view import ViewMount
from cgpu.model import container

FOLDERS: Final = (Path("/var/run/cdi"), Path("/etc/cdi"))
"""Where engines look unless they are told otherwise. The first is for devices that come and go: it is empty
after a reboot, as the agent's folder is."""

_HOOK_SECONDS: Final = 15  # the program itself gives up after 10

_FILE_PREFIX: Final = container.CDI_KIND.replace("/", "-") + "_"
_FILE_SUFFIX: Final = ".json"
_EARLIEST: Final = "0.3.0"  # the first that today's libraries read; environment, mounts and hooks are in it
_LATER: Final = "0.5.0"  # the first in which a device's name may begin with a digit, and nodes have a hostPath


@dataclass(frozen=True, slots=True)
class Written:
    """What a file of ours says."""

    region: Path  # the tenant's
    files: tuple[Path, ...]  # all that is mounted or run


def file_name(name: str) -> str:
    """The file of a device, as CDI recommends it for transient ones: ``<vendor>-<class>_<id>.json``."""
    return _FILE_PREFIX + name + _FILE_SUFFIX


def device_of_file(file: str) -> str:
    """The device whose file has this name; "" for another's file."""
    is_ours = file.startswith(_FILE_PREFIX) and file.endswith(_FILE_SUFFIX)
    return file[len(_FILE_PREFIX) : -len(_FILE_SUFFIX)] if is_ours else ""


def content(name: str, mounts: Iterable[ViewMount], program: Path, environment: Mapping[str, str]) -> bytes:
    """The file of a device of ``cgpu cdi`` with these edits."""
    return document(container.CDI_KIND, {name: edits(mounts, program, environment)}, indent=2)


def edits(
    mounts: Iterable[ViewMount],
    program: Path,
    environment: Mapping[str, str],
    claim: tuple[str, ...] | None = None,
    nodes: Iterable[DeviceNode] = (),
) -> dict[str, Any]:
    """What a device does to a container.

    ``program`` is cgpu-runtime. As a hook it makes the container's /etc a mount point, which the container's
    root cannot rename; an edit cannot, since it does not know where the container's root is. It also looks whether
    the image's programs can load the shim. ``claim`` is for a claim of Kubernetes, and has the agent's socket and
    the tenant where the driver has limits, and else nothing; None: a device of ``cgpu cdi``, which no limit of the
    driver's holds. ``nodes`` are the devices'.
    """
    image = _hook("createRuntime", program, *(("device",) if claim is None else ("claim", *claim)))
    hooks = [image, _hook("createContainer", program, "pin-etc")]
    return {**plain_edits(mounts, environment, nodes), "hooks": hooks}


def plain_edits(
    mounts: Iterable[ViewMount], environment: Mapping[str, str], nodes: Iterable[DeviceNode] = ()
) -> dict[str, Any]:
    """What a device does to a container into which nothing of ours is mounted that it must not take away."""
    found: dict[str, Any] = {"mounts": [_mount(mount) for mount in mounts]}
    found["deviceNodes"] = [_node(node) for node in nodes]
    if environment:
        found["env"] = [f"{variable}={value}" for variable, value in environment.items()]
    return {name: made for name, made in found.items() if made}


def document(kind: str, devices: Mapping[str, Mapping[str, Any]], *, indent: int | None = None) -> bytes:
    """The file of some devices, by name, with their edits; there is at least one. ``indent``: for people to read."""
    value = {
        "cdiVersion": _lowest_version(devices),
        "kind": kind,
        "devices": [{"name": name, "containerEdits": made} for name, made in devices.items()],
    }
    return json.dumps(value, indent=indent).encode() + b"\n"


def written(name: str, content: bytes) -> Written:
    """What the file of a device says. Raises ValueError for one that is not as ``content`` makes it."""
    try:
        document = json.loads(content)
        edits = {device["name"]: device["containerEdits"] for device in document["devices"]}[name]
        mounts = {mount["containerPath"]: Path(mount["hostPath"]) for mount in edits["mounts"]}
        programs = [Path(hook["path"]) for hook in edits["hooks"]]
        region = mounts[str(container.REGION / "grants")].parent
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError("it is not the specification of that device") from error
    if document.get("kind") != container.CDI_KIND:
        raise ValueError(f"its kind is not {container.CDI_KIND}")
    return Written(region, (*mounts.values(), *dict.fromkeys(programs)))


def simulated_environment(gpu_uuids: Iterable[str]) -> dict[str, str]:
    """What puts a container's processes on a simulated machine, as the runtime does it.

    An edit cannot add to what the image has in LD_LIBRARY_PATH: it takes its place.
    """
    return {
        "LD_LIBRARY_PATH": str(container.SIM_LIBRARIES),
        "CGPU_SIM_STATE": str(container.SIM_STATE),
        "CUDA_VISIBLE_DEVICES": ",".join(gpu_uuids),
    }


def _lowest_version(devices: Mapping[str, Mapping[str, Any]]) -> str:
    # Above _EARLIEST only a name, or a node that is elsewhere on the host, can lead: the mounts have no type (0.4.0),
    # and there are no annotations (0.6.0).
    nodes = [node for made in devices.values() for node in made.get("deviceNodes", ())]
    later = any(name[0].isdecimal() for name in devices) or any("hostPath" in node for node in nodes)
    return _LATER if later else _EARLIEST


def _node(node: DeviceNode) -> dict[str, Any]:
    """Number, kind and owner are left to the runtime, which looks at the node itself."""
    return {"path": node.path} | ({} if str(node.on_host) == node.path else {"hostPath": str(node.on_host)})


def _hook(when: str, program: Path, *words: str) -> dict[str, Any]:
    arguments = [str(program), "hook", *words]
    return {"hookName": when, "path": arguments[0], "args": arguments, "timeout": _HOOK_SECONDS}


def _mount(mount: ViewMount) -> dict[str, Any]:
    return {"hostPath": str(mount.source), "containerPath": mount.destination, "options": list(mount.options)}

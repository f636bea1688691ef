"""``cgpu cdi``: devices for engines that take ``--device cgpu.dev/gpu=<name>``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cgpu.adapters.agent_client import AgentClient
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_share, add_verb, share_amounts
from cgpu.model.container import CDI_KIND
from cgpu.model.units import format_memory
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.adapters.cdi.devices import Device, Devices

EXAMPLES = """\
examples:
  cgpu cdi create --memory 6GiB --compute 30 --gpu 0 --name web
  podman run --device nvidia.com/gpu=0 --device cgpu.dev/gpu=web IMAGE
  cgpu cdi list
  cgpu set web --memory 8GiB                  changes it while containers use it
  cgpu cdi remove web

All containers with the device share its quota and its time. The device of NVIDIA's puts the driver into
the container, ours the share. Docker takes them from 25.0 on, Podman from 4.1, containerd from 1.7.
"""
_HEADER: Final = ("DEVICE", "GPU", "MEMORY", "COMPUTE", "WEIGHT", "LAYER", "PROCESSES", "FILE", "STATE")
_UNKNOWN: Final = "-"
_OPTIONS: Final = {"compute_percent": "--compute", "compute_limit_percent": "--compute-limit"}


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb and what it can do."""
    parser = add_verb(subparsers, "cdi", _list, "make shares of GPUs that engines take as CDI devices", EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = add_verb(actions, "create", _create, "make a device, or complete one", EXAMPLES)
    create.add_argument("--name", required=True, help="name of the device, and of its tenant")
    create.add_argument(
        "--gpu",
        metavar="IDX|UUID",
        action="append",
        help="GPU by NVML's index or UUID; may be repeated; 0 when not given",
    )
    add_share(create, change=False)
    create.add_argument("--refuse-managed", action="store_true", help="refuse managed (unified) memory altogether")
    create.add_argument(
        "--require-layer",
        choices=("driver", "shim"),
        help="do not make it where its quota is enforced by anything weaker; a device cannot have the driver's",
    )
    listing = add_verb(actions, "list", _list, "show the devices and whether engines can use them", EXAMPLES)
    remove = add_verb(actions, "remove", _remove, "take a device away, or what is left of one", EXAMPLES)
    remove.add_argument("name", metavar="NAME", help="the device")
    remove.add_argument("--force", action="store_true", help="also while containers use it: they lose their tenant")
    for action in (create, listing, remove):
        action.add_argument(
            "--dir",
            type=Path,
            metavar="DIR",
            help="folder of the devices' files; /var/run/cdi when not given, and /etc/cdi where one is there",
        )
    for action in (create, listing):
        add_json(action)


def _devices(options: argparse.Namespace, settings: Settings) -> Devices:
    from cgpu.adapters.cdi.devices import Devices

    return Devices(AgentClient.of(settings), sim_state=settings.sim_state, folder=options.dir)


def _create(options: argparse.Namespace, settings: Settings) -> int:
    share = share_amounts(options)
    wish: dict[str, Any] = {
        "shares": [{"gpu": gpu, **share} for gpu in options.gpu or ["0"]],
        "refuse_managed": options.refuse_managed,
    }
    if options.require_layer is not None:
        wish["require_layer"] = options.require_layer
    device = _devices(options, settings).create(options.name, wish)
    print(render.as_json(document(device)) if options.json else table([device]))
    return 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    found = _devices(options, settings).list()
    print(render.as_json([document(device) for device in found]) if options.json else table(found))
    return 0


def _remove(options: argparse.Namespace, settings: Settings) -> int:
    device = _devices(options, settings).remove(options.name, force=options.force)
    print(f"removed {CDI_KIND}={device.name}")
    if device.processes:
        print(f"{device.processes} processes in containers keep the quota that they had, unseen by the agent: end them")
    return 0


def document(device: Device) -> dict[str, Any]:
    """A device as JSON."""
    tenant = device.tenant or {}
    return {
        "name": device.name,
        "device": f"{CDI_KIND}={device.name}",
        "tenant": tenant.get("id"),
        "file": None if device.file is None else str(device.file),
        "state": "broken" if device.fault else "ok",
        "fault": device.fault,
        "mend": _mend(device) if device.fault else "",
        "processes": device.processes,
        "simulated": tenant.get("simulated", False),
        "shares": tenant.get("shares", []),
    }


def table(devices: list[Device] | tuple[Device, ...]) -> str:
    """The devices, a row per GPU, and below them what is wrong and what to do."""
    rows = [_row(device, share) for device in devices for share in (device.tenant or {}).get("shares") or [None]]
    notes = [f"{device.name}: {device.fault}; to mend it: {_mend(device)}" for device in devices if device.fault]
    if any((device.tenant or {}).get("simulated") for device in devices):
        notes.append(f"{render.SIMULATED}: these devices are on a simulated GPU")
    return "\n".join([render.table(_HEADER, rows), *notes])


def _row(device: Device, share: Mapping[str, Any] | None) -> tuple[str, ...]:
    amounts = (_UNKNOWN,) * 5 if share is None else _amounts(dict(share))
    processes = _UNKNOWN if device.processes is None else str(device.processes)
    file = _UNKNOWN if device.file is None else str(device.file)
    return (f"{CDI_KIND}={device.name}", *amounts, processes, file, "broken" if device.fault else "ok")


def _amounts(share: dict[str, Any]) -> tuple[str, ...]:
    return (
        render.gpu_index(share),
        f"{render.mebibytes(share['used_bytes'])}/{render.mebibytes(share['memory_bytes'])}",
        render.compute(share),
        str(share["weight"]),
        render.layers(share),
    )


def _mend(device: Device) -> str:
    """The commands that make the device whole again, as far as its share is known."""
    made = f"cgpu cdi create --name {device.name}"
    wish = "--memory AMOUNT and what else it had" if device.tenant is None else _options(device.tenant)
    folder = "" if device.file is None else f" --dir {device.file.parent}"
    return f"cgpu cdi remove {device.name}{folder}; {made}{folder} {wish}"


def _options(tenant: Mapping[str, Any]) -> str:
    share = tenant["shares"][0]
    words = [f"--gpu {share['gpu_uuid']}" for share in tenant["shares"]]
    words.append(f"--memory {format_memory(share['memory_bytes'])}")
    words += [f"{option} {share[name]}" for name, option in _OPTIONS.items() if share[name] is not None]
    words += [f"--weight {share['weight']}"] if share["weight"] != 1 else []
    words += [f"--priority {share['priority']}"] if share["priority"] else []
    words += ["--refuse-managed"] if tenant["refuse_managed"] else []
    return " ".join(words)

"""``cgpu sim``: simulated machines, for machines without a GPU."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path

from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.errors import UsageError
from cgpu.settings import Settings
from cgpu.sim.control import Fault
from cgpu.sim.machine import SimMachine, machines, machines_folder
from cgpu.sim.profiles import profile_names
from cgpu.sim.status import CardStatus, MachineStatus

EXAMPLES = """\
examples:
  cgpu sim create t4                     make the machine t4 (cgpu run --sim makes it by itself)
  cgpu sim create t4 --name big --cards 4 --driver 535.183.01
  eval "$(cgpu sim env t4)"              put this shell on it: every CUDA program uses it
  cgpu sim status t4 --json              the truth about memory and time on its cards
  cgpu sim fault t4 xid 79               a fault on demand: oom N, lost 0|1, xid N, slow NS
  cgpu sim remove t4

MACHINE is a name as `cgpu sim list` shows it, or the path of a state folder (with a slash in it).
"""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb and what it can do."""
    parser = add_verb(subparsers, "sim", _list, "make, look at and break simulated machines", EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = add_verb(actions, "create", _create, "make a simulated machine", EXAMPLES)
    create.add_argument("profile", help=f"{', '.join(profile_names())}, or the path of a .toml file")
    create.add_argument("--name", help="name of the machine; the profile's when not given")
    create.add_argument(
        "--state", type=Path, metavar="FOLDER", help="make it in this folder instead of the default place"
    )
    create.add_argument("--cards", type=int, metavar="N", help="cards instead of the profile's: 1 to 16")
    create.add_argument(
        "--driver", metavar="VERSION", help="driver version instead of the profile's, such as 535.183.01"
    )
    add_json(add_verb(actions, "list", _list, "list this user's machines", EXAMPLES))
    env = add_verb(actions, "env", _env, "print what puts a shell on a machine", EXAMPLES)
    _add_machine(env)
    add_json(env)
    status = add_verb(actions, "status", _status, "show the truth about a machine's cards", EXAMPLES)
    _add_machine(status)
    add_json(status)
    fault = add_verb(actions, "fault", _fault, "make a fault happen, or end it", EXAMPLES)
    _add_machine(fault)
    fault.add_argument("fault", choices=[kind.name.lower() for kind in Fault], help="what happens")
    fault.add_argument("value", type=int, help="oom: how many allocations; lost: 1 or 0; xid: its number; slow: ns")
    fault.add_argument("--card", type=int, default=0, metavar="N", help="index of the card; 0 when not given")
    remove = add_verb(actions, "remove", _remove, "delete a machine", EXAMPLES)
    _add_machine(remove)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "machine", nargs="?", metavar="MACHINE", help="name or folder; the one of CGPU_SIM_STATE, or t4"
    )
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="its state folder, instead of MACHINE")


def _machine(options: argparse.Namespace, settings: Settings) -> SimMachine:
    if options.state is not None:
        return SimMachine.open(options.state)
    if options.machine is None:
        return SimMachine.open(settings.sim_state) if settings.sim_state else SimMachine.open(machines_folder() / "t4")
    return SimMachine.open(_folder(options.machine))


def _folder(name: str) -> Path:
    if "/" in name:
        return Path(name)
    if not name or name.startswith("."):
        raise UsageError(f"not the name of a machine: {name!r}")
    return machines_folder() / name


def _create(options: argparse.Namespace, settings: Settings) -> int:
    del settings
    folder = options.state or _folder(options.name or Path(options.profile).stem)
    machine = SimMachine.create(folder, options.profile, driver=options.driver, cards=options.cards)
    print(f"{machine.folder} ({render.SIMULATED})")
    return 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    del settings
    found = [(machine, machine.status()) for machine in machines()]
    if options.json:
        rows = [
            {"name": machine.folder.name, "folder": str(machine.folder), **_summary(status)}
            for machine, status in found
        ]
        print(render.as_json(rows))
        return 0
    header = ("NAME", "CARDS", "GPU", "DRIVER", "FOLDER")
    print(
        render.table(
            header,
            [
                (
                    machine.folder.name,
                    str(len(status.cards)),
                    status.cards[0].name,
                    status.driver_version,
                    str(machine.folder),
                )
                for machine, status in found
            ],
        )
    )
    return 0


def _summary(status: MachineStatus) -> dict[str, object]:
    return {"simulated": True, "driver_version": status.driver_version, "cards": [card.name for card in status.cards]}


def _env(options: argparse.Namespace, settings: Settings) -> int:
    environment = _machine(options, settings).environment()
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
    print(render.as_json(environment) if options.json else exports)
    return 0


def _status(options: argparse.Namespace, settings: Settings) -> int:
    status = _machine(options, settings).status()
    if options.json:
        print(render.as_json({"simulated": True, **asdict(status)}))
    else:
        print("\n".join(_card_text(card) for card in status.cards))
    return 0


def _card_text(card: CardStatus) -> str:
    lost = ", fallen off the bus" if card.lost else ""
    head = (
        f"card {card.index}: {card.name} ({card.uuid}) [{render.SIMULATED}{lost}]\n"
        f"  memory {render.mebibytes(card.used_bytes)} used, {render.mebibytes(card.free_bytes)} free,"
        f" {render.mebibytes(card.reserved_bytes)} the driver's; busy {render.seconds(card.busy_ns)},"
        f" utilisation {card.utilisation_percent}%; {card.xid_count} Xid"
    )
    rows = [
        (
            str(row.pid or row.own_pid),
            row.comm,
            render.mebibytes(row.memory_bytes),
            render.seconds(row.busy_ns),
            str(row.kernels),
        )
        for row in card.processes
    ]
    listing = render.table(("PID", "COMMAND", "MEMORY", "BUSY", "KERNELS"), rows).replace("\n", "\n  ")
    return f"{head}\n  {listing}" if rows else head


def _fault(options: argparse.Namespace, settings: Settings) -> int:
    _machine(options, settings).fault(options.card, Fault[options.fault.upper()], options.value)
    return 0


def _remove(options: argparse.Namespace, settings: Settings) -> int:
    _machine(options, settings).remove()
    return 0

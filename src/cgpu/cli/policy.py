"""``cgpu policy``: how the GPUs divide their time."""

from __future__ import annotations

import argparse
from typing import Any

from cgpu.cli import render
from cgpu.cli.client import AgentClient, gpu_path
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.model.tenant import Policy
from cgpu.settings import Settings

EXAMPLES = """\
policies:
  1 preemptive   equal shares among the tenants that have work
  2 weighted     shares by weight; unused time goes to the others
  5 native       the driver's own scheduling: memory isolation only
  0 fair, 3 fixed and 4 soft are refused where the agent does not enforce them.
  default        1, and 2 as soon as a tenant's weight is above 1

examples:
  cgpu policy                     show all GPUs
  cgpu policy 2                   weighted, on every GPU
  cgpu policy default --gpu 0
  cgpu policy --gpu 0 --overcommit
"""
_NAMES = {policy.name.lower(): int(policy) for policy in Policy}
_HEADER = ("GPU", "UUID", "POLICY", "CHOSEN", "LAYER", "TENANTS", "OVERCOMMIT")


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "policy", run, "show or choose how GPUs divide their time", EXAMPLES)
    names = [*map(str, _NAMES.values()), *_NAMES, "default"]
    parser.add_argument("policy", nargs="?", choices=names, metavar="POLICY", help=", ".join(names))
    parser.add_argument("--gpu", metavar="IDX|UUID", help="one GPU; all of them when not given")
    parser.add_argument("--max-tenants", type=int, metavar="N", help="tenants that the GPU takes: 1 to 20")
    parser.add_argument(
        "--overcommit", action=argparse.BooleanOptionalAction, help="whether quotas may add up to more than the card"
    )
    add_json(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Change what is given, then print the GPUs concerned."""
    client = AgentClient.of(settings)
    gpus = [client.get(gpu_path(options.gpu))] if options.gpu else client.get("/v1/gpus")
    change: dict[str, Any] = {}
    if options.policy is not None:
        change["policy"] = None if options.policy == "default" else _number(options.policy)
    if options.max_tenants is not None:
        change["max_tenants"] = options.max_tenants
    if options.overcommit is not None:
        change["overcommit"] = options.overcommit
    if change:
        gpus = [client.patch(gpu_path(gpu["uuid"]), change) for gpu in gpus]
    print(render.as_json(gpus) if options.json else render.table(_HEADER, [_row(gpu) for gpu in gpus]))
    return 0


def _number(text: str) -> int:
    return _NAMES[text] if text in _NAMES else int(text)


def _row(gpu: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(gpu["index"]),
        gpu["uuid"],
        render.policy_name(gpu["policy"]),
        "default" if gpu["policy_chosen"] is None else render.policy_name(gpu["policy_chosen"]),
        gpu["compute_layer"],
        f"{gpu['tenants']}/{gpu['max_tenants']}",
        "yes" if gpu["overcommit"] else "no",
    )

"""``cgpu policy``: how the GPUs divide their time."""

from __future__ import annotations

import argparse
from typing import Any

from cgpu.adapters.agent_client import AgentClient, gpu_path
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.model.tenant import Policy
from cgpu.settings import Settings

EXAMPLES = """\
policies:
  0 fair         a slice of 1/max_inst each; unused slices are wasted
  1 preemptive   equal shares among the tenants that have work
  2 weighted     shares by --weight; unused time goes to the others
  3 fixed        the percentage given by --compute, never more
  4 soft         --compute is a guarantee; unused time goes to the others
  5 native       the driver's own scheduling: memory isolation only
  default        1, and 2 as soon as a tenant's weight is above 1

examples:
  cgpu policy                     show all GPUs
  cgpu policy 2                   weighted, on every GPU
  cgpu policy default --gpu 0
  cgpu policy --gpu 0 --overcommit
  cgpu policy 0 --max-inst 4      four slices of 25 %
  cgpu policy --prio-ratio 60     tenants of high priority take at most 60 % from the others
"""
_NAMES = {policy.name.lower(): int(policy) for policy in Policy}
_HEADER = ("GPU", "UUID", "POLICY", "CHOSEN", "LAYER", "TENANTS", "PRIO", "QUANTUM", "SLOTS", "OVERCOMMIT")


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "policy", run, "show or choose how GPUs divide their time", EXAMPLES)
    names = [*map(str, _NAMES.values()), *_NAMES, "default"]
    parser.add_argument("policy", nargs="?", choices=names, metavar="POLICY", help=", ".join(names))
    parser.add_argument("--gpu", metavar="IDX|UUID", help="one GPU; all of them when not given")
    parser.add_argument(
        "--max-inst", type=int, metavar="N", help="tenants that the GPU takes, and slices of policy 0: 1 to 20"
    )
    parser.add_argument(
        "--prio-ratio", type=int, metavar="PERCENT", help="what high priority may take from the others: 20 to 99"
    )
    parser.add_argument("--quantum", type=int, metavar="MS", help="length of a slot in milliseconds: 1 to 1000")
    parser.add_argument(
        "--share-slots",
        action=argparse.BooleanOptionalAction,
        help="whether tenants that leave the card idle in their slots have them together",
    )
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
    for name in ("max_inst", "prio_ratio", "overcommit", "share_slots"):
        if getattr(options, name) is not None:
            change[name] = getattr(options, name)
    if options.quantum is not None:
        change["quantum_ms"] = options.quantum
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
        f"{gpu['tenants']}/{gpu['max_inst']}",
        f"{gpu['prio_ratio']}%",
        f"{gpu['quantum_ms']}ms",
        "shared" if gpu["share_slots"] else "own",
        "yes" if gpu["overcommit"] else "no",
    )

"""``cgpu set``: change a running tenant."""

from __future__ import annotations

import argparse

from cgpu.adapters.agent_client import AgentClient, tenant_path
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_share, add_verb, share_amounts
from cgpu.cli.ps import listing
from cgpu.errors import UsageError
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu set training --memory 8GiB
  cgpu set training --weight 4
  cgpu set training --compute none            no percentage of its own any more
  cgpu set training --gpu 1 --memory 2GiB     one of its GPUs only

A quota below what the tenant uses is accepted: its allocations fail until it uses less.
The tenant of a Kubernetes claim goes no higher than its claim.
"""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "set", run, "change the share of a running tenant", EXAMPLES)
    parser.add_argument("tenant", help="its id or name, as `cgpu ps` shows it")
    parser.add_argument("--gpu", metavar="IDX|UUID", help="one of the tenant's GPUs; all of them when not given")
    add_share(parser, change=True)
    add_json(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Change it, and print it as it is now."""
    change: dict[str, int | str | None] = {**share_amounts(options)}
    if not change:
        raise UsageError("nothing to change", "give --memory, --compute, --compute-limit, --weight or --priority")
    if options.gpu is not None:
        change["gpu"] = options.gpu
    tenant = AgentClient.of(settings).patch(tenant_path(options.tenant), change)
    print(render.as_json(tenant) if options.json else listing([tenant]))
    return 0

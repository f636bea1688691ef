"""``cgpu agent``: the daemon of this node."""

from __future__ import annotations

import argparse
import json
import logging
import os

from cgpu.adapters.notify import notify
from cgpu.cli.agent_kubernetes import add_kubernetes, beside_agent
from cgpu.cli.detached_agent import READY
from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.errors import CgpuError
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu agent                          the node's agent, on /run/cgpu/agent.sock (as root)
  CGPU_SIM_STATE=/tmp/m cgpu agent    the agent of a simulated machine

It ends on SIGTERM. Tenants keep running at their shares without it; the next one takes them over.
"""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "agent", run, "run the daemon of this node", EXAMPLES)
    parser.add_argument("--private", action="store_true", help="end with the last tenant (what `cgpu run` starts)")
    add_kubernetes(parser)
    parser.add_argument("--ready-fd", type=int, help="descriptor that is told when the socket answers, or why not")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the daemon until it is told to end."""
    from cgpu.agent.main import run_agent  # the other verbs start faster without the daemon's modules

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # not a line for each request to the Kubernetes API
    if options.private:
        if settings.sim_state is not None:
            os.environ["CGPU_SIM_STATE"] = str(settings.sim_state)  # absolute
        os.chdir("/")  # the caller's folder stays free to be unmounted; not earlier, for a relative PYTHONPATH
    try:
        beside = {"beside": beside_agent(options, settings)} if options.kubernetes else {}
        run_agent(settings, private=options.private, ready=lambda: _tell(options.ready_fd, READY), **beside)
    except CgpuError as error:
        notify(f"STATUS={error.message} [{error.public_code}]")
        _tell(options.ready_fd, json.dumps({"code": error.code, "message": error.message, "remedy": error.remedy}))
        raise
    return 0


def _tell(descriptor: int | None, text: str) -> None:
    if descriptor is not None:
        os.write(descriptor, text.encode())
        os.close(descriptor)

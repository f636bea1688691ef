"""``cgpu k8s controller``: what one process of a cluster does for all of it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import threading
import uuid
from pathlib import Path
from typing import Final

from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.settings import Settings

EXAMPLES: Final = """\
examples:
  cgpu k8s controller --namespace cgpu-system

It tells pods that wait for a share of a GPU why, and takes away claim templates that no pod uses.
Several may run: one leads, and another takes over within 15 s. It ends on SIGTERM.
"""
_NAMESPACE: Final = "cgpu-system"


def add_controller(actions: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the action."""
    parser = add_verb(
        actions, "controller", run, "tell pods why they wait, and take away unused claim templates", EXAMPLES
    )
    parser.add_argument("--kubeconfig", metavar="FILE", type=Path, help="default: the pod's service account")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context")
    parser.add_argument(
        "--namespace",
        metavar="NAME",
        default=os.environ.get("POD_NAMESPACE") or _NAMESPACE,
        help=f"where the lease of the leader and the ledgers of quotas are (default: $POD_NAMESPACE, or {_NAMESPACE})",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - every verb is called so
    """Run until told to end. Raises ClusterError where there is no way to the cluster."""
    from cgpu.adapters.kube_lease import Election
    from cgpu.adapters.kube_objects import connect
    from cgpu.k8s.explainer import Explainer
    from cgpu.k8s.names import LEASE
    from cgpu.k8s.template_collector import TemplateCollector

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # not a line for each request
    identity = f"{socket.gethostname()}_{uuid.uuid4()}"
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with connect(options.kubeconfig, options.context, program="cgpu-controller") as api:
        election = Election(api, options.namespace, LEASE, identity)
        explainer = Explainer(api, election.leads, identity)
        collector = TemplateCollector(api, options.namespace, election.leads)
        threads = [
            threading.Thread(target=election.run, args=(explainer.wake,), name="election"),
            threading.Thread(target=explainer.run, name="explainer"),
            threading.Thread(target=collector.run, name="collector"),
        ]
        for thread in threads:
            thread.start()
        stopping.wait()
        for work in (explainer, collector, election):
            work.stop()
        for thread in threads:
            thread.join()
    return 0

"""``cgpu k8s uninstall-check`` and ``uninstall-rest``: before and after cgpu goes from a cluster."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.errors import RefusedError, UsageError
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.k8s.uninstall import Departure

EXAMPLES: Final = """\
examples:
  cgpu k8s uninstall-check                       may it be uninstalled? Shows the pods that have shares of GPUs
  cgpu k8s uninstall-check --drain               evicts them first; disruption budgets hold
  cgpu k8s uninstall-rest                        after `helm uninstall`: what the programs have made themselves

The chart runs both by itself. It refuses while claims are allocated. With --drain nothing is given until it ends.
"""
_NAMESPACE: Final = "cgpu-system"
_PATIENCE_S: Final = 240


def add_uninstall(actions: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the actions."""
    check = add_verb(
        actions, "uninstall-check", run_check, "refuse while pods have shares of GPUs, or evict them", EXAMPLES
    )
    check.add_argument("--drain", action="store_true", help="evict the pods that have shares, and wait for their end")
    check.add_argument(
        "--timeout", metavar="SECONDS", type=int, default=_PATIENCE_S,
        help=f"how long --drain waits (default: {_PATIENCE_S})",
    )  # fmt: skip
    check.add_argument(
        "--device-class", metavar="NAME", action="append", default=[],
        help="a DeviceClass of cgpu's cards beside gpu.cgpu.dev, which gives nothing meanwhile; may be repeated",
    )  # fmt: skip
    _add_access(check)
    rest = add_verb(actions, "uninstall-rest", run_rest, "remove what cgpu's programs have made in a cluster", EXAMPLES)
    rest.add_argument(
        "--namespace",
        metavar="NAME",
        default=os.environ.get("POD_NAMESPACE") or _NAMESPACE,
        help=f"that of webhook and controller (default: $POD_NAMESPACE, or {_NAMESPACE})",
    )
    _add_access(rest)


def _add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kubeconfig", metavar="FILE", type=Path, help="default: the pod's service account")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context")


def run_check(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - every verb is called so
    """Raise RefusedError while somebody has a share."""
    from cgpu.adapters.kube_objects import connect
    from cgpu.k8s.claim_check import CLASSES
    from cgpu.k8s.uninstall import Departure

    if options.timeout < 0:
        raise UsageError(f"--timeout is {options.timeout}", "it is a number of seconds")
    with connect(options.kubeconfig, options.context, program="cgpu-uninstall") as api:
        departure = Departure(api, lambda line: print(line, flush=True))
        if options.drain:
            _drain(departure, options.timeout, (*CLASSES, *options.device_class))
        departure.check()
    print("no claim is allocated: it may be uninstalled")
    return 0


def _drain(departure: Departure, seconds: float, classes: tuple[str, ...]) -> None:
    """Interrupted, it gives again what it held back."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    def wait(pause_s: float) -> None:
        if stopping.wait(pause_s):
            raise RefusedError("it was interrupted", "repeat it")

    departure.drain(seconds, time.monotonic, wait, classes)


def run_rest(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001
    """Remove it."""
    from cgpu.adapters.kube_objects import connect
    from cgpu.k8s.names import LEASE, SECRET
    from cgpu.k8s.uninstall import Departure

    with connect(options.kubeconfig, options.context, program="cgpu-uninstall") as api:
        Departure(api, print).remove_rest(options.namespace, SECRET, LEASE)
    return 0

"""``cgpu k8s webhook``: the API server's admission reviews."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.errors import ClusterError, UsageError
from cgpu.k8s import names
from cgpu.model.units import MIB, parse_memory
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.adapters.kube_objects import ObjectClient
    from cgpu.adapters.webhook_certificates import WebhookCertificates
    from cgpu.k8s.webhook import Serving

EXAMPLES = """\
examples:
  cgpu k8s webhook --namespace cgpu-system     as in the chart's Deployment; makes its own certificate
  cgpu k8s webhook --certificate-dir /tls      with a certificate that is mounted there, and renewed by others
"""
_FOLDER: Final = Path("/run/cgpu-webhook")
_PORT: Final = 8443


def add_webhook(actions: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the sub-verb."""
    parser = add_verb(actions, "webhook", run, "answer the API server's admission reviews", EXAMPLES)
    parser.add_argument("--kubeconfig", type=Path, help="how to reach the API (default: the pod's service account)")
    parser.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", "cgpu-system"),
        help="its own namespace (default: $POD_NAMESPACE, or cgpu-system)",
    )
    parser.add_argument("--address", default="0.0.0.0", help="where to listen (default: everywhere)")
    parser.add_argument("--port", type=int, default=_PORT, help=f"default: {_PORT}")
    serving = parser.add_argument_group("certificate")
    serving.add_argument(
        "--certificate-dir", type=Path, help="take tls.crt and tls.key from there; they are read again when they change"
    )
    serving.add_argument(
        "--service", default="cgpu-webhook", help="name of the Service: what its own certificate is for"
    )
    serving.add_argument("--secret", default=names.SECRET, help="Secret in which replicas share their certificate")
    serving.add_argument(
        "--own-certificate-dir", type=Path, default=_FOLDER, help=f"where it puts its own certificate ({_FOLDER})"
    )
    rules = parser.add_argument_group("rules")
    rules.add_argument(
        "--uneven-splits", action="store_true", help="divide memory that is no multiple of the cards, in MiB"
    )
    rules.add_argument(
        "--proportional-memory",
        action="store_true",
        help="a GiB of gpu-mem is the part of a card that ACK gives for it",
    )
    rules.add_argument(
        "--device-class",
        metavar="NAME",
        action="append",
        default=[],
        help="a DeviceClass of cgpu's cards beside gpu.cgpu.dev, for the checks of claims; may be repeated",
    )
    rules.add_argument(
        "--largest-card",
        metavar="AMOUNT",
        type=parse_memory,
        help="refuse more memory of one card than that (80GiB); else it is only warned of",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Answer until it is told to end."""
    del settings
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    if not 0 <= options.port <= 0xFFFF:
        raise UsageError(f"--port is {options.port}", "it is a number up to 65535")
    from cgpu.adapters.kube_objects import connect
    from cgpu.k8s.ack_pods import Rules
    from cgpu.k8s.claim_check import CLASSES
    from cgpu.k8s.webhook import Serving, serve

    # Blocked before any thread is started, so that none of them gets the signal.
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    api = connect(options.kubeconfig, program="cgpu-webhook")
    largest = None if options.largest_card is None else options.largest_card // MIB
    rules = Rules(options.uneven_splits, options.proportional_memory, largest)
    classes = (*CLASSES, *options.device_class)
    folder = options.certificate_dir or options.own_certificate_dir
    serving = Serving.in_folder(options.address, options.port, folder)
    certificates = None if options.certificate_dir else _own_certificates(options, api, serving)
    serve(api, rules, options.namespace, serving, lambda: signal.sigwait(signals), certificates, classes)
    return 0


def _own_certificates(options: argparse.Namespace, api: ObjectClient, serving: Serving) -> WebhookCertificates:
    """Makes sure that there is one before the server starts."""
    from datetime import UTC, datetime

    from cgpu.k8s.webhook_configuration import MUTATING, VALIDATING

    try:
        from cgpu.adapters.webhook_certificates import WebhookCertificates
    except ImportError as error:
        raise ClusterError(
            f"making certificates needs another package: {error}", "pip install 'cgpu[kubernetes]'"
        ) from error
    name = f"{options.service}.{options.namespace}"
    hosts = (f"{name}.svc", f"{name}.svc.cluster.local", name)
    configurations = (MUTATING, VALIDATING)
    made = WebhookCertificates(api, options.namespace, options.secret, hosts, serving.files, configurations)
    try:
        options.own_certificate_dir.mkdir(parents=True, exist_ok=True)
        made.round(datetime.now(UTC))
    except OSError as error:
        raise ClusterError(
            f"the certificate cannot be written: {error}", "give --own-certificate-dir a folder that it may write"
        ) from error
    return made

"""``cgpu k8s``: the parts of cgpu that run in a cluster beside the nodes' agents."""

from __future__ import annotations

import argparse

from cgpu.cli import k8s_controller, k8s_manifests, k8s_uninstall, k8s_webhook
from cgpu.cli.parsers import Subparsers, add_verb

_FURTHER = (k8s_controller, k8s_manifests, k8s_uninstall)
EXAMPLES = k8s_webhook.EXAMPLES + "".join(part.EXAMPLES.partition("\n")[2] for part in _FURTHER)


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb and what it can do."""
    parser = add_verb(subparsers, "k8s", k8s_webhook.run, "run cgpu's parts of a Kubernetes cluster", EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    k8s_webhook.add_webhook(actions)
    k8s_controller.add_controller(actions)
    k8s_manifests.add_manifests(actions)
    k8s_uninstall.add_uninstall(actions)

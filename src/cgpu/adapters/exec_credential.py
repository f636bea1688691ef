"""Credentials from a kubeconfig's ``exec`` plugin.

The protocol is kubernetes.io's "client-go credential plugins": the command gets what is asked in
``KUBERNETES_EXEC_INFO`` and prints an ``ExecCredential`` with a token or a client certificate.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgpu.errors import ClusterError

_VERSIONS: Final = tuple(f"client.authentication.k8s.io/{version}" for version in ("v1", "v1beta1", "v1alpha1"))
_SECONDS: Final = 120  # a plugin may wait for somebody who logs in with a browser
_SHOWN: Final = 400


@dataclass(frozen=True, slots=True)
class Credential:
    """What the plugin gave; empty texts are what it did not."""

    token: str
    certificate: str
    """The client's certificate and chain, as PEM."""

    key: str


def run_plugin(plugin: Mapping[str, Any], cluster: Mapping[str, Any]) -> Credential:
    """Ask the plugin of a kubeconfig's user. Raises ClusterError: not found, failed, or not understood."""
    version, command = str(plugin.get("apiVersion")), str(plugin.get("command") or "")
    if version not in _VERSIONS:
        raise ClusterError(f"the kubeconfig's exec plugin speaks {version}", f"known are {', '.join(_VERSIONS)}")
    try:
        ended = subprocess.run(
            [command, *map(str, plugin.get("args") or ())],
            env=_environment(plugin, cluster, version),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, ValueError) as error:
        hint = str(plugin.get("installHint") or "install it, or use another context")
        raise ClusterError(f"the kubeconfig's exec plugin {command!r} cannot be run: {error}", hint) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"the kubeconfig's exec plugin {command!r} gave no answer in {_SECONDS} s", "run it by hand to see why"
        ) from error
    if ended.returncode != 0:
        said = ended.stderr.decode(errors="replace").strip()[-_SHOWN:]
        raise ClusterError(
            f"the kubeconfig's exec plugin {command!r} failed with {ended.returncode}: {said}", "log in again with it"
        )
    return parse_credential(ended.stdout, command)


def parse_credential(output: bytes, command: str) -> Credential:
    """What the plugin printed. Raises ClusterError, which never quotes the output: it holds a secret."""
    try:
        status = json.loads(output)["status"]
        parts = [status.get(name) for name in ("token", "clientCertificateData", "clientKeyData")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        parts = [0]
    if not all(part is None or isinstance(part, str) for part in parts):
        raise ClusterError(
            f"the kubeconfig's exec plugin {command!r} printed no ExecCredential", "run it by hand to see why"
        )
    token, certificate, key = (part or "" for part in parts)
    if not token and not (certificate and key):
        raise ClusterError(f"the kubeconfig's exec plugin {command!r} gave no credential", "log in again with it")
    return Credential(token, certificate, key)


def _environment(plugin: Mapping[str, Any], cluster: Mapping[str, Any], version: str) -> dict[str, str]:
    asked: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
        asked["cluster"] = {name: cluster[name] for name in names if name in cluster}
    info = json.dumps({"apiVersion": version, "kind": "ExecCredential", "spec": asked})
    added = {str(item["name"]): str(item["value"]) for item in plugin.get("env") or () if isinstance(item, dict)}
    return {**os.environ, **added, "KUBERNETES_EXEC_INFO": info}

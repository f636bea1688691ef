"""Webhooks as a cluster has them: two replicas behind one name, with the rights of their service account.

No Service is needed: on the control plane's host the name leads to this host, and its packet filter to one
replica or the other by turns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import yaml

from cgpu.k8s.chart import Chart, Release
from cgpu.k8s.webhook_configuration import Service, configurations
from tests.e2e.host import Process, eventually
from tests.e2e.kube.control_plane import ControlPlane
from tests.e2e.node import SOURCE
from tests.e2e.tools import SEARCHED

NAMESPACE: Final = "cgpu-system"
_NAME: Final = f"cgpu-webhook.{NAMESPACE}.svc"
PREPARE: Final = (f"(cat /etc/hosts; echo 127.0.0.1 {_NAME}) >$FOLDER/hosts && mount --bind $FOLDER/hosts /etc/hosts",)
"""Of the host: see tests.e2e.host."""

_PORTS: Final = (8443, 8444)
_TURNS: Final = f"""
table ip webhooks {{
  chain output {{
    type nat hook output priority -100
    ip daddr 127.0.0.1 tcp dport 443 redirect to :numgen inc mod 2 map {{ 0 : {_PORTS[0]}, 1 : {_PORTS[1]} }}
  }}
}}
"""
_RIGHTS: Final = 4  # a role and its binding, in the cluster and in the webhook's namespace
_ASK: Final = """
import ssl, sys, urllib.request
port, path = sys.argv[1:]
head = {"Content-Type": "application/json"}
asked = urllib.request.Request(f"https://127.0.0.1:{port}{path}", sys.stdin.read().encode(), head)
print(urllib.request.urlopen(asked, context=ssl._create_unverified_context()).read().decode())
"""
_CLASS: Final = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "DeviceClass",
    "metadata": {"name": "gpu.cgpu.dev"},
    "spec": {"selectors": [{"cel": {"expression": 'device.driver == "gpu.cgpu.dev"'}}]},
}


@dataclass
class Webhooks:
    """A context manager, on a control plane that runs."""

    control_plane: ControlPlane
    options: Sequence[str] = ()
    replicas: dict[int, Process] = field(default_factory=dict)

    def __enter__(self) -> Self:
        plane, host = self.control_plane, self.control_plane.host
        service = Service(NAMESPACE, url=f"https://{_NAME}")
        account = f"system:serviceaccount:{NAMESPACE}:{service.account}"
        self._kubeconfig = plane.pki.kubeconfig("webhook", plane.server, account)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self.apply(namespace, *_rights(service), _CLASS, *configurations(service))
        for binding in ("clusterrolebinding", f"rolebinding --namespace={NAMESPACE}"):
            # The certificate that stands for the service account's token names a user.
            kind, *rest = binding.split()
            patch = [{"op": "replace", "path": "/subjects", "value": [{"kind": "User", "name": account}]}]
            plane.kubectl("patch", kind, service.account, *rest, "--type=json", f"--patch={json.dumps(patch)}")
        host.run("nft", _TURNS, check=True)
        try:
            for port in _PORTS:
                self.start(port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self.replicas):
            self.control_plane.host.stop(self.replicas.pop(port))

    def start(self, port: int) -> None:
        """Start a replica, and wait until it answers."""
        host = self.control_plane.host
        folder = host.folder / f"webhook-{port}"
        process = host.start(
            sys.executable, "-m", "cgpu", "k8s", "webhook", f"--kubeconfig={self._kubeconfig}",
            f"--namespace={NAMESPACE}", "--address=127.0.0.1", f"--port={port}", f"--own-certificate-dir={folder}",
            *self.options, log=host.folder / f"webhook-{port}.log", env=self.environment,
        )  # fmt: skip
        self.replicas[port] = process
        eventually(lambda: process.poll() is not None or "answering on" in self.log(port), "the webhook answers")
        assert process.poll() is None, self.log(port)

    def restart(self) -> None:
        """End all replicas and start them again."""
        self.__exit__()
        for port in _PORTS:
            self.log_file(port).unlink()
            self.start(port)

    def log_file(self, port: int) -> Any:
        """Of a replica."""
        return self.control_plane.host.folder / f"webhook-{port}.log"

    def log(self, port: int) -> str:
        """What a replica has told."""
        path = self.log_file(port)
        return str(path.read_text()) if path.exists() else ""

    @property
    def environment(self) -> dict[str, str]:
        """Of programs of ours on the control plane's host."""
        return {"PATH": SEARCHED, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": f"{SOURCE}:{SOURCE.parent}"}

    def python(self, module: str, *arguments: str, text_in: str = "") -> str:
        """Run a module as the administrator on the control plane's host; what it prints."""
        host = self.control_plane.host
        environment = {**self.environment, "KUBECONFIG": str(self.control_plane.admin)}
        result = host.run(sys.executable, "-m", module, *arguments, text_in=text_in, env=environment, check=True)
        return result.stdout

    def begin(self, module: str, text_in: str) -> Process:
        """The same, left to itself, with pipes: its input is written and closed."""
        environment = {**self.environment, "KUBECONFIG": str(self.control_plane.admin)}
        process = self.control_plane.host.start(sys.executable, "-m", module, env=environment)
        assert process.stdin
        process.stdin.write(text_in)
        process.stdin.close()
        return process

    def dry_answers(self, path: str, document: Any) -> list[str]:
        """What each replica answers to a dry run of an object, "" for yes: the API server asks one of them."""
        review = {
            "uid": "tried",
            "kind": {"kind": document["kind"]},
            "namespace": document["metadata"]["namespace"],
            "operation": "CREATE",
            "object": document,
            "dryRun": True,
        }
        text = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": review})
        host = self.control_plane.host
        found = []
        for port in self.replicas:
            said = host.run(sys.executable, "-c", _ASK, str(port), path, text_in=text, env=self.environment, check=True)
            response = json.loads(said.stdout)["response"]
            found.append("" if response["allowed"] else str(response["status"]["message"]))
        return found

    def apply(self, *documents: Any) -> str:
        """Apply documents as the administrator; what kubectl says, warnings included."""
        return self.control_plane.kubectl("apply", "--filename=-", text_in=yaml.safe_dump_all(documents))


def _rights(service: Service) -> list[Any]:
    """What the chart gives the webhook's service account: roles and their bindings."""
    manifests = Chart().render(Release("cgpu", service.namespace), {})
    found = [one.text for one in manifests if one.name == service.account and "Role" in one.kind]
    assert len(found) == _RIGHTS
    return [yaml.safe_load(text) for text in found]

"""A node: containerd, kubelet and kube-proxy on a host, each as a real node has it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.e2e.host import Host
from tests.e2e.kube.control_plane import ControlPlane
from tests.e2e.kube.daemons import Daemons
from tests.e2e.tools import SEARCHED, program

PAUSE: Final = "docker.io/local/pause:1"
_CNI: Final = "/usr/lib/cni"
# Beside v1 the hierarchy of cgroup v2 has no controllers: runc fails where it is told to set one, and the kubelet makes
# no cgroups for pods. Here containers are below their pod's as on any other node.
_RUNC_WITHOUT_CONTROLLERS: Final = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
if "create" in arguments:
    path = os.path.join(arguments[arguments.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    config["linux"]["resources"] = {{"devices": config["linux"]["resources"]["devices"]}}
    pod = config["annotations"]["io.kubernetes.cri.sandbox-uid"]
    config["linux"]["cgroupsPath"] = "/cgpu-e2e/pod%s/%s" % (pod, arguments[-1])
    with open(path, "w") as file:
        json.dump(config, file)
os.execv("{runc}", ["{runc}", *arguments])
"""


@dataclass
class Worker:
    """A context manager. ``name`` is the node's; its parts are known by their programs' names."""

    host: Host
    name: str
    address: str
    pods: str
    control_plane: ControlPlane
    containerd: Path

    def __post_init__(self) -> None:
        self._daemons = Daemons(self.host, self.folder, os.pathsep.join([str(self.containerd), SEARCHED]))

    @property
    def folder(self) -> Path:
        """Configuration, images and logs. What has its place on every node (/var/lib/kubelet) is there."""
        return self.host.folder / "node"

    @property
    def socket(self) -> str:
        """containerd's."""
        return f"{self.folder}/containerd.sock"

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self._write_configuration()
        try:
            for name in ("containerd", "kubelet", "kube-proxy"):
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._daemons.stop("kube-proxy", "kubelet", "containerd")

    def start(self, name: str) -> None:
        """Start a program; containerd is waited for."""
        programs = self.containerd if name == "containerd" else self.control_plane.programs
        ready = self._answers if name == "containerd" else None
        self._daemons.start(name, programs / name, self._options(name), ready)

    def ended(self) -> Iterator[str]:
        """Of each program that was not to end and has: how, and its last words."""
        return self._daemons.ended()

    def kill(self, name: str) -> None:
        """End a program without a word; its containers go on."""
        self._daemons.kill(name)

    def ctr(self, *arguments: str) -> str:
        """containerd's own command, in the namespace that the kubelet's containers have."""
        return self.host.run(*self._ctr, "--namespace=k8s.io", *arguments, env={"PATH": SEARCHED}, check=True).stdout

    def import_image(self, archive: Path) -> None:
        """Put an image, an OCI layout in a tar, on this node."""
        self.ctr("images", "import", str(archive))

    def ready(self) -> bool:
        """Whether the API server takes the node for ready."""
        nodes: dict[str, Any] = json.loads(self.control_plane.kubectl("get", "nodes", "-o=json"))
        conditions = [
            condition
            for item in nodes["items"]
            if item["metadata"]["name"] == self.name
            for condition in item["status"].get("conditions", ())
        ]
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    @property
    def _ctr(self) -> tuple[str, ...]:
        return str(self.containerd / "ctr"), f"--address={self.socket}"

    def _answers(self) -> bool:
        return self.host.run(*self._ctr, "version", env={"PATH": SEARCHED}).returncode == 0

    def _options(self, name: str) -> list[str]:
        match name:
            case "containerd":
                return [f"--config={self.folder / 'containerd.toml'}"]
            case "kubelet":
                return [
                    f"--config={self.folder / 'kubelet.yaml'}",
                    f"--kubeconfig={self.folder / 'kubelet.kubeconfig'}",
                    f"--hostname-override={self.name}",
                    f"--node-ip={self.address}",
                ]
            case _:
                return [f"--config={self.folder / 'kube-proxy.yaml'}", f"--hostname-override={self.name}"]

    def _write_configuration(self) -> None:
        pki, server = self.control_plane.pki, self.control_plane.server
        user = f"system:node:{self.name}"
        kubelet = pki.kubeconfig(f"kubelet-{self.name}", server, user, groups=["system:nodes"])
        proxy = pki.kubeconfig(f"kube-proxy-{self.name}", server, "system:kube-proxy")
        (self.folder / "kubelet.kubeconfig").symlink_to(kubelet)
        self._write_yaml("kubelet.yaml", self._kubelet())
        self._write_yaml(
            "kube-proxy.yaml",
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "clientConnection": {"kubeconfig": str(proxy)},
                "conntrack": {"maxPerCore": 0},  # not this namespace's to set
            },
        )
        (self.folder / "containerd.toml").write_text(self._containerd())
        self._write_network()

    def _write_network(self) -> None:
        folder = self.folder / "cni"
        folder.mkdir()
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": self.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": f"{folder}/leases",
        }
        bridge = {"type": "bridge", "bridge": "br-pods", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        document = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}
        (folder / "10-pods.conflist").write_text(json.dumps(document))

    def _kubelet(self) -> dict[str, Any]:
        pki = self.control_plane.pki
        serving = pki.sign(f"serving-{self.name}", self.name, hosts=[self.name, self.address])
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"x509": {"clientCAFile": str(pki.authority)}, "anonymous": {"enabled": False}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "featureGates": {"KubeletInUserNamespace": True},  # root without CAP_SYS_RESOURCE is enough
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "maxPods": 250,
            "podLogsDir": f"{self.folder}/pod-logs",
        }

    def _containerd(self) -> str:
        return f"""version = 3
root = "{self.folder}/containerd"
state = "{self.folder}/containerd-state"
[grpc]
address = "{self.socket}"
[plugins.'io.containerd.cri.v1.runtime']
enable_cdi = true
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
restrict_oom_score_adj = true
disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{_CNI}"]
conf_dir = "{self.folder}/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{self._runtime()}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
"""

    def _runtime(self) -> str:
        runc = program("runc")
        if not self.host.only_v2:
            return runc
        path = self.folder / "runc"
        path.write_text(_RUNC_WITHOUT_CONTROLLERS.format(python=sys.executable, runc=runc))
        path.chmod(0o755)
        return str(path)

    def _write_yaml(self, file: str, document: dict[str, Any]) -> None:
        (self.folder / file).write_text(yaml.safe_dump(document))

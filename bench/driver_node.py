"""A node with the agent as its driver and no kubelet: the API server is real, and who measures plays the kubelet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import yaml

from tests.e2e.host import Host
from tests.e2e.kube import network, programs
from tests.e2e.kube.control_plane import ControlPlane
from tests.e2e.node import Node

NAME: Final = "node-0"
DRIVER: Final = "gpu.cgpu.dev"
_RUNTIME: Final = "/run/cgpu"
_KUBELET: Final = "/run/kubelet"
_CDI: Final = "/run/cdi"
_LABELS: Final = {"ack.node.gpu.schedule": "core_mem"}


@dataclass
class DriverNode(Node):
    """A context manager. Its folders are in memory, on /run, as those of a node are."""

    control_plane: ControlPlane | None = None

    def __enter__(self) -> Self:
        assert self.control_plane
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME, "labels": _LABELS}}
        self.control_plane.kubectl("create", "--filename=-", text_in=yaml.safe_dump(node))
        self.make_machine()
        self.host.run("mkdir", "-p", f"{_KUBELET}/plugins", f"{_KUBELET}/plugins_registry", check=True)
        self.start_agent(
            "--kubernetes",
            f"--node-name={NAME}",
            f"--kubeconfig={self.control_plane.admin}",
            f"--kubelet-dir={_KUBELET}",
            f"--cdi-dir={_CDI}",
        )
        return self

    @property
    def environment(self) -> dict[str, str]:
        """See Node."""
        here = str(Path(__file__).parents[1])
        path = f"{super().environment['PYTHONPATH']}:{here}"
        return super().environment | {"CGPU_RUNTIME_DIR": _RUNTIME, "PYTHONPATH": path}

    def answers(self) -> bool:
        """See Node: /run is seen from inside only."""
        return self.host.run("test", "-S", self.socket).returncode == 0

    @property
    def socket(self) -> str:
        """On which claims are prepared."""
        return f"{_KUBELET}/plugins/{DRIVER}/dra.sock"

    @property
    def registration(self) -> str:
        """By which the kubelet learns of it."""
        return f"{_KUBELET}/plugins_registry/{DRIVER}-reg.sock"


@contextlib.contextmanager
def control_plane(minor: str = programs.DEFAULT, prepare: tuple[str, ...] = ()) -> Iterator[ControlPlane]:
    """A control plane on a host of its own; ``prepare`` are commands for the host."""
    built, etcd = programs.kubernetes(minor), programs.etcd()
    with Host(prepare=prepare) as host:
        network.connect([host])
        with ControlPlane(host, network.node_address(0), built, etcd) as plane:
            yield plane

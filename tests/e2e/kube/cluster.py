"""A whole cluster of two nodes: every program of Kubernetes is real, and so are the containers.

    python -m tests.e2e.kube.cluster [1.37]    start one with cgpu, say how to reach it, end it with Ctrl-C

Each node has namespaces of its own for mounts, network and processes; the control plane runs on the first.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from tests.e2e import tools
from tests.e2e.host import Host, eventually
from tests.e2e.kube import images, network, programs
from tests.e2e.kube.control_plane import KUBECTL, ControlPlane
from tests.e2e.kube.worker import PAUSE, Worker

NODES: Final = ("node-a", "node-b")
_KUBELET: Final = Path("/var/lib/kubelet")
# What stays writable: /tmp, the folder with everything of the test's, what containerd, runc and CNI have below /run
# and in /var/lib/cni, and what the chart says that it writes.
_READ_ONLY: Final = (
    "mount --bind /tmp /tmp",
    "mount --bind $FOLDER $FOLDER",
    "cd /run && mkdir containerd nri runc netns cdi cgpu cgpu-machine lock && cd /",
    "mkdir -p /var/lib/cni",
    "for part in /run/* /var/lib/cni; do mount -t tmpfs -o mode=755 tmpfs $part; done",
    "mount -o remount,bind,ro /run",
    "mount -o remount,bind,ro /",
)
_HELP: Final = """
It runs until Ctrl-C. From another shell, as root:
  alias kubectl='{kubectl}'
  kubectl get resourceslices -o yaml
The image docker.io/local/client:1 is there for pods (examples: tests/e2e/kube/test_pods.py).
"""


@dataclass
class Cluster:
    """A context manager."""

    minor: str = programs.DEFAULT
    nodes: tuple[str, ...] = NODES
    only_v2: bool = False
    """Whether the nodes have cgroup v2 alone, without controllers; else what this machine has of v1."""
    read_only: bool = False
    """Whether the nodes' root is read-only, as that of systems that are made for containers alone."""
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            built, etcd, containerd = programs.kubernetes(self.minor), programs.etcd(), tools.containerd()
            undo.enter_context(_folder_of_kubelet())
            hosts = [undo.enter_context(_host(self.only_v2, self.read_only)) for _ in self.nodes]
            network.connect(hosts)
            self.control_plane = ControlPlane(hosts[0], network.node_address(0), built, etcd)
            undo.enter_context(self.control_plane)
            pause = images.pause(hosts[0].folder / "images", PAUSE)
            self.workers = []
            for number, (name, host) in enumerate(zip(self.nodes, hosts, strict=True)):
                address, pods = network.node_address(number), network.pod_network(number)
                worker = undo.enter_context(Worker(host, name, address, pods, self.control_plane, containerd))
                worker.import_image(pause)
                self.workers.append(worker)
            for worker in self.workers:
                eventually(worker.ready, f"{worker.name} is ready")
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _host(only_v2: bool, read_only: bool) -> Host:
    """A host with the machine's own cgroups, where the kubelet is to set limits, and an own folder for the kubelet."""
    return Host(
        only_v2=only_v2,
        prepare=(
            "mount --make-rshared /",  # as on any host: that is how volumes are passed on to containers
            f"mkdir $FOLDER/kubelet && mount --bind $FOLDER/kubelet {_KUBELET}",
            *(_READ_ONLY if read_only else ()),
        ),
    )


@contextlib.contextmanager
def _folder_of_kubelet() -> Iterator[None]:
    """The place on which each node mounts its own."""
    is_new = not _KUBELET.exists()
    _KUBELET.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if is_new:
            _KUBELET.rmdir()


def main() -> None:
    """Keep one running, with cgpu in it, until it is interrupted."""
    from tests.e2e.kube.installation import Installation  # which needs this module

    minor = sys.argv[1] if len(sys.argv) > 1 else programs.DEFAULT
    signals = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    print(f"starting Kubernetes {minor} with nodes {' and '.join(NODES)}", flush=True)
    with Cluster(minor) as cluster:
        print("installing cgpu", flush=True)
        Installation(cluster).begin()
        first, admin = cluster.control_plane.host.first, cluster.control_plane.admin
        print(_HELP.format(kubectl=f"nsenter --target={first} --net {KUBECTL} --kubeconfig={admin}"), flush=True)
        signal.sigwait(signals)
        print("ending it", flush=True)


if __name__ == "__main__":
    main()

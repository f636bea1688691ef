"""``cgpu agent --kubernetes``: the agent as this node's driver."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgpu.adapters.pci import numa_node
from cgpu.errors import ClusterError
from cgpu.model.tenant import Gpu, MemoryLayer, Policy, Tenant
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.agent.ports import GpuNode
    from cgpu.agent.state import NodeState
    from cgpu.k8s.slices import Card

_KUBELET: Final = Path("/var/lib/kubelet")
_CDI: Final = Path("/var/run/cdi")


def add_kubernetes(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("Kubernetes")
    group.add_argument(
        "--kubernetes", action="store_true", help="publish this node's GPUs and prepare claims for its kubelet"
    )
    group.add_argument(
        "--node-name",
        default=os.environ.get("NODE_NAME") or socket.gethostname().lower(),
        help="the Node's name (default: $NODE_NAME, or the host's)",
    )
    group.add_argument("--kubeconfig", type=Path, help="how to reach the API (default: the pod's service account)")
    group.add_argument("--kubelet-dir", type=Path, default=_KUBELET, help=f"the kubelet's folder (default: {_KUBELET})")
    group.add_argument("--cdi-dir", type=Path, default=_CDI, help=f"where CDI files go (default: {_CDI})")


def beside_agent(
    options: argparse.Namespace, settings: Settings
) -> Callable[[NodeState, GpuNode], AbstractContextManager[object]]:
    """Makes the node driver, once the agent has its state. Raises ClusterError."""
    try:
        from cgpu.k8s.node import NodeDriver
    except ImportError as error:
        raise ClusterError(
            f"the node driver needs another package: {error}", "pip install 'cgpu[kubernetes]'"
        ) from error
    from cgpu.adapters.alibaba import sign_of_cgpu
    from cgpu.adapters.cdi.driver_files import driver_tree
    from cgpu.adapters.kube_objects import connect

    api = connect(options.kubeconfig, program="cgpu-agent")

    def module() -> str:
        return sign_of_cgpu(settings.host_root) if settings.sim_state is None else ""  # a simulated card is nobody's

    def make(state: NodeState, node: GpuNode) -> AbstractContextManager[object]:
        return NodeDriver(
            api,
            _State(state, node, settings.host_root),
            node,
            node=options.node_name,
            instance=os.environ.get("POD_UID", ""),
            runtime_dir=settings.runtime_dir,
            socket=settings.agent_socket,
            kubelet_dir=options.kubelet_dir,
            cdi_folder=options.cdi_dir,
            sim_state=settings.sim_state,
            driver=driver_tree(settings),
            module=module,
        )

    return make


class _State:
    """The agent's state as the node driver wants it."""

    def __init__(self, state: NodeState, node: GpuNode, root: Path) -> None:
        self._state = state
        # What does not change, also for the time in which a card does not answer.
        self._memory = {gpu.uuid: gpu.total_bytes - node.driver_reserved_bytes(gpu) for gpu in state.gpus()}
        self._numa = {gpu.uuid: numa_node(root, gpu.pci_bus_id) for gpu in state.gpus()}

    def gpus(self) -> Sequence[Gpu]:
        return self._state.gpus()

    def tenants(self) -> Sequence[Tenant]:
        return [record.tenant for record in self._state.records()]

    def create(self, tenant: Tenant) -> object:
        return self._state.create(tenant)

    def remove(self, name: str) -> bool:
        return self._state.remove(name)

    def region(self, tenant_id: str) -> Path:
        return self._state.region(tenant_id)

    def driver_limits(self, tenant: Tenant) -> bool:
        limits, gpus = self._state.limits, self._state.gpus()
        cards = [gpu for gpu in gpus if tenant.share_on(gpu.uuid) is not None]
        return all(MemoryLayer.DRIVER in limits.layers((gpu,)) for gpu in cards)

    def card(self, uuid: str) -> Card:
        from cgpu.k8s.slices import Card

        gpu = self._state.gpu(uuid)
        return Card(
            gpu,
            memory_bytes=self._memory[uuid],
            memory_layer=self._state.limits.layers((gpu,))[0],
            policy=self._state.policy_in_force(gpu).name.lower(),
            tenants_max=self._state.policy(gpu).max_inst,
            numa_node=self._numa[uuid],
        )

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._state.subscribe(changed)

    def enforce_percentages(self) -> None:
        for gpu in self._state.gpus():
            policy = self._state.policy(gpu)
            if policy.policy is None:
                self._state.set_policy(gpu, replace(policy, policy=Policy.SOFT))

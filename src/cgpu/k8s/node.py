"""The node driver: publishes what the cards offer, and prepares the claims that the scheduler has placed here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, Self

from cgpu.adapters.cdi.driver_files import DriverTree
from cgpu.adapters.kube_objects import ObjectClient
from cgpu.adapters.kubelet.plugin import DeviceState, KubeletPlugin
from cgpu.k8s import names
from cgpu.k8s.health import CardSource, HealthWatch
from cgpu.k8s.isolation import Isolation, Sharing
from cgpu.k8s.preparer import ClaimPreparer, Tenants
from cgpu.k8s.publisher import Publisher
from cgpu.k8s.slices import Card, device_name

_LOG: Final = logging.getLogger(__name__)


class AgentState(Tenants, Protocol):
    """What of the agent is published."""

    def card(self, uuid: str) -> Card:
        """A card as it is now, whether or not it is well. Raises DriverError."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """``changed`` is called after tenants or policies have changed."""

    def enforce_percentages(self) -> None:
        """From now on a tenant's percentage of compute holds, on every card whose policy nobody has chosen."""


class NodeDriver:
    """A context manager: what runs beside the agent's API while it serves."""

    def __init__(
        self,
        api: ObjectClient,
        state: AgentState,
        source: CardSource,
        *,
        node: str,
        instance: str,
        runtime_dir: Path,
        socket: Path,
        kubelet_dir: Path,
        cdi_folder: Path,
        sim_state: Path | None,
        driver: DriverTree | None,
        module: Callable[[], str] = lambda: "",
    ) -> None:
        """``instance`` tells this process from another version of it on the node: a pod's uid, or empty.

        ``module`` tells the sign of Alibaba's cGPU on the host, or "".
        """
        self._api = api
        self._state = state
        self._node = node
        self._publisher = Publisher(api, node, self, adapt=self._adapt, module=module)
        self._preparer = ClaimPreparer(
            api,
            state,
            runtime_dir=runtime_dir,
            socket=socket,
            cdi_folder=cdi_folder,
            sim_state=sim_state,
            driver=driver,
            check_node=self._publisher.manager.check,
            isolation=self._publisher.isolation,
            changed=self._publisher.wake,
        )
        self._changed = threading.Condition()
        self._stopping = False
        self._health = HealthWatch(source, state.gpus(), self._card_changed)
        self._thread = threading.Thread(target=self._publisher.run, name="publisher", daemon=True)
        self._plugin = KubeletPlugin(
            names.DRIVER,
            instance,
            self._preparer,
            self,
            plugins=kubelet_dir / "plugins",
            registry=kubelet_dir / "plugins_registry",
            registered=self._registered,
        )

    def __enter__(self) -> Self:
        self._health.start()
        self._state.subscribe(self._publisher.wake)
        self._plugin.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._publisher.stop()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._plugin.stop()
        self._health.stop()
        self._api.close()

    # ---- Cards ----

    def cards(self) -> list[Card]:
        """See Cards."""
        return [self._card(gpu.uuid) for gpu in self._state.gpus()]

    def _card(self, uuid: str) -> Card:
        card, ailment = self._state.card(uuid), self._health.ailment(uuid)
        return replace(card, unhealthy=ailment.name, evict=ailment.lost) if ailment else card

    def allocated_bytes(self) -> dict[str, int]:
        """See Cards."""
        found = self._preparer.unlimited.memory_bytes()
        for tenant in self._state.tenants():
            for share in tenant.promised or tenant.shares:
                found[share.gpu_uuid] = found.get(share.gpu_uuid, 0) + share.memory_bytes
        return found

    # ---- HealthSource ----

    def states(self) -> Sequence[DeviceState]:
        """See HealthSource."""
        gpus = self._state.gpus()
        uuids = [gpu.uuid for gpu in gpus]
        found = []
        for gpu in gpus:
            ailment = self._health.ailment(gpu.uuid)
            message = ailment.message if ailment else ""
            found.append(DeviceState(self._node, device_name(gpu.uuid, uuids), not ailment, message))
        return found

    def wait(self, told: Sequence[DeviceState], seconds: float) -> None:
        """See HealthSource."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self.states() != told, seconds)

    # ---- what others tell ----

    def _card_changed(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._publisher.wake()

    def _registered(self, refusal: str) -> None:
        """Devices that no kubelet prepares are not offered."""
        if not refusal and not self._thread.is_alive():
            self._thread.start()
        self._publisher.wake()

    def _adapt(self, sharing: Sharing | None) -> None:
        if sharing is not None and sharing.isolation is Isolation.MEMORY_AND_COMPUTE:
            self._state.enforce_percentages()

"""Makes claims ready for the pods that start on this node: a tenant per request, its view, one CDI file per claim.

Nothing is remembered here. The tenants are in the agent's checkpoint under ids that are made of the claim's
uid, and the CDI file and the views are made from them, again where they are gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from cgpu.adapters import host_files
from cgpu.adapters.cdi import spec
from cgpu.adapters.container_view import make_view
from cgpu.adapters.kube_objects import CLAIMS, ObjectClient
from cgpu.adapters.kubelet.plugin import ClaimKey, PreparedDevice
from cgpu.adapters.native import RUNTIME, content_named_copy, native_library
from cgpu.errors import CapacityError, CgpuError, ClaimError, StateError
from cgpu.k8s import names
from cgpu.k8s.claims import CardShare, ClaimShares, RequestShare, shares_of, tenant_prefix
from cgpu.k8s.slices import device_name
from cgpu.model import container
from cgpu.model.tenant import Gpu, Share, Tenant

_FILE_MODE: Final = 0o644
_PATIENCE_S: Final = 38.0  # the kubelet waits 45 s for an answer, and a pod that ends has 30 s by default
_WAITING_MAX: Final = 24  # fewer than the threads that answer the kubelet, or nothing could end any more


class Tenants(Protocol):
    """The agent's state, as far as it is needed here."""

    def gpus(self) -> Sequence[Gpu]:
        """All cards."""

    def tenants(self) -> Sequence[Tenant]:
        """All tenants, of whatever kind."""

    def create(self, tenant: Tenant) -> object:
        """Make a tenant. Raises RefusedError or one of its kinds when the node says no."""

    def remove(self, name: str) -> bool:
        """End a tenant; False when there is none."""

    def region(self, tenant_id: str) -> Path:
        """The tenant's folder."""


class ClaimPreparer:
    """Prepares and takes back. Safe for several threads; claims are handled one after the other."""

    def __init__(
        self,
        api: ObjectClient,
        tenants: Tenants,
        *,
        runtime_dir: Path,
        cdi_folder: Path,
        sim_state: Path | None,
        changed: Callable[[], None] = lambda: None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """``runtime_dir`` and ``cdi_folder`` have the same paths on the host.

        ``changed`` is called after shares came or went.
        """
        self._api = api
        self._tenants = tenants
        self._views = runtime_dir / "k8s"
        self._programs = runtime_dir / "lib"
        self._cdi_folder = cdi_folder
        self._sim_state = sim_state
        self._changed = changed
        self._lock = threading.Condition()
        self._waiting = 0
        self._patience_s = patience_s

    def prepare(self, claim: ClaimKey) -> Sequence[PreparedDevice]:
        """See Preparer. Raises ClaimError, RefusedError or one of its kinds, StateError, ClusterError."""
        found = self._api.get(CLAIMS, claim.namespace, claim.name)
        if found is None:
            raise ClaimError(f"claim {claim.namespace}/{claim.name} is gone", "the pod has to be made anew")
        shares = shares_of(found, claim.uid)
        with self._lock:
            self._make_once_there_is_room(shares)
        self._changed()
        return [
            device for number, request in enumerate(shares.requests) for device in _answers(shares, number, request)
        ]

    def unprepare(self, claim: ClaimKey) -> None:
        """See Preparer. Raises StateError."""
        with self._lock:
            self._take_back(claim.uid)
            self._lock.notify_all()
        self._changed()

    def _make_once_there_is_room(self, shares: ClaimShares) -> None:
        """The share of a pod that was deleted by force is given away before the pod has ended here.

        The kubelet tries again only after a minute or two; so the end is waited for, with the lock given up.
        """
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return self._make(shares)
            except CapacityError:
                left = give_up - time.monotonic()
                if left <= 0 or self._waiting >= _WAITING_MAX:
                    raise
            self._waiting += 1
            self._lock.wait(left)
            self._waiting -= 1

    def _make(self, shares: ClaimShares) -> None:
        prefix = tenant_prefix(shares.uid)
        known = {tenant.id: tenant for tenant in self._tenants.tenants() if tenant.id.startswith(prefix)}
        with contextlib.nullcontext() if known else self._nothing_left(shares.uid):
            devices = {}
            program = content_named_copy(native_library(RUNTIME), self._programs)
            for number, request in enumerate(shares.requests):
                # One that is there stays as it is: its share may have been changed while it runs.
                tenant = known.get(shares.tenant_id(number)) or self._create(shares, number, request)
                view = self._views / shares.uid / str(number)
                region = self._tenants.region(tenant.id)
                mounts = make_view(view, region=region, helper=True, sim_state=self._sim_state)
                devices[shares.cdi_name(number)] = spec.edits(mounts, program, self._environment(tenant))
            self._write(self._file(shares.uid), spec.document(names.CDI_KIND, devices))

    def _create(self, shares: ClaimShares, number: int, request: RequestShare) -> Tenant:
        tenant = _tenant(shares, number, request, self._by_device())
        self._tenants.create(tenant)
        return tenant

    @contextlib.contextmanager
    def _nothing_left(self, uid: str) -> Iterator[None]:
        try:
            yield
        except CgpuError:
            self._take_back(uid)
            raise

    def _take_back(self, uid: str) -> None:
        """The file first, so that no container gets what is about to go."""
        prefix = tenant_prefix(uid)
        host_files.carry_out((host_files.Remove(self._file(uid)),), dry_run=False)
        for tenant in self._tenants.tenants():
            if tenant.id.startswith(prefix):
                self._tenants.remove(tenant.id)
        host_files.carry_out((host_files.Remove(self._views / uid, tree=True),), dry_run=False)

    def _by_device(self) -> Mapping[str, Gpu]:
        gpus = self._tenants.gpus()
        uuids = [gpu.uuid for gpu in gpus]
        return {device_name(gpu.uuid, uuids): gpu for gpu in gpus}

    def _environment(self, tenant: Tenant) -> dict[str, str]:
        uuids = [share.gpu_uuid for share in tenant.shares]
        if self._sim_state is None:
            return {"NVIDIA_VISIBLE_DEVICES": ",".join(uuids)}  # NVIDIA's runtime brings devices and libraries
        return spec.simulated_environment(uuids)

    def _file(self, uid: str) -> Path:
        return self._cdi_folder / f"{names.CDI_KIND.replace('/', '-')}_{uid}.json"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            host_files.replace_file(path, content, _FILE_MODE, durable=False)  # a reboot empties the folder
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}", "it has to be writable") from error


def _tenant(shares: ClaimShares, number: int, request: RequestShare, by_device: Mapping[str, Gpu]) -> Tenant:
    rows = []
    for card in request.cards:
        gpu = by_device.get(card.device)
        if gpu is None:
            raise ClaimError(
                f"claim {shares.namespace}/{shares.name} has device {card.device}, which is not on this node",
                "the card was taken out or has failed: delete the pod, so that it is placed anew",
            )
        rows.append(
            Share(
                gpu_uuid=gpu.uuid,
                memory_bytes=card.memory_bytes,
                compute_percent=card.compute_percent,
                compute_limit_percent=_limit(request, card),
                weight=request.weight,
                priority=request.priority,
            )
        )
    return Tenant(
        id=shares.tenant_id(number),
        name=f"{shares.namespace}/{shares.name}",
        shares=tuple(rows),
        container=container.CDI_CONTAINER,
    )


def _limit(request: RequestShare, card: CardShare) -> int | None:
    """Who asks for compute has that much and no more, as on ACK, unless its parameters say otherwise."""
    if request.compute_limit_percent is not None:
        return request.compute_limit_percent
    return card.compute_percent if request.asks_compute else None


def _answers(shares: ClaimShares, number: int, request: RequestShare) -> Iterator[PreparedDevice]:
    """One per card. The CDI device, which has all of them, goes with the first: a container gets it once."""
    cdi = (f"{names.CDI_KIND}={shares.cdi_name(number)}",)
    for place, card in enumerate(request.cards):
        yield PreparedDevice(request.request, request.pool, card.device, cdi if place == 0 else (), card.share_id)

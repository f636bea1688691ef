"""Makes claims ready for the pods that start on this node: their tenants with their views, one CDI file per claim.

Nothing is remembered here. The tenants are in the agent's checkpoint under ids that are made of the claim's
uid, and the CDI file and the views are made from them, again where they are gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from cgpu.adapters import host_files
from cgpu.adapters.cdi import spec
from cgpu.adapters.cdi.driver_files import DeviceNode, DriverTree
from cgpu.adapters.container_view import ViewMount, make_view, simulated_mounts
from cgpu.adapters.kube_objects import CLAIMS, PODS, Object, ObjectClient
from cgpu.adapters.kubelet.plugin import ClaimKey, PreparedDevice
from cgpu.adapters.native import RUNTIME, content_named_copy, native_library
from cgpu.errors import CapacityError, CgpuError, ClaimError, DriverError, StateError
from cgpu.k8s import names
from cgpu.k8s.claim_users import is_whole, uses_of_claim
from cgpu.k8s.claims import WHOLE, ClaimShares, Part, shares_of, tenant_prefix
from cgpu.k8s.isolation import Isolation
from cgpu.k8s.slices import device_name
from cgpu.k8s.unlimited import UnlimitedClaims
from cgpu.model import container
from cgpu.model.tenant import Gpu, Tenant

_FILE_MODE: Final = 0o644
_ALONE: Final = "a-container-has-one-share-"  # begins the name of a file that the error of a second one shows
_NVIDIA_VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"
_TRITON: Final = "TRITON_LIBCUDA_PATH"
_PATIENCE_S: Final = 38.0  # the kubelet waits 45 s for an answer, and a pod that ends has 30 s by default
_ASKING_MAX: Final = 4  # at once: each has a connection, and to make one costs more than to wait for one
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

    def driver_limits(self, tenant: Tenant) -> bool:
        """Whether the driver can limit a container's memory on all of the tenant's cards."""


@dataclass(frozen=True, slots=True)
class _Cards:
    """What lets a container use its cards, whether or not it is held to a share of them."""

    environment: Mapping[str, str]
    files: tuple[ViewMount, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()


class ClaimPreparer:
    """Prepares and takes back. Safe for several threads; claims are handled one after the other."""

    def __init__(
        self,
        api: ObjectClient,
        tenants: Tenants,
        *,
        runtime_dir: Path,
        socket: Path,
        cdi_folder: Path,
        sim_state: Path | None,
        driver: DriverTree | None,
        check_node: Callable[[], None] = lambda: None,
        isolation: Callable[[], Isolation | None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """``runtime_dir``, the agent's ``socket`` and ``cdi_folder`` have the same paths on the host.

        ``driver`` None: NVIDIA's container runtime brings devices and libraries.
        ``check_node`` is called before a claim gets anything new, and raises RefusedError where none may;
        ``isolation`` tells what the node's labels ask for now, and matters for claims that are new here;
        ``changed`` is called after shares came or went.
        """
        self._api = api
        self._tenants = tenants
        self._views = runtime_dir / "k8s"
        self.unlimited = UnlimitedClaims(self._views)
        self._isolation = isolation
        self._programs = runtime_dir / "lib"
        self._socket = socket
        self._cdi_folder = cdi_folder
        self._sim_state = sim_state
        self._driver = driver
        self._driver_files: dict[str, tuple[ViewMount, ...]] = {}  # by the driver's version
        self._check_node = check_node
        self._changed = changed
        self._asking = threading.Semaphore(_ASKING_MAX)
        self._lock = threading.Condition()
        self._waiting = 0
        self._patience_s = patience_s

    def prepare(self, claim: ClaimKey) -> Sequence[PreparedDevice]:
        """See Preparer. Raises ClaimError, RefusedError or one of its kinds, StateError, ClusterError."""
        with self._asking:
            found = self._api.get(CLAIMS, claim.namespace, claim.name)
        if found is None:
            raise ClaimError(f"claim {claim.namespace}/{claim.name} is gone", "the pod has to be made anew")
        shares = shares_of(found, claim.uid)
        parts = shares.parts(whole=self._is_whole(found, shares))
        with self._lock:
            self._make_once_there_is_room(shares, parts)
        self._changed()
        return [device for part in parts for device in _answers(shares, part)]

    def unprepare(self, claim: ClaimKey) -> None:
        """See Preparer. Raises StateError."""
        with self._lock:
            self._take_back(claim.uid)
            self._lock.notify_all()
        self._changed()

    def _is_whole(self, claim: Object, shares: ClaimShares) -> bool:
        """Whether the claim's requests are one share. The kubelet does not tell, so its pods are looked at.

        A claim of one request, as almost all are, costs nothing. Raises ClaimError, ClusterError.
        """
        if len(shares.requests) < 2:
            return False
        known = self._known(shares.uid)
        if known:
            return f"{tenant_prefix(shares.uid)}{WHOLE}" in known  # other pods have it already
        uses = []
        for row in claim["status"].get("reservedFor") or ():
            pod = self._api.get(PODS, shares.namespace, row["name"]) if row["resource"] == "pods" else None
            uses += uses_of_claim(pod or {}, shares.name)
        where = f"claim {shares.namespace}/{shares.name}"
        return is_whole(uses, [request.base for request in shares.requests], where)

    def _make_once_there_is_room(self, shares: ClaimShares, parts: Sequence[Part]) -> None:
        """The share of a pod that was deleted by force is given away before the pod has ended here.

        The kubelet tries again only after a minute or two; so the end is waited for, with the lock given up.
        """
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return self._make(shares, parts)
            except CapacityError:
                left = give_up - time.monotonic()
                if left <= 0 or self._waiting >= _WAITING_MAX:
                    raise
            self._waiting += 1
            self._lock.wait(left)
            self._waiting -= 1

    def _make(self, shares: ClaimShares, parts: Sequence[Part]) -> None:
        known = self._known(shares.uid)
        if not known and (self.unlimited.has(shares.uid) or self._isolation() is Isolation.NONE):
            self._make_unlimited(shares, parts)
            return
        with contextlib.nullcontext() if known else self._nothing_left(shares.uid):
            devices = {}
            program = self._program()
            for part in parts:
                # One that is there stays as it is: its share may have been changed while it runs.
                tenant = known.get(shares.tenant_id(part)) or self._create(shares, part)
                mounts = make_view(
                    self._views / shares.uid / part.key,
                    region=self._tenants.region(tenant.id),
                    helper=True,
                    sim_state=self._sim_state,
                    alone=f"{_ALONE}{shares.cdi_name(part)}",
                )
                claim = (str(self._socket), tenant.id) if self._tenants.driver_limits(tenant) else ()
                cards = self._cards(tenant)
                devices[shares.cdi_name(part)] = spec.edits(
                    (*mounts, *cards.files), program, cards.environment, claim, cards.nodes
                )
            self._write(self._file(shares.uid), spec.document(names.CDI_KIND, devices))

    def _make_unlimited(self, shares: ClaimShares, parts: Sequence[Part]) -> None:
        """The cards, and nothing of ours: no tenant, no region, no shim."""
        if not self.unlimited.has(shares.uid):
            self._check_node()
        mounts = [] if self._sim_state is None else simulated_mounts(self._sim_state, self._programs)
        by_device, devices, users = self._by_device(), {}, []
        for part in parts:
            tenant = _tenant(shares, part, by_device)  # which nobody makes; it says which cards
            users.append(tenant)
            cards = self._cards(tenant)
            devices[shares.cdi_name(part)] = spec.plain_edits((*mounts, *cards.files), cards.environment, cards.nodes)
        with self._nothing_left(shares.uid):
            self.unlimited.add(shares.uid, users)
            self._write(self._file(shares.uid), spec.document(names.CDI_KIND, devices))

    def _program(self) -> Path:
        """The hooks' program where the host has it: this process's own files may be an image's."""
        program = content_named_copy(native_library(RUNTIME), self._programs)
        if program.parent != self._programs:
            raise StateError(
                f"{self._programs}: programs cannot be put there, or not be run from there",
                "the agent's folder has to be writable, and mounted without noexec (host.runtimeDir in the chart)",
            )
        return program

    def _create(self, shares: ClaimShares, part: Part) -> Tenant:
        self._check_node()
        tenant = _tenant(shares, part, self._by_device())
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
        host_files.carry_out((host_files.Remove(self._file(uid)),), dry_run=False)
        for tenant_id in self._known(uid):
            self._tenants.remove(tenant_id)
        host_files.carry_out((host_files.Remove(self._views / uid, tree=True),), dry_run=False)

    def _known(self, uid: str) -> Mapping[str, Tenant]:
        """The claim's tenants that there are, by their ids."""
        prefix = tenant_prefix(uid)
        return {tenant.id: tenant for tenant in self._tenants.tenants() if tenant.id.startswith(prefix)}

    def _by_device(self) -> Mapping[str, Gpu]:
        gpus = self._tenants.gpus()
        uuids = [gpu.uuid for gpu in gpus]
        return {device_name(gpu.uuid, uuids): gpu for gpu in gpus}

    def _cards(self, tenant: Tenant) -> _Cards:
        uuids = [share.gpu_uuid for share in tenant.shares]
        if self._sim_state is not None:
            return _Cards(spec.simulated_environment(uuids))
        if self._driver is None:
            return _Cards({_NVIDIA_VISIBLE: ",".join(uuids)})
        gpus = self._tenants.gpus()
        environment = {
            _NVIDIA_VISIBLE: "void",  # where NVIDIA's runtime is the default, it adds none that the image names
            _TRITON: str(self._driver.places[0]),  # it asks ldconfig, whose cache is the image's
        }
        return _Cards(
            environment,
            self._files_of_driver(self._driver, gpus[0].driver_version),  # of all cards of a node
            self._driver.nodes([_minor(gpu) for gpu in gpus if gpu.uuid in uuids]),
        )

    def _files_of_driver(self, driver: DriverTree, version: str) -> tuple[ViewMount, ...]:
        """Looked for once: a claim has to be ready within milliseconds."""
        if version not in self._driver_files:
            self._driver_files[version] = driver.mounts(version)
        return self._driver_files[version]

    def _file(self, uid: str) -> Path:
        return self._cdi_folder / f"{names.CDI_KIND.replace('/', '-')}_{uid}.json"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            host_files.replace_file(path, content, _FILE_MODE, durable=False)  # a reboot empties the folder
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}", "it has to be writable") from error


def _minor(gpu: Gpu) -> int:
    if gpu.minor is None:
        raise DriverError(f"GPU {gpu.index} ({gpu.uuid}): NVML does not tell its device node", "see the driver's log")
    return gpu.minor


def _tenant(shares: ClaimShares, part: Part, by_device: Mapping[str, Gpu]) -> Tenant:
    rows = []
    for device, share in part.on_cards().items():
        gpu = by_device.get(device)
        if gpu is None:
            raise ClaimError(
                f"claim {shares.namespace}/{shares.name} has device {device}, which is not on this node",
                "the card was taken out or has failed: delete the pod, so that it is placed anew",
            )
        rows.append(replace(share, gpu_uuid=gpu.uuid))
    return Tenant(
        id=shares.tenant_id(part),
        name=shares.tenant_name(part),
        shares=tuple(rows),
        container=container.CDI_CONTAINER,
        promised=tuple(rows),
    )


def _answers(shares: ClaimShares, part: Part) -> Iterator[PreparedDevice]:
    """One per card of each request. The CDI device goes with the first alone, since a container gets it once.

    Where a claim is used as a whole that one is all requests': a pod may come later that names one of them.
    """
    first, *others = [(request, card) for request in part.requests for card in request.cards]
    request, card = first
    cdi = f"{names.CDI_KIND}={shares.cdi_name(part)}"
    yield PreparedDevice(tuple(row.base for row in part.requests), request.pool, card.device, (cdi,), card.share_id)
    for request, card in others:
        yield PreparedDevice((request.base,), request.pool, card.device, (), card.share_id)

"""A plugin of the kubelet: the sockets on which it registers and on which claims are prepared.

The kubelet watches a folder for registration sockets, asks the one that appears what it is, and then
calls the endpoint that it named. While a new version of a plugin takes over from an old one both serve,
so each instance has sockets of its own name.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import grpc

from cgpu.adapters.kubelet import dra_pb2 as dra
from cgpu.adapters.kubelet import health_pb2 as health
from cgpu.adapters.kubelet import registration_pb2 as registration
from cgpu.errors import CgpuError

_LOG: Final = logging.getLogger(__name__)
_KIND: Final = "DRAPlugin"
_DRA: Final = "v1.DRAPlugin"
_HEALTH: Final = "v1.DRAResourceHealth"
_HEALTH_1_36: Final = "v1alpha1.DRAResourceHealth"  # what that release's kubelet calls, whatever it is offered
_SOCKET_PATH_MAX: Final = 107  # bytes, of a Unix socket's path
_THREADS: Final = 32
_STOP_S: Final = 5.0
_HEALTH_TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """All that the kubelet says of a claim."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """One result of a claim, made ready."""

    requests: tuple[str, ...]  # that it is given to; containers name them
    pool: str
    device: str
    cdi_ids: tuple[str, ...]  # whole names, "vendor/class=name"
    share_id: str


@dataclass(frozen=True, slots=True)
class DeviceState:
    """How a device is; the kubelet puts it into the status of the pods that use it."""

    pool: str
    device: str
    healthy: bool
    message: str = ""


class Preparer(Protocol):
    """What is done for a claim. A failure is a CgpuError; its text is shown on the pod."""

    def prepare(self, claim: ClaimKey) -> Sequence[PreparedDevice]:
        """Make it ready; repeating it gives the same."""

    def unprepare(self, claim: ClaimKey) -> None:
        """Take back what was made; a claim that is not known is no error."""


class HealthSource(Protocol):
    """Where the devices' state comes from."""

    def states(self) -> Sequence[DeviceState]:
        """All devices, now."""

    def wait(self, told: Sequence[DeviceState], seconds: float) -> None:
        """Return when the states are others than these, or after that time."""


class KubeletPlugin:
    """The servers of one driver. Call ``start``; the kubelet finds it."""

    def __init__(
        self,
        driver: str,
        instance: str,
        preparer: Preparer,
        health_source: HealthSource,
        *,
        plugins: Path,
        registry: Path,
        registered: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``plugins`` and ``registry`` are the kubelet's folders ``plugins`` and ``plugins_registry``.

        Args:
            driver: its name.
            instance: tells this process from another version of it; a pod's uid. Empty: there is one.
            preparer: prepares claims; called from several threads.
            health_source: asked by the stream of health.
            plugins: has a folder for each driver, with its endpoint.
            registry: watched by the kubelet.
            registered: called with "" after the kubelet has taken the plugin, with its reason when it refuses.
        """
        suffix = f"-{instance}" if instance else ""
        self._driver = driver
        self.endpoint = _socket(plugins / driver, f"dra{suffix}", ".sock")
        self.registration = _socket(registry, f"{driver}{suffix}", "-reg.sock")
        self._preparer = preparer
        self._health = health_source
        self._registered = registered
        self._stopping = threading.Event()
        self._servers: list[grpc.Server] = []

    def start(self) -> None:
        """Serve: first the endpoint, then the socket by which the kubelet learns of it."""
        self.endpoint.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._serve(self.endpoint, (_dra_handler(self._preparer), *self._health_handlers()))
        self._serve(self.registration, (self._registration_handler(),))

    def stop(self) -> None:
        """Withdraw, first what the kubelet watches; calls that run are let end."""
        self._stopping.set()
        for server, path in zip(reversed(self._servers), (self.registration, self.endpoint), strict=False):
            server.stop(_STOP_S).wait()
            path.unlink(missing_ok=True)
        self._servers = []

    def _serve(self, path: Path, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        path.unlink(missing_ok=True)  # of an instance of the same name, which has ended
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="kubelet")
        server = grpc.server(pool, handlers=tuple(handlers))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        self._servers.append(server)

    def _registration_handler(self) -> grpc.GenericRpcHandler:
        info = registration.PluginInfo(
            type=_KIND, name=self._driver, endpoint=str(self.endpoint), supported_versions=[_DRA, _HEALTH]
        )

        def status(request: registration.RegistrationStatus, _: object) -> registration.RegistrationStatusResponse:
            if request.plugin_registered:
                _LOG.info("the kubelet has registered %s", self._driver)
            else:
                _LOG.error("the kubelet refuses %s: %s", self._driver, request.error)
            self._registered("" if request.plugin_registered else request.error or "no reason given")
            return registration.RegistrationStatusResponse()

        handlers = {
            "GetInfo": _unary(lambda *_: info, registration.InfoRequest, registration.PluginInfo),
            "NotifyRegistrationStatus": _unary(
                status, registration.RegistrationStatus, registration.RegistrationStatusResponse
            ),
        }
        return grpc.method_handlers_generic_handler("pluginregistration.Registration", handlers)

    def _health_handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Of both versions, whose messages are the same."""
        handler = grpc.unary_stream_rpc_method_handler(
            self._watch_health,
            request_deserializer=health.NodeWatchResourcesRequest.FromString,
            response_serializer=health.NodeWatchResourcesResponse.SerializeToString,
        )
        methods = {"NodeWatchResources": handler}
        return tuple(grpc.method_handlers_generic_handler(service, methods) for service in (_HEALTH, _HEALTH_1_36))

    def _watch_health(self, _: object, context: grpc.ServicerContext) -> Iterator[health.NodeWatchResourcesResponse]:
        """The whole list each time, more than once in the time after which the kubelet takes it for unknown."""
        while context.is_active() and not self._stopping.is_set():
            states = self._health.states()
            yield _health_message(states)
            self._health.wait(states, _HEALTH_TIMEOUT_S / 3)


def _dra_handler(preparer: Preparer) -> grpc.GenericRpcHandler:
    def prepare(request: dra.NodePrepareResourcesRequest, _: object) -> dra.NodePrepareResourcesResponse:
        answer = dra.NodePrepareResourcesResponse()
        for claim in request.claims:
            entry = answer.claims[claim.uid]
            with _failures_into(entry, "prepare", claim):
                for device in preparer.prepare(ClaimKey(claim.namespace, claim.name, claim.uid)):
                    entry.devices.add(
                        request_names=device.requests,
                        pool_name=device.pool,
                        device_name=device.device,
                        cdi_device_ids=device.cdi_ids,
                        share_id=device.share_id or None,
                    )
        return answer

    def unprepare(request: dra.NodeUnprepareResourcesRequest, _: object) -> dra.NodeUnprepareResourcesResponse:
        answer = dra.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            entry = answer.claims[claim.uid]
            entry.SetInParent()  # every claim needs an entry, also an empty one
            with _failures_into(entry, "unprepare", claim):
                preparer.unprepare(ClaimKey(claim.namespace, claim.name, claim.uid))
        return answer

    handlers: Mapping[str, grpc.RpcMethodHandler] = {
        "NodePrepareResources": _unary(prepare, dra.NodePrepareResourcesRequest, dra.NodePrepareResourcesResponse),
        "NodeUnprepareResources": _unary(
            unprepare, dra.NodeUnprepareResourcesRequest, dra.NodeUnprepareResourcesResponse
        ),
    }
    return grpc.method_handlers_generic_handler("k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin", handlers)


@contextlib.contextmanager
def _failures_into(
    entry: dra.NodePrepareResourceResponse | dra.NodeUnprepareResourceResponse, verb: str, claim: dra.Claim
) -> Iterator[None]:
    """A claim that fails says so in its own entry; the others of the call go on."""
    try:
        yield
    except CgpuError as error:
        entry.Clear()
        entry.error = str(error)
        _LOG.warning("%s %s/%s: %s", verb, claim.namespace, claim.name, entry.error)


def _unary(function: Callable[..., object], request: type, response: type) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        function,
        request_deserializer=request.FromString,  # type: ignore[attr-defined]
        response_serializer=response.SerializeToString,  # type: ignore[attr-defined]
    )


def _health_message(states: Sequence[DeviceState]) -> health.NodeWatchResourcesResponse:
    answer = health.NodeWatchResourcesResponse()
    for state in states:
        answer.devices.add(
            device=health.DeviceIdentifier(pool_name=state.pool, device_name=state.device),
            health=health.HEALTHY if state.healthy else health.UNHEALTHY,
            last_updated_time=int(time.time()),
            health_check_timeout_seconds=_HEALTH_TIMEOUT_S,
            message=state.message,
        )
    return answer


def _socket(folder: Path, name: str, suffix: str) -> Path:
    """A socket's path; where it would be too long for one, with a digest in place of the name."""
    path = folder / f"{name}{suffix}"
    if len(str(path).encode()) <= _SOCKET_PATH_MAX:
        return path
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{suffix}"

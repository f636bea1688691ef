"""Plays the kubelet of a node: registers the driver, then prepares and takes back claims, and tells the times.

python -m bench.prepare_calls --kubeconfig FILE --registration SOCKET --endpoint SOCKET --claims 200 --burst 100

Run beside the agent, in its network; ``bench.prepare`` does it. Prints milliseconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc

from bench.memory import processor_ns
from cgpu.adapters.kube_objects import CLAIMS, SLICES, ObjectClient, connect
from cgpu.adapters.kubelet import dra_pb2 as dra
from cgpu.adapters.kubelet import registration_pb2 as registration
from cgpu.k8s import names

_SERVICE: Final = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/"
_NAMESPACE: Final = "default"
_MEMORY: Final = "512Mi"
_PLACE: Final = {"namespace": _NAMESPACE}
TENANTS: Final = 20
"""Of a card."""

_PATIENCE_S: Final = 60.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.prepare_calls", description=__doc__.splitlines()[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--registration", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--agent", type=int, required=True, help="its pid")
    parser.add_argument("--claims", type=int, required=True, help="one after the other")
    parser.add_argument("--beside", type=int, required=True, help="that stay prepared meanwhile")
    parser.add_argument("--burst", type=int, required=True, help="at once")
    options = parser.parse_args()
    with connect(options.kubeconfig) as api, _Kubelet(options.endpoint) as kubelet:
        register(options.registration)
        print(json.dumps(measure(api, kubelet, options)))


def register(path: str) -> None:
    """Take the plugin, as the kubelet does."""
    with _channel(path) as channel:
        service = "/pluginregistration.Registration/"
        ask = _method(channel, f"{service}GetInfo", registration.PluginInfo)
        assert ask(registration.InfoRequest(), timeout=_PATIENCE_S).name == names.DRIVER
        tell = _method(channel, f"{service}NotifyRegistrationStatus", registration.RegistrationStatusResponse)
        tell(registration.RegistrationStatus(plugin_registered=True), timeout=_PATIENCE_S)


def measure(api: ObjectClient, kubelet: _Kubelet, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each call."""
    for place in dict.fromkeys(_places(api)):
        first = _allocated(api, place)  # the first tenant of a card makes the agent measure a context there
        kubelet.prepare(first)
        kubelet.unprepare(first)
    places = _places(api)
    beside = [_allocated(api, next(places)) for _ in range(options.beside)]
    for claim in beside:
        kubelet.prepare(claim)
    place = next(places)
    calls, prepared, taken_back, gets, processor = [], [], [], [], []
    for _ in range(options.claims):
        claim = _allocated(api, place)
        gets.append(_timed(lambda: api.get(CLAIMS, _NAMESPACE, claim.name)))  # noqa: B023 - called at once
        calls.append(_timed(kubelet.call))
        before_ns = processor_ns(options.agent)
        prepared.append(_timed(lambda: kubelet.prepare(claim)))  # noqa: B023
        processor.append((processor_ns(options.agent) - before_ns) / 1e6)
        taken_back.append(_timed(lambda: kubelet.unprepare(claim)))  # noqa: B023
    places = _places(api, options.beside)
    burst = [_allocated(api, next(places)) for _ in range(options.burst)]
    with ThreadPoolExecutor(max(options.burst, 1)) as pool:
        began = time.monotonic()
        together = list(pool.map(lambda claim: _timed(lambda: kubelet.prepare(claim)), burst))
        burst_ms = (time.monotonic() - began) * 1000
        ended = list(pool.map(lambda claim: _timed(lambda: kubelet.unprepare(claim)), burst))
    for claim in beside:
        kubelet.unprepare(claim)
    return {
        "call": calls,
        "get": gets,
        "prepare": prepared,
        "prepare_processor": processor,
        "unprepare": taken_back,
        "burst_prepare": together,
        "burst_unprepare": ended,
        "burst": [burst_ms],
    }


@dataclass(frozen=True)
class _Claim:
    name: str
    uid: str


class _Kubelet:
    """Calls the driver's endpoint, a claim at a time."""

    def __init__(self, endpoint: str) -> None:
        self._channel = _channel(endpoint)
        self._prepare = _method(self._channel, f"{_SERVICE}NodePrepareResources", dra.NodePrepareResourcesResponse)
        self._unprepare = _method(
            self._channel, f"{_SERVICE}NodeUnprepareResources", dra.NodeUnprepareResourcesResponse
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self) -> None:
        """Prepare nothing: what the way there and back takes."""
        self._prepare(dra.NodePrepareResourcesRequest(), timeout=_PATIENCE_S)

    def prepare(self, claim: _Claim) -> None:
        """Has to succeed."""
        request = dra.NodePrepareResourcesRequest(claims=[dra.Claim(name=claim.name, uid=claim.uid, **_PLACE)])
        (answer,) = self._prepare(request, timeout=_PATIENCE_S).claims.values()
        assert not answer.error, answer.error
        assert len(answer.devices) == 1

    def unprepare(self, claim: _Claim) -> None:
        """Has to succeed."""
        request = dra.NodeUnprepareResourcesRequest(claims=[dra.Claim(name=claim.name, uid=claim.uid, **_PLACE)])
        (answer,) = self._unprepare(request, timeout=_PATIENCE_S).claims.values()
        assert not answer.error, answer.error


def _places(api: ObjectClient, skipped: int = 0) -> Iterator[tuple[str, str]]:
    """Pool and device for one claim after the other: a card until it is full, then the next."""
    found: list[tuple[str, str]] = []
    deadline = time.monotonic() + _PATIENCE_S
    while not found and time.monotonic() < deadline:
        slices, _ = api.list(SLICES)
        found = [
            (item["spec"]["pool"]["name"], device["name"])
            for item in slices
            for device in item["spec"].get("devices", ())
        ]
        time.sleep(0.05)
    return iter([place for place in found for _ in range(TENANTS)][skipped:])


def _allocated(api: ObjectClient, place: tuple[str, str]) -> _Claim:
    """A claim as the scheduler leaves it."""
    requests = {"memory": _MEMORY}
    exactly = {"deviceClassName": names.DEVICE_CLASS, "capacity": {"requests": requests}}
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"generateName": "bench-", **_PLACE},
        "spec": spec,
    }
    made = api.create(CLAIMS, document, _NAMESPACE)
    result = {
        "request": "gpu",
        "driver": names.DRIVER,
        "pool": place[0],
        "device": place[1],
        "shareID": str(uuid.uuid4()),
        "consumedCapacity": {"memory": _MEMORY, "compute": "5", "shares": "1"},
    }
    allocation: dict[str, Any] = {"devices": {"results": [result]}}
    name = made["metadata"]["name"]
    api.merge(CLAIMS, _NAMESPACE, name, {"status": {"allocation": allocation}}, "status")
    return _Claim(name, made["metadata"]["uid"])


def _timed(action: Any) -> float:
    began = time.monotonic()
    action()
    return (time.monotonic() - began) * 1000


def _channel(path: str) -> Any:
    return grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")])


def _method(channel: Any, name: str, answer: Any) -> Any:
    return channel.unary_unary(
        name,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )


if __name__ == "__main__":
    main()

"""The kubelet's side of the sockets, by gRPC itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from cgpu.adapters.kubelet import dra_pb2 as dra
from cgpu.adapters.kubelet import health_pb2 as health
from cgpu.adapters.kubelet import registration_pb2 as registration
from cgpu.adapters.kubelet.plugin import ClaimKey, DeviceState, KubeletPlugin, PreparedDevice
from cgpu.errors import ClaimError

DRA = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/"


class Preparations:
    """Claims named "bad" fail."""

    def __init__(self) -> None:
        self.unprepared: list[ClaimKey] = []

    def prepare(self, claim: ClaimKey) -> Sequence[PreparedDevice]:
        if claim.name == "bad":
            raise ClaimError("no such card", "look")
        return [PreparedDevice(("gpu",), "node", "gpu-0a", (f"cgpu.dev/claim={claim.uid}-0",), "s-1")]

    def unprepare(self, claim: ClaimKey) -> None:
        if claim.name == "bad":
            raise ClaimError("cannot be removed", "look")
        self.unprepared.append(claim)


class Health:
    """One card that fails when it is told to."""

    def __init__(self) -> None:
        self.healthy = True
        self._changed = threading.Condition()

    def states(self) -> Sequence[DeviceState]:
        return [DeviceState("node", "gpu-0a", self.healthy, "" if self.healthy else "xid 79")]

    def wait(self, told: Sequence[DeviceState], seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.states() != told, seconds)

    def fail(self) -> None:
        with self._changed:
            self.healthy = False
            self._changed.notify_all()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[KubeletPlugin, Preparations, Health, list[str]]]:
    told: list[str] = []
    preparations, state = Preparations(), Health()
    registry = tmp_path / "registry"
    registry.mkdir()
    plugin = KubeletPlugin(
        "gpu.cgpu.dev", "", preparations, state, plugins=tmp_path, registry=registry, registered=told.append
    )
    plugin.start()
    yield plugin, preparations, state, told
    state.fail()
    plugin.stop()
    assert not plugin.endpoint.exists()
    assert not plugin.registration.exists()


def call(socket: Path, method: str, request: Any, response: type) -> Any:
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        ask = channel.unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,  # type: ignore[attr-defined]
        )
        return ask(request, timeout=10)


def test_it_registers_as_the_kubelet_asks(parts: tuple[KubeletPlugin, Preparations, Health, list[str]]):
    plugin, _, _, told = parts
    info = call(
        plugin.registration,
        "/pluginregistration.Registration/GetInfo",
        registration.InfoRequest(),
        registration.PluginInfo,
    )
    assert (info.type, info.name, info.endpoint) == ("DRAPlugin", "gpu.cgpu.dev", str(plugin.endpoint))
    assert list(info.supported_versions) == ["v1.DRAPlugin", "v1.DRAResourceHealth"]
    for status in (
        registration.RegistrationStatus(plugin_registered=True),
        registration.RegistrationStatus(plugin_registered=False, error="too old"),
    ):
        call(
            plugin.registration,
            "/pluginregistration.Registration/NotifyRegistrationStatus",
            status,
            registration.RegistrationStatusResponse,
        )
    assert told == ["", "too old"]


def test_claims_of_one_call_fail_one_by_one(parts: tuple[KubeletPlugin, Preparations, Health, list[str]]):
    plugin, preparations, _, _ = parts
    claims = [dra.Claim(namespace="a", uid="1", name="good"), dra.Claim(namespace="a", uid="2", name="bad")]
    request = dra.NodePrepareResourcesRequest(claims=claims)
    answer = call(plugin.endpoint, f"{DRA}NodePrepareResources", request, dra.NodePrepareResourcesResponse)
    (device,) = answer.claims["1"].devices
    assert list(device.cdi_device_ids) == ["cgpu.dev/claim=1-0"]
    assert (list(device.request_names), device.share_id) == (["gpu"], "s-1")
    assert "no such card" in answer.claims["2"].error
    back = dra.NodeUnprepareResourcesRequest(claims=claims)
    answer = call(plugin.endpoint, f"{DRA}NodeUnprepareResources", back, dra.NodeUnprepareResourcesResponse)
    assert {uid: bool(entry.error) for uid, entry in answer.claims.items()} == {"1": False, "2": True}
    assert preparations.unprepared == [ClaimKey("a", "good", "1")]


@pytest.mark.parametrize("version", ["v1", "v1alpha1"])  # that is what the kubelet of 1.36 calls
def test_health_is_told_at_once_when_it_changes(
    parts: tuple[KubeletPlugin, Preparations, Health, list[str]], version: str
):
    plugin, _, state, _ = parts
    with grpc.insecure_channel(f"unix:{plugin.endpoint}", options=[("grpc.default_authority", "localhost")]) as channel:
        watch = channel.unary_stream(
            f"/{version}.DRAResourceHealth/NodeWatchResources",
            request_serializer=health.NodeWatchResourcesRequest.SerializeToString,
            response_deserializer=health.NodeWatchResourcesResponse.FromString,
        )
        stream = watch(health.NodeWatchResourcesRequest(), timeout=30)
        assert next(stream).devices[0].health == health.HEALTHY
        state.fail()
        (device,) = next(stream).devices
        assert (device.health, device.message, device.device.device_name) == (health.UNHEALTHY, "xid 79", "gpu-0a")
        stream.cancel()


def test_a_folder_that_is_deep_still_gives_a_socket(tmp_path: Path):
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    plugin = KubeletPlugin("gpu.cgpu.dev", "u" * 36, Preparations(), Health(), plugins=deep, registry=tmp_path)
    assert plugin.registration.name.endswith("-reg.sock")
    assert plugin.registration.name != plugin.endpoint.name


def test_the_messages_are_what_the_proto_files_say(tmp_path: Path):
    from grpc_tools import protoc

    source = Path(registration.__file__).parent
    names = ("registration", "dra", "health")
    folder = "cgpu/adapters/kubelet"
    assert protoc.main(
        ["protoc", f"-I{source.parents[2]}", f"--python_out={tmp_path}", *(f"{folder}/{name}.proto" for name in names)]
    ) == 0  # fmt: skip
    for name in names:
        made = (tmp_path / folder / f"{name}_pb2.py").read_text().partition("AddSerializedFile")[2]
        kept = (source / f"{name}_pb2.py").read_text().partition("AddSerializedFile")[2]
        assert made == kept

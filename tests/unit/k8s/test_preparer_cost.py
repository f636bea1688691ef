"""What a claim costs its node: questions to the API server and waits for a disk, the same however many there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cgpu.adapters.kube_objects import ObjectClient
from cgpu.adapters.kubelet.plugin import ClaimKey
from cgpu.agent.state import NodeState
from cgpu.cli.agent_kubernetes import _State
from cgpu.k8s import names
from cgpu.k8s.preparer import ClaimPreparer
from cgpu.k8s.slices import device_name
from cgpu.testing.fakes import GPU_UUIDS
from tests.unit.agent.conftest import World

CARD, OTHER = (device_name(uuid, GPU_UUIDS[:2]) for uuid in GPU_UUIDS[:2])


class Counted:
    """A node's driver, and what it has done since the last look."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(folder)
        self.asked: list[str] = []
        self.synced = 0
        self.looked: list[Path] = []
        self.devices: dict[str, str] = {}
        client = httpx2.Client(base_url="http://api", transport=httpx2.MockTransport(self._answer))
        self.state: NodeState = self.world.recovered()
        self.preparer = ClaimPreparer(
            ObjectClient(client),
            _State(self.state, self.world.node, folder),
            runtime_dir=folder / "run",
            socket=folder / "agent.sock",
            cdi_folder=folder / "cdi",
            sim_state=None,
            driver=None,
        )
        monkeypatch.setattr(os, "fsync", self._fsync)
        self._file_of = self.world.host.file_of
        monkeypatch.setattr(self.world.host, "file_of", self._counted_file_of, raising=False)

    def prepare(self, uid: str, device: str) -> dict[str, Any]:
        """Of a claim on that device; what it took."""
        self.devices[uid] = device
        return self._took(lambda: self.preparer.prepare(ClaimKey("default", uid, uid)))

    def unprepare(self, uid: str) -> dict[str, Any]:
        """What it took."""
        return self._took(lambda: self.preparer.unprepare(ClaimKey("default", uid, uid)))

    def _took(self, action: Any) -> dict[str, Any]:
        self.asked, self.synced, self.looked = [], 0, []
        action()
        return {"asked": self.asked, "synced": self.synced, "located": len(self.looked)}

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        uid = request.url.path.rpartition("/")[2]
        result: dict[str, Any] = {"request": "gpu", "driver": names.DRIVER, "pool": "node", "device": self.devices[uid]}
        result |= {"shareID": uid, "consumedCapacity": {"memory": "64Mi", "shares": "1"}}
        spec = {"devices": {"requests": [{"name": "gpu", "exactly": {}}]}}
        metadata = {"namespace": "default", "name": uid, "uid": uid}
        status = {"allocation": {"devices": {"results": [result]}}}
        return httpx2.Response(200, json={"metadata": metadata, "spec": spec, "status": status})

    def _fsync(self, descriptor: int) -> None:
        del descriptor
        self.synced += 1

    def _counted_file_of(self, path: Path) -> Any:
        self.looked.append(path)
        return self._file_of(path)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    made = Counted(tmp_path, monkeypatch)
    yield made
    made.state.close()


@pytest.mark.parametrize("others", [0, 12])
def test_a_claim_is_asked_for_once_and_written_down_once(driver: Counted, others: int):
    for number in range(others):
        driver.prepare(f"other-{number}", OTHER if number % 2 else CARD)
    written = {"asked": ["GET /apis/resource.k8s.io/v1/namespaces/default/resourceclaims/a"], "synced": 2}
    located = 1 if others else 0  # of the last one that came; where its file is, is found out once
    assert driver.prepare("a", CARD) == {**written, "located": located}
    assert driver.prepare("a", CARD) == {**written, "synced": 0, "located": 0}
    assert driver.unprepare("a") == {"asked": [], "synced": 2, "located": 0}
    assert driver.unprepare("a") == {"asked": [], "synced": 0, "located": 0}


def test_a_new_tenant_makes_the_agent_look_at_its_own_card_only(driver: Counted):
    for number in range(6):
        driver.prepare(f"other-{number}", OTHER)
    driver.prepare("here", CARD)
    assert set(driver.state.survey({GPU_UUIDS[0]}).readings) == {"k8s-here-0"}
    assert len(driver.state.survey().readings) == 7

"""What the CDI device of a claim has on a node with real cards: its cards' nodes, the driver's files, the hooks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cgpu.adapters.cdi.driver_files import DriverTree
from cgpu.adapters.kubelet.plugin import ClaimKey
from cgpu.errors import DriverError, StateError
from cgpu.k8s.preparer import ClaimPreparer
from cgpu.k8s.slices import device_name
from cgpu.model.tenant import Gpu, Tenant
from cgpu.model.units import GIB

CARDS = tuple(
    Gpu(index, f"GPU-{index}0000000-0000-0000-0000-000000000000", "L20", 48 * GIB, "615.71.09", False, minor=3 - index)
    for index in range(3)
)
KEY = ClaimKey("default", "web", "uid-1")
ELF = b"\x7fELF\x02" + bytes(13) + (62).to_bytes(2, "little")


@dataclass
class Node:
    """The agent's state, and the API with one claim."""

    folder: Path
    limits: bool = False
    made: dict[str, Tenant] = field(default_factory=dict)

    def gpus(self) -> tuple[Gpu, ...]:
        return CARDS

    def tenants(self) -> list[Tenant]:
        return list(self.made.values())

    def create(self, tenant: Tenant) -> object:
        self.made[tenant.id] = tenant
        return None

    def remove(self, name: str) -> bool:
        return self.made.pop(name, None) is not None

    def region(self, tenant_id: str) -> Path:
        return self.folder / "run" / "tenants" / tenant_id

    def driver_limits(self, tenant: Tenant) -> bool:
        del tenant
        return self.limits

    def get(self, *_: object) -> dict[str, Any]:
        """The claim, of the second and the third card."""
        results = [
            {
                "request": "gpu", "driver": "gpu.cgpu.dev", "pool": "node", "shareID": "s",
                "device": device_name(gpu.uuid, [one.uuid for one in CARDS]),
                "consumedCapacity": {"memory": "2Gi"},
            }
            for gpu in CARDS[1:]
        ]  # fmt: skip
        exactly = {"deviceClassName": "gpu.cgpu.dev", "count": 2}
        return {
            "metadata": {"namespace": KEY.namespace, "name": KEY.name, "uid": KEY.uid},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
            "status": {"allocation": {"devices": {"results": results}}},
        }

    def preparer(self, driver: DriverTree | None) -> ClaimPreparer:
        run = self.folder / "run"
        return ClaimPreparer(
            self,  # type: ignore[arg-type]
            self,
            runtime_dir=run,
            socket=run / "agent.sock",
            cdi_folder=self.folder / "cdi",
            sim_state=None,
            driver=driver,
        )

    def device(self) -> dict[str, Any]:
        """The edits of the claim's device."""
        (file,) = (self.folder / "cdi").iterdir()
        document = json.loads(file.read_text())
        assert document["cdiVersion"] == "0.3.0"
        edits: dict[str, Any] = document["devices"][0]["containerEdits"]
        return edits


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def driver(folder: Path) -> DriverTree:
    """A host's root with a driver, mounted elsewhere for the agent."""
    for name in ("usr/lib64/libcuda.so.1", "usr/lib64/libnvidia-ml.so.1", "dev/nvidiactl", "dev/nvidia-uvm",
                 *(f"dev/nvidia{number}" for number in range(4))):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(ELF)
    return DriverTree(folder, Path("/"), "x86_64")


def test_a_container_has_exactly_its_cards_and_the_driver(node: Node, tmp_path: Path):
    node.preparer(driver(tmp_path / "root")).prepare(KEY)
    device = node.device()
    assert [row["path"] for row in device["deviceNodes"]] == [
        "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia2", "/dev/nvidia1",
    ]  # fmt: skip
    mounts = {row["containerPath"]: row["hostPath"] for row in device["mounts"]}
    assert mounts["/usr/lib/x86_64-linux-gnu/libcuda.so.1"] == "/usr/lib64/libcuda.so.1"
    assert "NVIDIA_VISIBLE_DEVICES=void" in device["env"]


def test_nvidias_runtime_brings_them_where_it_is_to(node: Node):
    node.preparer(None).prepare(KEY)
    device = node.device()
    assert "deviceNodes" not in device
    assert f"NVIDIA_VISIBLE_DEVICES={CARDS[1].uuid},{CARDS[2].uuid}" in device["env"]


@pytest.mark.parametrize("limits", [False, True])
def test_the_hook_goes_to_the_agent_where_the_driver_has_limits(node: Node, limits: bool):
    node.limits = limits
    node.preparer(None).prepare(KEY)
    hooks = {row["hookName"]: row for row in node.device()["hooks"]}
    agent = [str(node.folder / "run" / "agent.sock"), "k8s-uid-1-0"] if limits else []
    assert hooks["createRuntime"]["args"][1:] == ["hook", "claim", *agent]
    assert Path(hooks["createRuntime"]["path"]).parent == node.folder / "run" / "lib"


def test_a_driver_that_is_not_there_leaves_nothing_of_the_claim(node: Node, tmp_path: Path):
    with pytest.raises(DriverError, match=r"libcuda\.so\.1|nvidiactl"):
        node.preparer(DriverTree(tmp_path / "empty", Path("/"))).prepare(KEY)
    assert not node.made
    assert not (node.folder / "cdi").exists()


def test_a_folder_that_programs_cannot_be_put_into_is_told(node: Node):
    (node.folder / "run").mkdir()
    (node.folder / "run" / "lib").write_text("in the way")
    with pytest.raises(StateError, match="programs cannot be put there"):
        node.preparer(None).prepare(KEY)
    assert not node.made

"""``cgpu cdi`` with a real agent: made, made again, broken, mended and removed; and killed at any step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgpu.adapters.cdi.devices import Devices
from cgpu.errors import RefusedError, StateError
from cgpu.model.units import GIB
from tests.integration.conftest import Node

WISH = {"shares": [{"gpu": "0", "memory_bytes": GIB}]}
SHARE = ("--memory", "1GiB", "--compute", "30", "--weight", "2")
KILLED = 9


class Cdi:
    """The command on a node, with a folder for its files."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.folder = node.folder / "cdi"
        self.file = self.folder / "cgpu.dev-gpu_web.json"

    def __call__(self, action: str, *arguments: str, code: int = 0) -> str:
        result = self.node.cgpu("cdi", action, "--dir", str(self.folder), *arguments)
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    def listed(self) -> list[dict[str, Any]]:
        """The devices."""
        found: list[dict[str, Any]] = json.loads(self("list", "--json"))
        return found

    def devices(self, step: Callable[[str], None] = lambda _: None) -> Devices:
        """The devices, in this process; nobody uses them."""
        return Devices(
            self.node.client, sim_state=self.node.machine.folder, folder=self.folder, users=lambda _: [], step=step
        )

    def left(self) -> list[Path]:
        """What there is of devices."""
        run = self.node.settings.runtime_dir
        places = (self.folder, run / "cdi", run / "cdi-files", run / "tenants")
        return [path for place in places if place.is_dir() for path in place.iterdir()]


@pytest.fixture
def cdi(node: Node) -> Cdi:
    node.start_agent()
    return Cdi(node)


def test_a_device_is_made_listed_and_removed(cdi: Cdi):
    assert "cgpu.dev/gpu=web" in cdi("create", "--name", "web", *SHARE)
    content = cdi.file.read_bytes()
    (device,) = cdi.listed()
    share = device["shares"][0]
    assert (device["name"], device["state"], device["file"]) == ("web", "ok", str(cdi.file))
    assert (share["memory_bytes"], share["compute_percent"], share["weight"]) == (GIB, 30, 2)
    assert "cdi-web: the containers with cgpu.dev/gpu=web" in cdi.node.cgpu("ps").stdout
    before = cdi.file.stat()
    assert "ok" in cdi("create", "--name", "web", *SHARE)
    assert (cdi.file.read_bytes(), cdi.file.stat().st_ino) == (content, before.st_ino)
    assert "removed cgpu.dev/gpu=web" in cdi("remove", "web")
    assert (cdi.left(), cdi.listed(), cdi.node.client.get("/v1/tenants")) == ([], [], [])
    assert "there is no CDI device 'web'" in cdi("remove", "web", code=3)


def test_every_source_of_a_mount_is_there_and_the_view_is_below_the_agents_folder(cdi: Cdi):
    cdi("create", "--name", "web", *SHARE)
    edits = json.loads(cdi.file.read_bytes())["devices"][0]["containerEdits"]
    mounts = {mount["containerPath"]: mount for mount in edits["mounts"]}
    assert all(Path(mount["hostPath"]).exists() for mount in mounts.values())
    assert mounts["/.cgpu"]["hostPath"] == str(cdi.node.settings.runtime_dir / "cdi" / "web")
    writable = {place for place, mount in mounts.items() if "rw" in mount["options"]}
    assert writable == {"/.cgpu/tenant/usage", "/.cgpu/tenant/locks", "/.cgpu/machine"}
    assert "CGPU_SIM_STATE=/.cgpu/machine" in edits["env"]
    cdi("remove", "web")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--name", "web", "--memory", "2GiB"), 3, "`cgpu set web` changes it"),
        (("--name", "taken", *SHARE), 3, "choose another --name"),
        (("--name", "../web", *SHARE), 2, "not the name of a CDI device"),
        (("--name", "large", "--memory", "900GiB"), 3, "GPU 0"),
        (("--name", "none", "--gpu", "7", *SHARE), 3, "no GPU '7'"),
        (("--name", "driver", "--require-layer", "driver", *SHARE), 3, "CGPU_REQUIRE_LAYER=driver"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(cdi: Cdi, arguments: tuple[str, ...], code: int, words: str):
    cdi("create", "--name", "web", *SHARE)
    cdi.node.client.put("/v1/tenants/t", {**WISH, "name": "taken"})
    before = (sorted(cdi.left()), cdi.file.read_bytes(), cdi.listed())
    assert words in cdi("create", *arguments, code=code)
    assert (sorted(cdi.left()), cdi.file.read_bytes(), cdi.listed()) == before
    cdi("remove", "web")
    cdi.node.client.delete("/v1/tenants/t")


def test_a_file_that_cannot_be_written_takes_the_tenant_back(cdi: Cdi):
    cdi.folder.touch()  # a file in the folder's place, which stops root too
    assert "cdi" in cdi("create", "--name", "web", *SHARE, code=6)
    assert (cdi.left(), cdi.node.client.get("/v1/tenants")) == ([], [])


def test_a_device_that_is_changed_while_it_is_used_stays_whole(cdi: Cdi):
    cdi("create", "--name", "web", *SHARE)
    assert cdi.node.cgpu("set", "web", "--memory", "2GiB").returncode == 0
    (device,) = cdi.listed()
    assert (device["state"], device["shares"][0]["memory_bytes"]) == ("ok", 2 * GIB)
    cdi("remove", "web")


@pytest.mark.parametrize("lost", ["file", "content", "view", "region", "tenant"])
def test_what_is_half_there_is_told_with_the_way_out_which_works(cdi: Cdi, lost: str):
    cdi("create", "--name", "web", *SHARE)
    run = cdi.node.settings.runtime_dir
    if lost == "file":
        cdi.file.unlink()
    elif lost == "content":
        cdi.file.write_text("{}")
    elif lost == "tenant":
        cdi.node.client.delete("/v1/tenants/cdi-web")
    else:
        shutil.rmtree(run / {"view": "cdi", "region": "tenants"}[lost] / ("web" if lost == "view" else "cdi-web"))
    (device,) = cdi.listed()
    assert device["state"] == "broken"
    assert device["fault"]
    assert f"to mend it: {device['mend']}" in cdi("list")
    mend = device["mend"].replace("AMOUNT and what else it had", "1GiB")
    for command in mend.split("; "):
        result = cdi.node.cgpu(*command.split()[1:])
        assert result.returncode == 0, result.stderr
    (device,) = cdi.listed()
    assert (device["state"], device["shares"][0]["memory_bytes"]) == ("ok", GIB)
    if lost != "tenant":
        assert (device["shares"][0]["compute_percent"], device["shares"][0]["weight"]) == (30, 2)
    cdi("remove", "web")
    assert cdi.left() == []


def test_a_device_has_one_file(cdi: Cdi, tmp_path: Path):
    cdi("create", "--name", "web", *SHARE)
    elsewhere = Devices(cdi.node.client, sim_state=cdi.node.machine.folder, folder=tmp_path)
    with pytest.raises(RefusedError, match="the file of the CDI device 'web' is"):
        elsewhere.create("web", WISH)
    elsewhere.remove("web", force=False)
    assert (cdi.left(), list(tmp_path.iterdir())) == ([], [])


def test_a_device_in_use_is_removed_by_force_only_and_its_view_stays_as_long(cdi: Cdi):
    devices = cdi.devices()
    devices.create("web", WISH)
    used = Devices(cdi.node.client, sim_state=None, folder=cdi.folder, users=lambda _: [1, 2, 3, 4, 5, 6])
    with pytest.raises(RefusedError, match="6 processes are in containers with the device 'web': 1, 2, 3, 4, 5, …"):
        used.remove("web", force=False)
    assert [device.fault for device in devices.list()] == [""]
    used.remove("web", force=True)
    assert [path.name for path in cdi.left()] == ["web"]
    devices.remove("web", force=False)
    assert cdi.left() == []


@pytest.mark.parametrize("name", ["create", "remove"])
@pytest.mark.parametrize("again", [True, False])
def test_a_command_that_is_killed_at_any_step_leaves_nothing_half(cdi: Cdi, name: str, again: bool):
    outcomes: list[bool] = []
    number = 0
    killed = True
    while killed:
        if name == "remove":
            cdi.devices().create("web", WISH)
        killed = killed_at(cdi, name, number)
        devices = cdi.devices()
        found = devices.list()
        # To an engine it is whole, or it is not there.
        assert not cdi.file.exists() or [device.fault for device in found] == [""], f"step {number}"
        outcomes.append(cdi.file.exists())
        if again:
            devices.create("web", WISH)
            assert [device.fault for device in devices.list()] == [""], f"step {number}"
        if cdi.left() or again:
            devices.remove("web", force=False)
        assert (cdi.left(), devices.list()) == ([], ()), f"step {number}"
        number += 1
    assert number >= 5
    assert {True, False} >= set(outcomes)
    assert outcomes[-1] is (name == "create")


def killed_at(cdi: Cdi, name: str, number: int) -> bool:
    """Do it in a process that ends without a word at its step ``number``; False when it has fewer."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            count = iter(range(1000))
            devices = cdi.devices(lambda _: os._exit(KILLED) if next(count) == number else None)
            if name == "create":
                devices.create("web", WISH)
            else:
                devices.remove("web", force=False)
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def test_commands_at_once_leave_a_device_whole_or_gone(cdi: Cdi):
    commands = [("create", "--name", "web", *SHARE), ("remove", "web")] * 4
    started = [cdi.node.start("cdi", action, "--dir", str(cdi.folder), *rest) for action, *rest in commands]
    for process in started:
        process.communicate(timeout=60)
    devices = cdi.listed()
    assert cdi.file.exists() == bool(devices)
    assert [device["state"] for device in devices] in ([], ["ok"])
    if devices:
        cdi("remove", "web")
    assert cdi.left() == []


def test_without_an_agent_nothing_is_made(node: Node):
    result = Cdi(node)("create", "--name", "web", *SHARE, code=4)
    assert "no agent answers" in result
    assert not (node.folder / "cdi").exists()


def test_a_folder_that_is_not_the_users_is_told(cdi: Cdi, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(cdi.node.settings.runtime_dir / "cdi-files", ignore_errors=True)
    (cdi.node.settings.runtime_dir / "cdi-files").touch()
    with pytest.raises(StateError, match="cdi-files"):
        cdi.devices().create("web", WISH)
    assert cdi.node.client.get("/v1/tenants") == []

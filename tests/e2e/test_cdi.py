"""CDI devices through the engines' own libraries: read, applied, shared, and gone afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgpu.model.units import GIB
from tests.e2e import image
from tests.e2e.engines import Containerd, Engine, Podman, tells_why
from tests.e2e.host import eventually
from tests.e2e.node import Node, told
from tests.e2e.test_walls import ATTEMPTS
from tests.e2e.tools import program
from tests.e2e.wanted import Result, Wanted

OUT_OF_MEMORY = 2
PRESENT = [attempt for attempt in ATTEMPTS if "/usr/local/bin/cgpu" not in attempt]
NAME = "cgpu.dev/gpu=web"
FILE = "/var/run/cdi/cgpu.dev-gpu_web.json"
FILL = Wanted(("/client/quota", "fill"), devices=(NAME,))
HOLD = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold"), devices=(NAME,))
WORK = Wanted(("sh", "-c", "(echo 'run plain 1000 1'; sleep 1000) | /client/load"), devices=(NAME,))
WAIT = Wanted(("sleep", "1000"), devices=(NAME,))


def cdi(node: Node, *arguments: str) -> Result:
    """Run ``cgpu cdi``."""
    return node.host.run(sys.executable, "-m", "cgpu", "cdi", *arguments, env=node.environment)


def create(node: Node) -> Result:
    return cdi(node, "create", "--name=web", "--memory=2GiB", "--compute=30", "--weight=2")


def device(node: Node) -> dict[str, Any]:
    """The device as it is listed."""
    (found,) = json.loads(cdi(node, "list", "--json").stdout)
    return dict(found)


@pytest.fixture
def web(node: Node) -> Iterator[None]:
    """The device."""
    assert create(node).returncode == 0
    yield
    # A process of a container that the engine has removed may be there for a moment.
    eventually(lambda: cdi(node, "remove", "web").returncode == 0, "nobody uses it, so it is removed")
    assert node.host.run("find", "/run/cdi", "-type", "f").stdout == ""


@pytest.fixture(params=["podman over runc", "podman over cgpu-runtime", "containerd over runc"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """The engines that know CDI; Docker does from 25.0 on."""
    name, _, runtime = request.param.partition(" over ")
    found: Podman | Containerd = request.getfixturevalue(name)
    return found if runtime == "cgpu-runtime" else replace(found, runtime=program(runtime))


def test_a_container_with_the_device_has_its_quota(node: Node, web: None, engine: Engine):
    seen = told(engine.run("with", FILL))
    assert seen["device_total"] == seen["total"] == seen["nvml_total"] == 2 * GIB
    assert GIB < seen["held"] < 2 * GIB


def test_a_user_other_than_root_has_it_too(node: Node, web: None, engine: Engine):
    assert told(engine.run("with", replace(FILL, user=1000)))["total"] == 2 * GIB


def test_an_image_that_cannot_load_the_shim_is_refused(node: Node, web: None, engine: Engine, tmp_path: Path):
    result = engine.run("musl", Wanted(("echo", "started"), devices=(NAME,), volumes=image.as_of_musl(tmp_path)))
    engine.remove("musl")
    assert (result.returncode != 0, result.stdout) == (True, "")
    for words in ("its C library is musl", "use an image with glibc, or cgpu-runtime on driver r615 or later"):
        assert words in result.stderr or not tells_why(engine)


def test_a_container_without_it_is_not_touched(node: Node, web: None, engine: Engine):
    bare = engine.run("without", Wanted(("sh", "-c", "ls -d /.cgpu /etc/ld.so.preload; echo ended")))
    assert bare.stdout == "ended\n", bare.stderr


def test_two_containers_share_one_quota_and_their_ends_give_it_back(node: Node, web: None, engine: Engine):
    try:
        assert engine.start("first", WORK).returncode == 0
        eventually(lambda: device(node)["shares"][0]["processes"], "the first is on the card")
        assert engine.start("second", HOLD).returncode == 0
        eventually(lambda: device(node)["shares"][0]["oom_count"], "the second has all that was left, and no more")
        listed = device(node)
        assert len(listed["shares"][0]["processes"]) == 2
        assert listed["processes"] >= 4
        assert GIB < node.used_bytes() < 2 * GIB
        third = engine.run("third", FILL)
        assert f"cuDevicePrimaryCtxRetain answered {OUT_OF_MEMORY}" in third.stderr + third.stdout
        refused = cdi(node, "remove", "web")
        assert refused.returncode == 3
        assert "are in containers" in refused.stderr
    finally:
        for name in ("first", "second", "third"):
            engine.remove(name)
    eventually(lambda: device(node)["shares"][0]["used_bytes"] == 0, "what they held is given back")
    assert told(engine.run("fourth", FILL))["held"] > GIB
    eventually(lambda: device(node)["processes"] == 0, "nobody uses it")
    assert device(node)["state"] == "ok"


def test_the_device_outlives_the_agent_and_so_do_its_containers(node: Node, web: None, engine: Engine):
    assert engine.start("lives", HOLD).returncode == 0
    try:
        eventually(node.is_filled, "the container has filled its slice of the card")
        held = device(node)["shares"][0]["used_bytes"]
        node.kill_agent()
        node.start_agent()
        found = device(node)
        assert (found["state"], found["shares"][0]["used_bytes"], found["shares"][0]["weight"]) == ("ok", held, 2)
        assert create(node).returncode == 0
    finally:
        engine.remove("lives")
    assert told(engine.run("next", FILL))["total"] == 2 * GIB


def test_a_container_that_starts_while_no_agent_runs_has_the_quota(node: Node, web: None, engine: Engine):
    node.kill_agent()
    try:
        assert told(engine.run("alone", FILL))["total"] == 2 * GIB
    finally:
        node.start_agent()
    eventually(lambda: device(node)["shares"][0]["used_bytes"] == 0, "what it held is given back")


def test_a_process_that_goes_round_the_shim_is_the_devices(node: Node, web: None, engine: Engine):
    assert engine.start("round", WAIT).returncode == 0
    try:
        enter = ("nsenter", f"--target={engine.pid('round')}", "--mount", "--pid", "--")
        node.host.run(*enter, "umount", "/etc/ld.so.preload", check=True)  # what only a privileged container can
        variables = "LD_LIBRARY_PATH=/.cgpu/lib/sim CGPU_SIM_STATE=/.cgpu/machine"
        started = node.host.start(*enter, "sh", "-c", f"sleep 1000 | {variables} /client/quota hold")
        eventually(lambda: device(node)["shares"][0]["processes"], "it is on the card")
        (process,) = device(node)["shares"][0]["processes"]
        assert process["bypasses_shim"]
    finally:
        engine.remove("round")
    node.host.stop(started)


def test_a_folder_of_the_agent_that_was_cleared_is_told_and_mended(node: Node, podman: Podman):
    assert create(node).returncode == 0
    node.kill_agent()
    node.host.run("sh", "-c", f"rm -r {node.settings.runtime_dir}/*", check=True)
    node.start_agent()
    found = device(node)
    assert (found["state"], found["fault"]) == ("broken", "the agent has no tenant cdi-web")
    assert f"--dir {Path(FILE).parent}" in found["mend"]
    refused = podman.run("broken", FILL)
    assert (refused.returncode != 0, refused.stdout) == (True, "")
    assert create(node).returncode == 0
    assert device(node)["state"] == "ok"
    assert told(podman.run("whole", FILL))["total"] == 2 * GIB
    assert cdi(node, "remove", "web").returncode == 0


def test_a_device_taken_from_running_containers_leaves_them_their_walls(node: Node, podman: Podman):
    assert create(node).returncode == 0
    assert podman.start("left", WAIT).returncode == 0
    try:
        removed = cdi(node, "remove", "web", "--force")
        assert removed.returncode == 0, removed.stderr
        assert "keep the quota" in removed.stdout
        assert node.tenants() == []
        variables = ("env", "LD_LIBRARY_PATH=/.cgpu/lib/sim", "CGPU_SIM_STATE=/.cgpu/machine")
        assert told(podman.execute("left", *variables, "/client/quota", "fill"))["total"] == 2 * GIB
        view = node.settings.runtime_dir / "cdi" / "web"
        assert view.is_dir()
    finally:
        podman.remove("left")
    assert cdi(node, "remove", "web").returncode == 0
    assert not view.exists()


def test_a_container_cannot_have_the_device_and_a_share_of_its_own(node: Node, web: None, podman: Podman):
    result = podman.run("both", replace(FILL, env={"CGPU_MEMORY": "1GiB"}))
    assert result.returncode != 0
    assert "the container has a CDI device cgpu.dev/gpu, and asks for a share of its own" in result.stderr
    podman.remove("both")


def test_root_cannot_replace_region_library_or_preload_file(node: Node, web: None, engine: Engine):
    tries = "\n".join(f"if ( {attempt} ) 2>/dev/null; then echo 'did: {attempt}'; fi" for attempt in PRESENT)
    script = f"{tries}\nunset LD_PRELOAD\nexport CGPU_REGION=/tmp\nexec /client/quota fill"
    result = engine.run("walls", replace(FILL, command=("sh", "-c", script)))
    assert "did: " not in result.stdout
    assert told(result)["total"] == 2 * GIB


def test_a_name_that_begins_with_a_digit_is_taken_by_the_engines(node: Node, engine: Engine):
    assert cdi(node, "create", "--name=0d", "--memory=1GiB").returncode == 0
    result = engine.run("digit", replace(FILL, devices=("cgpu.dev/gpu=0d",)))
    assert cdi(node, "remove", "0d").returncode == 0
    assert told(result)["total"] == GIB

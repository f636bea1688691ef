"""Containers whose root is not the host's: other users, user namespaces, rootless engines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgpu.model.units import GIB
from tests.e2e import image
from tests.e2e.engines import Docker, Engine, Podman, Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node, told
from tests.e2e.wanted import Wanted

FILL = ("/client/quota", "fill")
QUOTA = {"CGPU_MEMORY": "1GiB"}
FIRST, COUNT = 100000, 65536
"""The users of the host that a user namespace has."""


@pytest.fixture(scope="module")
def remapped_docker(host: Host, started_node: Node, rootfs: Path, docker: Docker) -> Iterator[Docker]:
    """A dockerd whose containers have a user namespace."""
    for name in ("subuid", "subgid"):  # the host's own file stays as it is
        file = host.folder / name
        file.write_text(f"dockremap:{FIRST}:{COUNT}\n")
        host.run("mount", "--bind", str(file), f"/etc/{name}", check=True)
    host.folder.chmod(0o711)  # its containers' root is nobody here
    tar = image.make_tar(rootfs, host.folder / "remapped.tar")
    with Docker(host, started_node.runtime, tar, name="docker-users", more=("--userns-remap=default",)) as made:
        yield made


@pytest.fixture(params=["docker", "podman", "runc"])
def namespaced(request: pytest.FixtureRequest, host: Host) -> Engine:
    """Engines whose containers have a user namespace."""
    host.folder.chmod(0o711)
    if request.param == "docker":
        return request.getfixturevalue("remapped_docker")  # type: ignore[no-any-return]
    if request.param == "podman":
        podman: Podman = request.getfixturevalue("podman")
        return replace(podman, first_user=FIRST)
    runc: Runc = request.getfixturevalue("runc")
    return replace(runc, first_user=FIRST)


def of_first(node: Node) -> list[dict[str, Any]]:
    """The processes of the first tenant."""
    rows: list[dict[str, Any]] = node.tenants()[0]["shares"][0]["processes"]
    return rows


@pytest.mark.parametrize("user", [0, 1000])
def test_a_user_namespace_has_the_quota(node: Node, namespaced: Engine, user: int):
    result = namespaced.run("mapped", Wanted(FILL, QUOTA, user=user))
    assert told(result)["total"] == GIB


def test_its_processes_are_seen_and_its_end_leaves_nothing(node: Node, namespaced: Engine):
    wanted = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold"), QUOTA)
    result = namespaced.start("mapped", wanted)
    assert result.returncode == 0, result.stderr
    try:
        eventually(lambda: [row["host_pid"] for row in of_first(node)] not in ([], [None]), "its process is seen")
        assert [row["bypasses_shim"] for row in of_first(node)] == [False]
        node.host.kill(namespaced.pid("mapped"))
        eventually(node.nothing_left, "nothing is left")
    finally:
        namespaced.remove("mapped")


def test_a_user_namespace_reaches_no_neighbour(node: Node, host: Host, namespaced: Engine, runc: Runc):
    assert runc.start("neighbour", Wanted(("sleep", "1000"), QUOTA)).returncode == 0
    try:
        assert namespaced.start("mapped", Wanted(("sleep", "1000"), QUOTA)).returncode == 0
        regions = [row["region"] for row in node.tenants()]
        assert len(regions) == 2
        # The container's root as it would be if it came out of its mount namespace.
        outside = ("setpriv", f"--reuid={FIRST}", f"--regid={FIRST}", "--clear-groups")
        for region, file in itertools.product(regions, ("usage", "locks", "grants")):
            assert host.run(*outside, "cat", f"{region}/{file}").returncode != 0
        mapped = namespaced.execute("mapped", "sh", "-c", "echo 1 > /.cgpu/tenant/grants")
        assert mapped.returncode != 0
    finally:
        namespaced.remove("mapped")
        runc.remove("neighbour")


def test_a_closed_simulated_machine_is_refused_with_the_way_out(node: Node, runc: Runc):
    node.machine.folder.chmod(0o700)
    try:
        result = runc.run("closed", Wanted(("echo", "started"), QUOTA, user=1000))
    finally:
        node.machine.folder.chmod(0o777)
    assert result.returncode != 0
    assert f"chmod -R a+rwX {node.machine.folder}" in result.stderr
    assert "started" not in result.stdout


def test_a_rootless_engine_is_refused_with_the_reason(node: Node, host: Host, runc: Runc):
    bundle = runc.bundle("rootless", Wanted(("echo", "started"), QUOTA))
    # A user who can read the Python of these tests, wherever it is.
    user = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
    reader = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    result = host.run(*user, *reader, runc.runtime, "--root=/tmp/none", "run", "--bundle", str(bundle), "rootless")
    assert result.returncode != 0
    assert "rootless" in result.stderr
    assert "CGPU-FORBIDDEN" in result.stderr

"""Annotations as wishes, and those that tell what a container has got, where its engine or runtime shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cgpu.model.container import tenant_id_of
from cgpu.model.units import GIB
from tests.e2e.engines import Docker, Engine, Podman, Runc
from tests.e2e.node import Node
from tests.e2e.wanted import Wanted

WISHES = {
    "cgpu.dev/memory": "2GiB",
    "cgpu.dev/weight": "3",
    "cgpu.dev/priority": "1",
    "cgpu.dev/compute-limit": "60",
    "cgpu.dev/name": "web",
}


@pytest.fixture(params=["podman", "containerd", "runc"])
def annotating(request: pytest.FixtureRequest) -> Engine:
    """The engines that take annotations; Docker does from 24 on, a dockerd before that has none."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


def test_annotations_ask_for_a_share(node: Node, annotating: Engine):
    result = annotating.start("asks", Wanted(("sleep", "1000"), annotations=WISHES))
    assert result.returncode == 0, result.stderr
    try:
        tenant = node.tenants()[0]
        share = tenant["shares"][0]
        assert tenant["name"] == "web"
        assert (share["memory_bytes"], share["weight"], share["priority"]) == (2 * GIB, 3, 1)
        assert share["compute_limit_percent"] == 60
    finally:
        annotating.remove("asks")


def test_an_annotation_and_a_variable_that_contradict_it_are_both_named(node: Node, annotating: Engine):
    wanted = Wanted(("echo", "started"), {"CGPU_MEMORY": "1GiB"}, annotations={"cgpu.dev/memory": "2GiB"})
    result = annotating.run("wrong", wanted)
    annotating.remove("wrong")
    assert result.returncode != 0
    assert "CGPU_MEMORY and cgpu.dev/memory contradict each other" in result.stderr
    assert "started" not in result.stdout


def test_an_annotation_keeps_cgpu_away(node: Node, annotating: Engine):
    wanted = Wanted(
        ("sh", "-c", "ls -d /.cgpu; echo ended"), {"CGPU_MEMORY": "1GiB"}, annotations={"cgpu.dev/disable": "1"}
    )
    assert annotating.run("plain", wanted).stdout == "ended\n"


def test_podman_shows_the_layers(node: Node, podman: Podman):
    assert podman.start("layers", Wanted(("sleep", "1000"), {"CGPU_MEMORY": "1GiB"})).returncode == 0
    try:
        assert_tells_the_layers(
            json.loads(podman.inspect("layers", "{{json .Config.Annotations}}")), podman.inspect("layers", "{{.Id}}")
        )
    finally:
        podman.remove("layers")


def test_runc_shows_the_layers(node: Node, runc: Runc):
    assert runc.start("layers", Wanted(("sleep", "1000"), {"CGPU_MEMORY": "1GiB"})).returncode == 0
    try:
        assert_tells_the_layers(runc.state("layers")["annotations"], "layers")
    finally:
        runc.remove("layers")


def test_runc_shows_the_layers_of_dockers_containers(node: Node, docker: Docker, runc: Runc):
    assert docker.start("layers", Wanted(("sleep", "1000"), {"CGPU_MEMORY": "1GiB"})).returncode == 0
    try:
        name = docker.container_id("layers")
        root = docker.folder / "exec" / "runtime-runc" / "moby"
        assert_tells_the_layers(runc.state(name, root)["annotations"], name)
    finally:
        docker.remove("layers")


def assert_tells_the_layers(annotations: dict[str, Any], container: str) -> None:
    """The annotations name the tenant and what enforces its shares."""
    assert annotations["cgpu.dev/tenant"] == tenant_id_of(container)
    assert annotations["cgpu.dev/memory-layer"] == "shim"
    assert annotations["cgpu.dev/compute-layer"] == "slots"

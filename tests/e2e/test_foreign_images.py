"""Containers of images that cannot load the shim: refused by every engine, unless the driver itself holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import image
from tests.e2e.conftest import SETTLE_S
from tests.e2e.engines import Engine, Runc, tells_why
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node
from tests.e2e.wanted import Volume, Wanted

ECHO = ("echo", "started")
SHARE = {"CGPU_MEMORY": "2GiB"}


@pytest.fixture
def musl(tmp_path: Path) -> tuple[Volume, ...]:
    """Volumes that make the image one of musl."""
    return image.as_of_musl(tmp_path)


@pytest.fixture
def limiting(host: Host) -> Iterator[Node]:
    """cGPU on a machine whose driver has memory limits."""
    with Node(host, driver="615.10", name="cgpu-musl") as made:
        yield made
        eventually(made.nothing_left, "nothing is left", SETTLE_S)


def test_a_container_of_musl_starts_without_a_share_and_is_refused_with_one(
    node: Node, engine: Engine, musl: tuple[Volume, ...]
):
    bare = engine.run("bare", Wanted(ECHO, volumes=musl))
    assert bare.stdout == "started\n", bare.stderr
    for variables in (SHARE, {**SHARE, "CGPU_REQUIRE_LAYER": "shim"}):
        result = engine.run("musl", Wanted(ECHO, variables, musl))
        engine.remove("musl")
        assert result.returncode != 0
        assert "started" not in result.stdout
        for words in ("its C library is musl", "use an image with glibc", "[CGPU-LAYER]"):
            assert words in result.stderr or not tells_why(engine)
        eventually(node.nothing_left, "nothing is left", SETTLE_S)
    assert "its C library is musl" in (node.folder / "agent.log").read_text()


def test_where_the_driver_holds_it_a_container_of_musl_starts(
    host: Host, limiting: Node, rootfs: Path, musl: tuple[Volume, ...]
):
    runc = Runc(host, limiting.runtime, rootfs)
    result = runc.start("musl", Wanted(("sleep", "1000"), SHARE, musl))
    assert result.returncode == 0, result.stderr
    try:
        assert limiting.tenants()[0]["shares"][0]["memory_layer"] == "driver"
    finally:
        runc.remove("musl")

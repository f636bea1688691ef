"""Ways round a share, tried in containers: without and with the limits of a new driver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import escape_table, escape_tricks
from bench.escape_places import Container, Programs
from bench.escape_table import DRIVER
from tests.e2e.host import Host
from tests.e2e.node import Node

pytestmark = pytest.mark.timeout(600, func_only=False)


@pytest.fixture(scope="module")
def programs(host: Host) -> Programs:
    return Programs.make(host.folder / "escapes", simulated=True)


@pytest.fixture(scope="module")
def open_rootfs(host: Host, rootfs: Path) -> Path:
    """An image of its own: these containers mount folders that others do not have."""
    return Path(shutil.copytree(rootfs, host.folder / "image-escapes", symlinks=True))


@pytest.fixture(scope="module")
def new_driver(host: Host) -> Iterator[Node]:
    with Node(host, driver="615.10", name="cgpu-escapes") as made:
        yield made


def test_what_the_preload_file_holds_is_held_and_the_rest_is_what_is_listed(
    host: Host, node: Node, open_rootfs: Path, programs: Programs
):
    place = Container(host, node, open_rootfs, programs)
    attempts = list(escape_tricks.try_all(place, programs))
    assert escape_table.escapes(attempts) == []
    assert all(row.escaped for row in attempts if row.below), "what is listed as a limit is none any more"


def test_the_drivers_layer_holds_all_of_it(host: Host, new_driver: Node, open_rootfs: Path, programs: Programs):
    place = Container(host, new_driver, open_rootfs, programs, name=DRIVER)
    attempts = list(escape_tricks.try_all(place, programs))
    assert [row.way for row in attempts if row.escaped] == []
    assert not any(row.below for row in attempts)

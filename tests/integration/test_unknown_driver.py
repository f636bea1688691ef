"""An agent on a driver that reports a version outside of what is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.conftest import Node

RUN = ("run", "--memory", "1GiB", "--", "true")


def report(node: Node, version: str) -> Node:
    """Have the machine's driver say that it is of a version which no machine can be made with."""
    state = node.machine.folder / "state"
    content = state.read_bytes()
    own = node.machine.status().driver_version.encode()
    assert content.count(own) == 1
    with state.open("r+b") as file:
        file.seek(content.index(own))
        file.write(version.encode().ljust(len(own), b"\0"))
    return node


def test_a_driver_that_is_too_old_is_refused(make_node: Callable[..., Node]) -> None:
    node = report(make_node(), "390.157")
    agent = node.cgpu("agent")
    assert agent.returncode == 5
    assert "driver 390.157: this cgpu needs driver 450-620 [CGPU-DRIVER]" in agent.stderr
    told = node.cgpu(*RUN)
    assert "driver 390.157: this cgpu needs driver 450-620" in told.stderr
    assert told.returncode != 0


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("999.1", "driver 999.1 is not known to this cgpu: known are driver 450-620"),
        ("N/A", "the driver says that its version is 'N/A', which is no version"),
    ],
)
def test_a_driver_that_is_not_known_is_named(make_node: Callable[..., Node], version: str, said: str) -> None:
    node = report(make_node(), version)
    agent = node.start_agent()
    assert node.cgpu(*RUN).returncode == 0
    assert f"warning: {said}" in node.cgpu("info").stdout.splitlines()
    agent.terminate()
    assert said in agent.communicate()[1]

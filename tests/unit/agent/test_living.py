"""Which tenants run while no agent does, and what an agent of this version could not take over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.adapters.process import ProcessTable
from cgpu.agent.documents import NodeDocument, ProcessRef, Record, encode
from cgpu.agent.living import living_tenants, obstacles
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import Policy
from cgpu.region.layout import CGPU_REGION_MAJOR, GrantsHeader
from cgpu.region.writer import Owner, Row, create_region
from cgpu.settings import Settings
from cgpu.testing.fakes import gpu
from cgpu.testing.tenant_process import TenantProcess
from tests.unit.agent.conftest import tenant


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An agent's folder without an agent, with a tenant's region."""
    settings = Settings(tmp_path, tmp_path / "agent.sock", tmp_path)
    wish = tenant("a")
    create_region(settings.tenants_dir / "a", wish, (Row(gpu(0), wish.shares[0], Policy.PREEMPTIVE, 0),), Owner())
    return settings


@pytest.fixture
def process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """One that was started with the tenant's region."""
    environment = {"CGPU_REGION": str(settings.tenants_dir / "a")}
    command = [sys.executable, "-S", "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def write_down(settings: Settings, host_pid: int) -> None:
    """The checkpoint of an agent that has ended: the tenant ends with this process."""
    ticks = ProcessTable().start_ticks(host_pid)
    record = Record(tenant("a"), ProcessRef(host_pid, 1 if ticks is None else ticks))
    CheckpointStore(settings.checkpoint).save(encode(NodeDocument({"a": record}, {}, {})))


def test_a_region_alone_is_no_living_tenant(settings: Settings):
    assert living_tenants(settings) == ()


def test_its_environment_tells_a_process(settings: Settings, process: subprocess.Popen[bytes]):
    assert living_tenants(settings) == ("a",)
    process.kill()
    process.wait()
    assert living_tenants(settings) == ()


def test_its_slot_tells_a_process(settings: Settings):
    slot = TenantProcess(settings.tenants_dir / "a", 0, os.getpid(), 1)
    assert living_tenants(settings) == ("a",)
    slot.close()
    assert living_tenants(settings) == ()


def test_the_checkpoint_tells_a_process(settings: Settings):
    write_down(settings, os.getpid())
    assert living_tenants(settings) == ("a",)
    write_down(settings, 1 << 22)  # beyond the largest pid
    assert living_tenants(settings) == ()


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 99}'])
def test_a_checkpoint_that_cannot_be_read_is_left_as_it_is(settings: Settings, text: str):
    settings.checkpoint.write_text(text)
    assert living_tenants(settings) == ()
    assert settings.checkpoint.read_text() == text


def test_what_this_version_can_take_over_is_no_obstacle(settings: Settings):
    write_down(settings, os.getpid())
    assert obstacles(settings) == ()


def test_a_region_of_another_layout_is_an_obstacle(settings: Settings):
    with (settings.tenants_dir / "a" / GRANTS).open("r+b") as file:
        file.seek(GrantsHeader.major.offset)
        file.write((CGPU_REGION_MAJOR + 1).to_bytes(4, "little"))
    (found,) = obstacles(settings)
    assert found.what == "tenant a"
    assert f"layout version {CGPU_REGION_MAJOR + 1}" in found.reason


def test_a_checkpoint_of_another_version_is_an_obstacle(settings: Settings):
    settings.checkpoint.write_text('{"version": 99}')
    (found,) = obstacles(settings)
    assert (found.what, "99" in found.reason) == ("the agent's checkpoint", True)


def test_what_is_no_region_is_no_obstacle(settings: Settings):
    (settings.tenants_dir / "b").mkdir()
    (settings.tenants_dir / "a" / GRANTS).write_bytes(b"x")
    assert obstacles(settings) == ()

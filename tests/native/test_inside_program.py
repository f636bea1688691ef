"""cgpu-inside tells of a region what ``cgpu smi`` tells of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgpu import __version__
from cgpu.adapters.native import HELPER, native_library
from cgpu.model.region_files import GRANTS, USAGE
from cgpu.model.tenant import MemoryLayer, Policy, Share, Tenant
from cgpu.model.units import GIB, MIB
from cgpu.region.writer import GrantsWriter, Owner, Row, create_region
from cgpu.testing.fakes import gpu
from cgpu.testing.tenant_process import TenantProcess

PROGRAMS = {"inside": [str(native_library(HELPER))], "python": [sys.executable, "-m", "cgpu"]}


def call(program: str, folder: Path | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")} | more
    if folder is not None:
        environment["CGPU_REGION"] = str(folder)
    return subprocess.run([*PROGRAMS[program], *arguments], env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(params=[Policy.SOFT, Policy.NATIVE, Policy.WEIGHTED], ids=lambda policy: policy.name.lower())
def region(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    percent = None if request.param is Policy.NATIVE else 30
    share = Share(gpu().uuid, 6 * GIB, compute_percent=percent, weight=2)
    tenant = Tenant("t1", 'tr"ain\\ing é', (share,), memory_layer=MemoryLayer.DRIVER)
    create_region(tmp_path / "t1", tenant, (Row(gpu(), share, request.param, 0),), Owner())
    writer = GrantsWriter(tmp_path / "t1")
    writer.set_measured(0, 5 * MIB, 300 * MIB)
    writer.set_utilisation(0, 42)
    writer.close()
    return tmp_path / "t1"


@pytest.fixture
def processes(region: Path) -> Iterator[list[TenantProcess]]:
    """One that holds memory, one in the middle of a charge, one that has died."""
    made = [TenantProcess(region, slot, pid=100 + slot, start_ticks=1) for slot in (0, 2, 5)]
    made[0].charge(700 * MIB)
    made[1].charge(64 * MIB)
    made[1].usage.slot[2].header.comm = b'a"\x01\xe2\x82\xacb\xff\xe2\x82'
    made[2].charge(MIB)
    made[2].die()
    made[1].charge(-16 * MIB, complete=False)  # last: whoever charges next completes it
    yield made
    for process in made:
        process.close()


@pytest.mark.parametrize("state", [{}, {"CGPU_SIM_STATE": "/nowhere"}], ids=["card", "simulated"])
def test_both_programs_tell_the_same(region: Path, processes: list[TenantProcess], state: dict[str, str]):
    inside, python = (call(program, region, "smi", "--json", **state) for program in ("inside", "python"))
    assert inside.returncode == python.returncode == 0, inside.stderr + python.stderr
    assert json.loads(inside.stdout) == json.loads(python.stdout)
    assert list(json.loads(inside.stdout)) == list(json.loads(python.stdout))
    assert [row["memory_bytes"] for row in json.loads(inside.stdout)["shares"][0]["processes"]] == [
        700 * MIB,
        48 * MIB,
    ]


def test_people_read_the_same_lines(region: Path, processes: list[TenantProcess]):
    processes[1].usage.slot[2].header.comm = b"trainer"
    inside, python = (call(program, region, "smi").stdout for program in ("inside", "python"))
    assert [line.split() for line in inside.splitlines()] == [line.split() for line in python.splitlines()]


def test_a_name_does_not_speak_to_the_terminal(region: Path, processes: list[TenantProcess]):
    processes[1].usage.slot[2].header.comm = b"\x1b[2Jx"
    assert "?[2Jx" in call("inside", region, "smi").stdout


def test_info_and_version(region: Path):
    assert call("inside", None, "--version").stdout == call("python", None, "--version").stdout
    assert json.loads(call("inside", region, "info", "--json").stdout) == {
        "version": __version__,
        "simulated": False,
        "id": "t1",
        "name": 'tr"ain\\ing é',
    }
    python = json.loads(call("python", region, "info", "--json").stdout)
    assert json.loads(call("inside", region, "info", "--json").stdout).items() <= python.items()
    assert 'tenant tr"ain\\ing é (t1)\n' in call("python", region, "info").stdout
    assert call("inside", region, "info").stdout == f'cgpu {__version__}\ntenant tr"ain\\ing é (t1), 1 GPU\n'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--memory", "1GiB", "--", "sh"), "works on the host only: cgpu run"),
        (("smi", "--all"), "unknown argument: --all"),
        ((), "no command given"),
    ],
)
def test_other_commands_are_refused(arguments: tuple[str, ...], said: str):
    result = call("inside", None, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_names_the_commands():
    result = call("inside", None, "--help")
    assert result.returncode == 0
    assert "smi" in result.stdout


@pytest.mark.parametrize("name", [GRANTS, USAGE])
@pytest.mark.parametrize("damage", ["gone", "short", "foreign"])
def test_a_region_that_is_no_use_is_refused(region: Path, name: str, damage: str):
    content = bytearray((region / name).read_bytes())
    (region / name).unlink()
    if damage == "foreign":
        content[:8] = bytes(8)
    if damage != "gone":
        (region / name).write_bytes(content[:100] if damage == "short" else content)
    result = call("inside", region, "smi")
    assert (result.returncode, result.stdout) == (6, "")
    assert name in result.stderr
    assert "region" in json.loads(call("python", region, "info", "--json").stdout)["region_error"]


def test_a_process_that_is_no_tenant_is_told_so():
    result = call("inside", None, "smi")
    assert result.returncode == 6
    assert "no tenant" in result.stderr

"""An installation on a host, as values: the unit, the variables, what is placed and what is taken away."""

from __future__ import annotations

import os
import socket
import stat
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from cgpu.adapters.host.layout import CURRENT, ENVIRONMENT, SYSTEM_COMMAND, HostLayout, stable_python
from cgpu.adapters.host.leftovers import leftovers
from cgpu.adapters.host.program import COMMAND, NEEDED, OPTIONAL, Program, running_program
from cgpu.adapters.host.unit import UNIT, is_ours, unit_text
from cgpu.adapters.host_files import PlaceTree, TreeFile, carry_out
from cgpu.adapters.notify import notify
from cgpu.cli.takeover import Seen, Wish, lost
from cgpu.errors import RefusedError, UsageError
from cgpu.settings import Settings

ROOTS = Settings.from_environment({"CGPU_LOCK_DIR": "/run/lock"}, uid=0)
PROGRAM = Program("1.0", (TreeFile(PurePosixPath("bin/x"), b"x", 0o755), TreeFile(PurePosixPath("l"), link="bin/x")))
OTHER = Program("2.0", PROGRAM.files)


def directives(text: str) -> dict[str, str]:
    rows = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name: value for name, _, value in rows}


def unit_of(**variables: str) -> dict[str, str]:
    settings = Settings.from_environment({"CGPU_LOCK_DIR": "/run/lock", **variables}, uid=0)
    return directives(unit_text(CURRENT / COMMAND, ENVIRONMENT, settings))


def install(layout: HostLayout, program: Program = PROGRAM) -> None:
    changes = [*layout.place(program), *layout.switch(program.name, ROOTS), *layout.complete({}, enable=True)]
    carry_out(changes, dry_run=False)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_the_unit_is_filled_in():
    text = unit_text(CURRENT / COMMAND, ENVIRONMENT, ROOTS)
    assert is_ours(text)
    assert "@" not in text
    values = directives(text)
    assert values["ExecStart"] == "/opt/cgpu/current/bin/cgpu agent"
    assert values["RuntimeDirectory"] == "cgpu"
    assert values["RuntimeDirectoryPreserve"] == "yes"
    assert values["ReadWritePaths"] == "-/run/lock"


@pytest.mark.parametrize(
    "forbidden",
    ["PrivateDevices", "ProtectClock", "ProtectKernelModules", "MemoryDenyWriteExecute", "ProtectControlGroups"],
)
def test_the_unit_forbids_nothing_that_the_agent_needs(forbidden: str):
    assert forbidden not in unit_of()


def test_an_agents_folders_are_writable_wherever_they_are():
    values = unit_of(CGPU_RUNTIME_DIR="/srv/a/run")
    assert "RuntimeDirectory" not in values
    assert values["ReadWritePaths"] == "-/run/lock -/srv/a"
    values = unit_of(CGPU_SIM_STATE="/run/machine")
    assert values["RuntimeDirectory"].startswith("cgpu/sim-")
    assert values["ReadWritePaths"] == "-/run/lock -/run/machine"


def test_a_path_that_a_unit_cannot_hold_is_refused():
    with pytest.raises(UsageError, match="cannot be written into a unit"):
        unit_of(CGPU_RUNTIME_DIR="/srv/a b")


def test_what_is_installed_is_told_and_goes_again(tmp_path: Path):
    assert HostLayout(tmp_path).current is None
    layout = HostLayout(tmp_path)
    install(layout)
    assert layout.current == PROGRAM.name
    assert (tmp_path / "opt/cgpu/current/l").read_bytes() == b"x"
    assert layout.at(SYSTEM_COMMAND).readlink() == CURRENT / COMMAND
    before = everything(tmp_path)
    install(layout)
    assert everything(tmp_path) == before
    carry_out(layout.remove(tenants=False), dry_run=False)
    assert everything(tmp_path) == set()
    assert carry_out(layout.remove(tenants=False), dry_run=False) == ()


def test_with_tenants_the_programs_and_the_variables_stay(tmp_path: Path):
    layout = HostLayout(tmp_path)
    install(layout)
    carry_out(layout.complete({"CGPU_RUNTIME_DIR": "/srv/run"}, enable=False), dry_run=False)
    carry_out(layout.remove(tenants=True), dry_run=False)
    assert layout.variables() == {"CGPU_RUNTIME_DIR": "/srv/run"}
    assert {path.split("/")[0] for path in everything(tmp_path)} == {"opt", "etc"}
    assert layout.unit_now() is None


def test_variables_that_are_there_stay_as_they_are(tmp_path: Path):
    layout = HostLayout(tmp_path)
    for folder in ("/srv/one", "/srv/two"):
        carry_out(layout.complete({"CGPU_RUNTIME_DIR": folder}, enable=False), dry_run=False)
    assert layout.variables() == {"CGPU_RUNTIME_DIR": "/srv/one"}


def test_only_the_versions_that_are_not_in_use_are_others(tmp_path: Path):
    layout = HostLayout(tmp_path)
    install(layout)
    install(layout, OTHER)
    assert [change.path.name for change in layout.others(OTHER.name)] == [PROGRAM.name]


def test_a_damaged_program_is_made_again(tmp_path: Path):
    layout = HostLayout(tmp_path)
    install(layout)
    (tmp_path / "opt/cgpu" / PROGRAM.name / "bin/x").write_bytes(b"y")
    assert carry_out(layout.place(PROGRAM), dry_run=True) == (f"write {tmp_path}/opt/cgpu/{PROGRAM.name} (2 files)",)
    install(layout)
    assert (tmp_path / "opt/cgpu/current/bin/x").read_bytes() == b"x"
    assert {path.name for path in (tmp_path / "opt/cgpu").iterdir()} == {PROGRAM.name, "current"}


def test_what_a_killed_installation_has_left_goes_with_the_next(tmp_path: Path):
    layout = HostLayout(tmp_path)
    install(layout)
    whole = everything(tmp_path)
    left = [
        tmp_path / "opt/cgpu/.2.0-x.7.cgpu-new/bin/x",
        tmp_path / "opt/cgpu/.current.7.cgpu-new",
        tmp_path / f"etc/systemd/system/.{UNIT}.7.cgpu-new",
        tmp_path / "usr/local/bin/.cgpu.7.cgpu-new",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "usr/local/bin/.cgpu.mine").touch()
    install(layout)
    assert everything(tmp_path) - whole == {"usr/local/bin/.cgpu.mine"}


@pytest.mark.parametrize("place", ["etc/systemd/system", "usr/lib/systemd/system", "run/systemd/system"])
def test_somebody_elses_unit_of_that_name_is_refused_and_stays(tmp_path: Path, place: str):
    unit = tmp_path / place / UNIT
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    layout = HostLayout(tmp_path)
    with pytest.raises(RefusedError, match=str(unit)):
        layout.refuse_foreign()
    carry_out(layout.remove(tenants=False), dry_run=False)
    assert unit.exists()


def test_somebody_elses_command_of_that_name_stays(tmp_path: Path):
    layout = HostLayout(tmp_path)
    command = layout.at(SYSTEM_COMMAND)
    command.parent.mkdir(parents=True)
    command.write_text("#!/usr/bin/python3\n")
    install(layout)
    carry_out(layout.remove(tenants=False), dry_run=False)
    assert everything(tmp_path) == {"usr/local/bin/cgpu"}


def test_the_program_that_runs_brings_what_it_needs():
    program = running_program()
    paths = {str(file.path).partition("site-packages/")[2] for file in program.files}
    assert {"cgpu/cli/main.py", "cgpu/_native/libcgpu.so", "pynvml.py", "yaml/__init__.py", "tomlkit/api.py"} <= paths
    assert not [path for path in paths if path.endswith(".pyc")]
    assert program.name == running_program().name
    assert program.name.startswith(program.version)


def test_every_dependency_is_carried_along():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert [row.partition(">")[0] for row in project["dependencies"]] == list(NEEDED)
    assert [row.partition(">")[0] for row in project["optional-dependencies"]["tree"]] == list(OPTIONAL)


def test_another_content_is_another_name():
    changed = (*PROGRAM.files[:1], TreeFile(PurePosixPath("l"), link="bin/y"))
    names = {PROGRAM.name, OTHER.name, Program("1.0", changed).name, Program("1.0", PROGRAM.files[::-1]).name}
    assert len(names) == 3  # the order of the files says nothing


def test_python_is_named_through_the_link_where_an_installed_version_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert stable_python(Path("/x/python")) == Path("/x/python")
    (tmp_path / "1.0").mkdir()
    (tmp_path / "current").symlink_to("1.0")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "1.0"))
    assert stable_python(Path("/x/python")) == tmp_path / "current/bin/python"


def test_a_tree_that_cannot_be_finished_is_not_there(tmp_path: Path):
    twice = (TreeFile(PurePosixPath("a"), b"1"), TreeFile(PurePosixPath("a"), b"2"))
    with pytest.raises(FileExistsError):
        PlaceTree(tmp_path / "tree", twice).do()
    assert not (tmp_path / "tree").exists()


def test_a_program_is_for_everybody_whatever_the_umask(tmp_path: Path):
    before = os.umask(0o077)
    try:
        install(HostLayout(tmp_path))
    finally:
        os.umask(before)
    folders = [tmp_path / "opt/cgpu", *(tmp_path / "opt/cgpu").rglob("bin")]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o755}
    assert stat.S_IMODE((tmp_path / "opt/cgpu/current/bin/x").stat().st_mode) == 0o755


def test_left_overs_are_the_agents_own(tmp_path: Path):
    settings = Settings(tmp_path / "run", tmp_path / "run/agent.sock", tmp_path)
    for name in ("agent.lock", "checkpoint.json", "account.sqlite3", "tenants/a/grants", "sim-1/agent.lock", "mine"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "cgpu-GPU-1.lock").touch()
    carry_out(leftovers(settings, tenants=False, ledger=False), dry_run=False)
    assert everything(tmp_path) == {
        "run/checkpoint.json", "run/account.sqlite3", "run/tenants/a/grants", "run/sim-1/agent.lock", "run/mine"
    }  # fmt: skip
    carry_out(leftovers(settings, tenants=True, ledger=True), dry_run=False)
    assert everything(tmp_path) == {"run/sim-1/agent.lock", "run/mine"}


def seen(**tenants: Wish) -> Seen:
    return Seen(1, "1.0", private=False, tenants=dict(tenants))


@pytest.mark.parametrize(
    ("after", "there", "faults"),
    [
        (seen(a={"GPU-1": (1,)}, b={}), (), []),
        (seen(a={"GPU-1": (1,)}), ("b",), ["tenant b is not known"]),
        (seen(a={"GPU-1": (1,)}), (), []),  # it has ended meanwhile
        (seen(a={"GPU-1": (2,)}, b={}, c={}), (), ["tenant a has another share"]),
    ],
)
def test_a_tenant_that_is_lost_or_changed_is_told(after: Seen, there: tuple[str, ...], faults: list[str]):
    assert lost(seen(a={"GPU-1": (1,)}, b={}), after, there.__contains__) == faults


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, *, abstract: bool):
    name = f"@cgpu-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        assert notify("READY=1", "STATUS=x", environment={"NOTIFY_SOCKET": name})
        assert manager.recv(100) == b"READY=1\nSTATUS=x"


@pytest.mark.parametrize("name", ["", "vsock:2:1", "/no/such/socket"])
def test_without_a_service_manager_nothing_is_told(name: str):
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": name})

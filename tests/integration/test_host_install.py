"""`cgpu install` and `uninstall` on a root folder of one's own, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cgpu.adapters.host.unit import UNIT
from tests.integration.own_host import eventually, needed

SECONDS = 60
FOLDERS = ("etc/systemd/system", "opt", "usr/local/bin", "run/lock", "usr/local/lib/cgpu/docker")
TARGETS = ("sysinit", "basic", "shutdown", "multi-user")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root folder of a host that has never seen cgpu."""
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cgpu", *arguments]


def cgpu(*arguments: str, code: int = 0) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
    result = subprocess.run(command(*arguments), text=True, capture_output=True, timeout=SECONDS, env=clean)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def tree(root: Path) -> dict[str, bytes]:
    """Every file and link with its content, and every folder."""
    content = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            content[str(path)] = str(path.readlink()).encode()
        elif "__pycache__" not in path.parts:
            content[str(path)] = b"" if path.is_dir() else path.read_bytes()
    return content


def test_a_dry_run_changes_nothing_and_tells_all(root: Path):
    before = tree(root)
    would = cgpu("install", "--root", str(root), "--dry-run")
    assert tree(root) == before
    did = cgpu("install", "--root", str(root))
    assert would.replace("would ", "") == did
    installed = tree(root)
    would = cgpu("uninstall", "--root", str(root), "--dry-run")
    assert tree(root) == installed
    assert all(line.startswith("would remove ") for line in would.splitlines())


def test_twice_is_as_once_and_the_end_leaves_nothing(root: Path):
    before = tree(root)
    cgpu("install", "--root", str(root))
    installed = tree(root)
    assert "nothing to do" in cgpu("install", "--root", str(root))
    assert tree(root) == installed
    cgpu("uninstall", "--root", str(root))
    assert tree(root) == before
    assert "nothing to do" in cgpu("uninstall", "--root", str(root))
    assert tree(root) == before


def test_json_tells_the_same(root: Path):
    document = json.loads(cgpu("install", "--root", str(root), "--dry-run", "--json"))
    assert document["dry_run"] is True
    assert f"write {root}/etc/systemd/system/{UNIT}" in document["changes"]


def test_the_service_may_be_left_disabled(root: Path):
    assert "systemctl enable" not in cgpu("install", "--root", str(root), "--no-enable")
    assert not (root / "etc/systemd/system/multi-user.target.wants").exists()


def test_the_installed_program_runs_by_itself(root: Path):
    cgpu("install", "--root", str(root))
    installed = root / "opt/cgpu/current/bin/cgpu"
    version = subprocess.run([installed, "--version"], text=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    assert version.stdout == cgpu("--version")
    # Nor does what starts its Python through the link follow that link later on.
    python = [str(installed.with_name("python")), "-I", "-c", "import cgpu; print(cgpu.__file__)"]
    found = subprocess.run(python, text=True, capture_output=True).stdout
    assert found.startswith(f"{installed.resolve().parents[1]}/lib")
    # It is that version itself: there is nothing to place, and no other name for it.
    again = subprocess.run([installed, "install", "--root", root], text=True, capture_output=True)
    assert again.stdout.startswith("nothing to do"), again.stdout + again.stderr
    assert subprocess.run([installed, "uninstall", "--root", root], text=True, capture_output=True).returncode == 0
    assert not (root / "opt/cgpu").exists()


@pytest.mark.skipif(os.environ.get("CI") != "true" and shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_finds_no_fault_in_the_unit(root: Path):
    cgpu("install", "--root", str(root))
    for target in TARGETS:
        (root / f"etc/systemd/system/{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    verify = ["systemd-analyze", "verify", f"--root={root}", UNIT]
    result = subprocess.run(verify, text=True, capture_output=True, timeout=SECONDS)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_another_version_is_not_installed_over_this_one(root: Path):
    (root / "opt/cgpu").mkdir()
    (root / "opt/cgpu/current").symlink_to("0.0.1-0123456789ab")
    before = tree(root)
    assert "cgpu upgrade" in cgpu("install", "--root", str(root), code=3)
    assert tree(root) == before
    cgpu("upgrade", "--root", str(root))
    assert "nothing to do" in cgpu("upgrade", "--root", str(root))


def test_without_an_installation_there_is_nothing_to_upgrade(root: Path):
    assert "cgpu install" in cgpu("upgrade", "--root", str(root), code=3)


def test_somebody_elses_unit_is_refused_by_name(root: Path):
    unit = root / "etc/systemd/system" / UNIT
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    before = tree(root)
    for verb in ("install", "upgrade"):
        assert str(unit) in cgpu(verb, "--root", str(root), code=3)
    assert "not from `cgpu install`" in cgpu("uninstall", "--root", str(root))
    assert tree(root) == before


def test_an_engine_that_needs_the_installation_keeps_it(root: Path):
    cgpu("install", "--root", str(root))
    settings = root / "usr/local/lib/cgpu/docker/cgpu-runtime.conf"
    settings.write_text("runtime = /usr/bin/runc\npython = /opt/cgpu/current/bin/python\n")
    refused = cgpu("uninstall", "--root", str(root), code=3)
    assert "cgpu runtime uninstall --engine docker" in refused
    cgpu("upgrade", "--root", str(root))
    assert settings.with_name("cgpu-runtime").stat().st_mode & 0o777 == 0o755  # the new version's program
    assert "cgpu runtime uninstall --engine docker" in cgpu("uninstall", "--root", str(root), "--force")
    assert not (root / "opt/cgpu").exists()


def kill_an_installation(root: Path, programs: Path) -> None:
    """As soon as some of the program is there."""
    process = subprocess.Popen(command("install", "--root", str(root)), stdout=subprocess.DEVNULL)
    parts = (".*/lib/*/site-packages/cgpu/cli", "current")
    eventually(lambda: programs.is_dir() and any(path for part in parts for path in programs.glob(part)))
    process.kill()
    process.wait()


@pytest.mark.parametrize("mended_by", ["install", "uninstall"])
def test_an_installation_that_was_killed_is_mended(root: Path, mended_by: str):
    before = tree(root)
    programs = root / "opt/cgpu"
    kill_an_installation(root, programs)
    while (programs / "current").exists():  # it was quicker
        cgpu("uninstall", "--root", str(root))
        kill_an_installation(root, programs)
    cgpu(mended_by, "--root", str(root))
    left = {path.name for path in programs.iterdir()} if programs.is_dir() else set()
    assert not [name for name in left if name.startswith(".")]
    cgpu("uninstall", "--root", str(root))
    assert tree(root) == before


def test_an_ordinary_user_is_told_to_be_root(root: Path):
    needed()
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *command("install")], text=True, capture_output=True, cwd="/"
    )
    if "Permission denied" in result.stderr or "No module named cgpu" in result.stderr:
        pytest.skip("another user may not read this source tree")
    assert result.returncode == 3, result.stderr
    assert "use sudo" in result.stderr

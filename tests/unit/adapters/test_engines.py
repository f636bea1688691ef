"""The engines' files: our entry comes, is brought up to date, and goes; everything else stays."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cgpu.adapters.engines.containerd import Containerd
from cgpu.adapters.engines.docker import Docker
from cgpu.adapters.engines.engine import ConfigFile, Engine, backup_of
from cgpu.adapters.engines.installation import Installation, RuntimeSettings, parse_settings
from cgpu.adapters.engines.podman import Podman
from cgpu.adapters.host_files import carry_out
from cgpu.errors import RefusedError, StateError, UsageError

SETTINGS = RuntimeSettings(Path("/bin/true"), Path("/bin/true"), Path("/run/a.sock"), Path("/run/t"))
DAEMON = '{\n    "log-level": "warn",\n    "runtimes": {"other": {"path": "/o"}},\n    "dns": []\n}\n'
V2 = """\
version = 2  # of 1.x

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd"
"""
V3 = """\
version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = true
"""
PODMAN = "# mine\n[engine]\nruntime = 'crun'\n\n[network]\nx = 1 # kept\n"
CONTAINERD = Containerd(new_version=lambda: 2)
CASES: list[tuple[Engine, str | None]] = [
    (Docker(), None),
    (Docker(), ""),
    (Docker(), "{}"),
    (Docker(), DAEMON),
    (Docker(), '{"runtimes":{}}'),
    (Podman(), None),
    (Podman(), PODMAN),
    (CONTAINERD, None),
    (CONTAINERD, V2),
    (CONTAINERD, V3),
]


def placed(engine: Engine, folder: Path, text: str | None) -> Installation:
    config = folder / "etc" / "config"
    config.parent.mkdir()
    if text is not None:
        config.write_text(text)
    return Installation(engine, config, folder / "lib")


@pytest.mark.parametrize(("engine", "text"), CASES)
def test_it_comes_once_and_leaves_everything_as_it_was(engine: Engine, text: str | None, tmp_path: Path):
    installation = placed(engine, tmp_path, text)
    before = sorted(tmp_path.rglob("*"))
    planned = carry_out(installation.install(b"one", SETTINGS), dry_run=True)
    assert planned
    assert sorted(tmp_path.rglob("*")) == before
    assert carry_out(installation.install(b"one", SETTINGS), dry_run=False) == planned
    assert engine.registered(installation.config.read_text()) == str(installation.program)
    assert not installation.faults(b"one")
    assert not carry_out(installation.install(b"one", SETTINGS), dry_run=False)
    assert backup_of(installation.config).exists() == (text is not None)
    carry_out(installation.uninstall(), dry_run=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert text is None or installation.config.read_text() == text


@pytest.mark.parametrize(("engine", "text"), [(Docker(), DAEMON), (Podman(), PODMAN), (CONTAINERD, V2)])
def test_another_version_replaces_program_and_entry_and_keeps_the_first_copy(engine: Engine, text: str, tmp_path: Path):
    installation = placed(engine, tmp_path, text)
    carry_out(installation.install(b"one", SETTINGS), dry_run=False)
    with installation.program.open("rb") as running:
        carry_out(installation.install(b"two", SETTINGS), dry_run=False)
        assert running.read() == b"one"  # replaced by rename
    assert installation.program.read_bytes() == b"two"
    moved = Installation(engine, installation.config, tmp_path / "elsewhere")
    assert moved.faults(b"two")
    carry_out(moved.install(b"two", SETTINGS), dry_run=False)
    assert not moved.faults(b"two")
    assert backup_of(installation.config).read_text() == text


def test_what_others_wrote_since_stays(tmp_path: Path):
    installation = placed(CONTAINERD, tmp_path, V2)
    carry_out(installation.install(b"one", SETTINGS), dry_run=False)
    with installation.config.open("a") as file:
        file.write('[debug]\n  level = "info" # theirs\n')
    carry_out(installation.uninstall(), dry_run=False)
    text = installation.config.read_text()
    assert "# of 1.x" in text
    assert "# theirs" in text
    assert tomllib.loads(text) == {**tomllib.loads(V2), "debug": {"level": "info"}}
    assert backup_of(installation.config).read_text() == V2


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        (Docker(), "{"),
        (Docker(), "[]"),
        (Docker(), '{"a": 1, "a": 2}'),
        (Docker(), '{"runtimes": 1}'),
        (Podman(), "[engine"),
        (Podman(), "engine = 1"),
        (CONTAINERD, "root = '/x'"),
        (CONTAINERD, "version = 9"),
        (CONTAINERD, "version = 2\nplugins = 1"),
    ],
)
def test_a_file_that_cannot_be_edited_is_an_error_and_nothing_is_written(engine: Engine, text: str, tmp_path: Path):
    installation = placed(engine, tmp_path, text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StateError):
        installation.install(b"one", SETTINGS)
    assert sorted(tmp_path.rglob("*")) == before
    assert installation.config.read_text() == text


def test_the_default_runtime_of_docker_is_not_taken_away():
    text = Docker().with_runtime(ConfigFile(Path("x"), '{"default-runtime": "cgpu"}'), "/p")
    with pytest.raises(RefusedError, match="default-runtime"):
        Docker().without_runtime(text, None)


def test_containerd_has_a_drop_in_from_version_3_on(tmp_path: Path):
    imports = 'imports = ["conf.d/*.toml"]\n'
    installation = placed(CONTAINERD, tmp_path, imports + V3)
    drop_in = installation.config.parent / "conf.d" / "50-cgpu.toml"
    carry_out(installation.install(b"one", SETTINGS), dry_run=False)
    values = tomllib.loads(drop_in.read_text())
    assert values["version"] == 3
    assert list(values["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]) == ["cgpu"]
    assert installation.config.read_text() == imports + V3
    assert not installation.faults(b"one")
    carry_out(installation.uninstall(), dry_run=False)
    assert not drop_in.exists()
    assert CONTAINERD.locate(placed_v2(tmp_path, imports)).path.name == "v2.toml"


def placed_v2(folder: Path, imports: str) -> Path:
    path = folder / "v2.toml"
    path.write_text(imports + V2)
    return path


def test_paths_that_the_settings_cannot_hold_are_refused():
    with pytest.raises(UsageError):
        RuntimeSettings(Path("/a#b"), Path("/p"), Path("/s"), Path("/t")).text()
    assert parse_settings(SETTINGS.text())["socket"] == "/run/a.sock"

"""The engines by themselves: what the other tests of this folder rest on."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.engines import Engine
from tests.e2e.wanted import Volume, Wanted


def test_a_container_sees_a_bind_mount_and_its_environment(engine: Engine, tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host")
    script = 'cat /data/file; echo " $WORD"; id -u'
    wanted = Wanted(("sh", "-c", script), {"WORD": "told"}, (Volume(tmp_path, "/data"),), user=1000)
    result = engine.run("bare", wanted)
    assert (result.returncode, result.stdout) == (0, "from the host told\n1000\n"), result.stderr


def test_a_container_lives_until_it_is_removed(engine: Engine):
    result = engine.start("lives", Wanted(("sleep", "1000")))
    assert result.returncode == 0, result.stderr
    try:
        assert engine.pid("lives") > 1
        assert engine.execute("lives", "echo", "inside").stdout == "inside\n"
    finally:
        assert engine.remove("lives").returncode == 0

"""What a machine lacks for a mount is said with the way out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cgpu.adapters.agent_client import AgentClient
from cgpu.adapters.fuse_mount import mount
from cgpu.errors import CgpuError


@pytest.mark.parametrize(
    ("module", "message", "remedy"),
    [
        ("raise ImportError('none')", "mfusepy is not installed", "pip install 'cgpu[tree]'"),
        ("raise OSError('no libfuse')", "libfuse cannot be loaded: no libfuse", "apt install fuse3"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, message: str, remedy: str
):
    (tmp_path / "mfusepy.py").write_text(module)
    monkeypatch.delitem(sys.modules, "mfusepy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CgpuError) as caught:
        mount(tmp_path, AgentClient(tmp_path / "agent.sock", 1.0), allow_other=False, ready=lambda: None)
    assert message in caught.value.message
    assert caught.value.remedy == remedy

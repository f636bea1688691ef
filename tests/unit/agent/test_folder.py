"""The agent's folder and locks, when somebody clears them under it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cgpu.agent.folder import RuntimeFolder
from cgpu.agent.locks import GpuLocks, lock_runtime_dir
from cgpu.errors import AgentError, StateError
from cgpu.model.tenant import Gpu
from cgpu.model.units import GIB

CARD = Gpu(0, "GPU-1", "T4", 16 * GIB, "580", simulated=True)


def test_a_cleared_folder_is_seen_and_made_and_locked_again(tmp_path: Path):
    folder = RuntimeFolder(tmp_path / "run", tmp_path / "run" / "lock", 0.0)
    assert not folder.was_cleared()
    shutil.rmtree(tmp_path / "run")
    assert folder.was_cleared()
    folder.make_again()
    assert not folder.was_cleared()
    with pytest.raises(AgentError):
        lock_runtime_dir(tmp_path / "run" / "lock", 0.0)
    folder.close()
    RuntimeFolder(tmp_path / "run", tmp_path / "run" / "lock", 0.0).close()


def test_an_agent_that_was_faster_keeps_the_cleared_folder(tmp_path: Path):
    first = RuntimeFolder(tmp_path / "run", tmp_path / "run" / "lock", 0.0)
    shutil.rmtree(tmp_path / "run")
    second = RuntimeFolder(tmp_path / "run", tmp_path / "run" / "lock", 0.0)
    assert first.was_cleared()
    with pytest.raises(AgentError):
        first.make_again()
    assert not second.was_cleared()
    first.close()
    second.close()


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(StateError):
        RuntimeFolder(tmp_path / "run", tmp_path / "run" / "lock", 0.0)


def test_a_cards_lock_whose_file_is_gone_is_taken_again(tmp_path: Path):
    first, second = GpuLocks(tmp_path), GpuLocks(tmp_path)
    first.acquire(CARD)
    (tmp_path / "cgpu-GPU-1.lock").unlink()
    first.take_again(CARD)
    with pytest.raises(AgentError):
        second.acquire(CARD)
    first.release()
    second.acquire(CARD)
    first.take_again(CARD)  # it has had none
    second.release()


def test_a_card_that_another_agent_has_taken_meanwhile_is_lost(tmp_path: Path):
    first, second = GpuLocks(tmp_path), GpuLocks(tmp_path)
    first.acquire(CARD)
    (tmp_path / "cgpu-GPU-1.lock").unlink()
    second.acquire(CARD)
    with pytest.raises(AgentError):
        first.take_again(CARD)
    second.release()

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cgpu.errors import StateError
from cgpu.k8s.unlimited import UnlimitedClaims
from cgpu.model.tenant import Share, Tenant


def request(*memory: tuple[str, int]) -> Tenant:
    return Tenant("x", "x", tuple(Share(uuid, amount) for uuid, amount in memory))


def test_what_claims_have_of_each_card_is_added_up_while_they_are_there(tmp_path: Path):
    claims = UnlimitedClaims(tmp_path / "k8s")
    assert claims.memory_bytes() == {}
    claims.add("u-1", [request(("GPU-a", 3), ("GPU-b", 3)), request(("GPU-a", 1))])
    claims.add("u-2", [request(("GPU-b", 5))])
    claims.add("u-2", [request(("GPU-b", 5))])  # it is prepared a second time
    (tmp_path / "k8s/limited/0").mkdir(parents=True)  # the view of one that has a tenant
    assert UnlimitedClaims(tmp_path / "k8s").memory_bytes() == {"GPU-a": 4, "GPU-b": 8}
    assert (claims.has("u-1"), claims.has("limited"), claims.has("u-3")) == (True, False, False)
    shutil.rmtree(tmp_path / "k8s/u-2")
    assert claims.memory_bytes() == {"GPU-a": 4, "GPU-b": 3}


def test_a_file_that_somebody_has_written_into_counts_nothing(tmp_path: Path):
    claims = UnlimitedClaims(tmp_path)
    claims.add("u-1", [request(("GPU-a", 3))])
    amounts = ("[]", '{"GPU-a": "x"}', '{"GPU-a": Infinity}')
    for text in ("", "{}", "[]", "null", "[" * 9999, *(f'{{"memory_bytes": {amount}}}' for amount in amounts)):
        (tmp_path / "u-1/unlimited.json").write_text(text)
        assert claims.memory_bytes() == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file/u-1"):
        UnlimitedClaims(tmp_path / "file").add("u-1", [])

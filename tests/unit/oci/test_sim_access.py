"""Whose a container's user is on the host, and whether a simulated machine lets it in."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgpu.errors import RefusedError
from cgpu.oci.sim_access import check_access, host_user

MAPPED = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 5, "size": 1}]


@pytest.mark.parametrize(("user", "expected"), [(0, 100000), (999, 100999), (1000, 5), (1001, 65534)])
def test_a_user_namespace_maps_it(user: int, expected: int):
    assert host_user(user, MAPPED) == expected


def test_without_a_user_namespace_it_is_the_same():
    assert host_user(1000, []) == 1000


def config(user: int, mappings: list[dict[str, int]]) -> dict[str, object]:
    return {"process": {"user": {"uid": user}}, "linux": {"uidMappings": mappings}}


@pytest.mark.parametrize(("user", "mappings"), [(1000, []), (0, MAPPED)])
def test_a_closed_machine_is_refused_to_all_but_root(tmp_path: Path, user: int, mappings: list[dict[str, int]]):
    (tmp_path / "state").touch(0o600)
    tmp_path.chmod(0o755)
    check_access(tmp_path, config(0, []))
    with pytest.raises(RefusedError, match="is closed to the container's user") as caught:
        check_access(tmp_path, config(user, mappings))
    assert "chmod -R a+rwX" in caught.value.remedy
    (tmp_path / "state").chmod(0o666)
    check_access(tmp_path, config(user, mappings))
    tmp_path.chmod(0o700)
    with pytest.raises(RefusedError):
        check_access(tmp_path, config(user, mappings))


def test_a_user_who_owns_the_machine_may_use_it(tmp_path: Path):
    (tmp_path / "state").touch(0o600)
    check_access(tmp_path, config((tmp_path / "state").stat().st_uid, []))

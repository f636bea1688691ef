"""A container's view: whole, closed to writes but where its tenant writes, and the same when it is made again."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from cgpu.adapters.container_view import ViewMount, make_view
from cgpu.errors import StateError
from cgpu.model import container
from cgpu.model.region_files import GRANTS, LOCKS, USAGE


@pytest.fixture
def region(tmp_path: Path) -> Path:
    """A region as far as its files' names go."""
    folder = tmp_path / "run" / "tenants" / "oci-1"
    folder.mkdir(parents=True)
    for name in (GRANTS, USAGE, LOCKS):
        (folder / name).touch()
    return folder


def test_every_mount_has_its_place_in_the_view(tmp_path: Path, region: Path):
    view, machine = tmp_path / "bundle" / "cgpu", tmp_path / "machine"
    machine.mkdir()
    mounts = make_view(view, region=region, helper=False, sim_state=machine)
    assert mounts[0] == ViewMount(view, "/.cgpu", writable=False, executable=True)
    for mount in mounts[1:-1]:
        place = view / PurePosixPath(mount.destination).relative_to("/.cgpu")
        assert mount.source.is_dir() == place.is_dir()
        assert place.exists()
    assert {mount.destination for mount in mounts if mount.writable} == {
        "/.cgpu/tenant/usage",
        "/.cgpu/tenant/locks",
        "/.cgpu/machine",
    }


def test_the_images_own_preloads_follow_ours(tmp_path: Path, region: Path):
    mounts = make_view(tmp_path / "v", region=region, helper=False, sim_state=None, image_preload=("/lib/a.so", "b.so"))
    assert mounts[-1].destination == str(container.PRELOAD)
    ours, *rest = mounts[-1].source.read_text().splitlines()
    assert rest == ["/lib/a.so", "b.so"]
    shim = next(mount for mount in mounts if mount.destination == ours)
    assert shim.executable
    assert shim.source.parent == tmp_path / "run" / "lib"


def test_a_view_that_is_made_again_is_the_same(tmp_path: Path, region: Path):
    def made() -> tuple[ViewMount, ...]:
        return make_view(tmp_path / "v", region=region, helper=False, sim_state=None)

    first = made()
    files = sorted(tmp_path.joinpath("v").rglob("*"))
    assert made() == first
    assert sorted(tmp_path.joinpath("v").rglob("*")) == files


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, region: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        make_view(tmp_path / "file" / "v", region=region, helper=False, sim_state=None)

"""A tenant's leaf in the real cgroup v2 of this machine, while something in it keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgpu.adapters.cgroup import CgroupTree

SECONDS = 30.0


def unable(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture
def tree() -> CgroupTree:
    return CgroupTree()


@pytest.fixture
def leaf(tree: CgroupTree) -> Iterator[Path]:
    """A leaf with a cgroup below it, which no removal of the leaf can empty."""
    path = tree.plan_leaf(f"test-{os.getpid()}", os.getpid())
    if tree.root is None or not path:
        unable("only root may make a cgroup, and only of version 2")
    assert tree.root is not None
    folder = tree.root / path.lstrip("/")
    try:
        (folder / "inner").mkdir(parents=True)
    except OSError as error:
        unable(f"no cgroup may be made here: {error}")
    yield folder
    for one in (folder / "inner", folder):
        if one.exists():
            one.rmdir()


def test_a_leaf_in_use_is_removed_once_the_kernel_says_that_it_is_empty(tree: CgroupTree, leaf: Path):
    assert tree.root is not None
    path = f"/{leaf.relative_to(tree.root)}"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        (leaf / "inner" / "cgroup.procs").write_text(str(process.pid))
        assert not tree.remove_leaf(path)
        tree.wait_until_empty(path, 0.0)
        assert tree.populated(path)
        waiting = threading.Thread(target=tree.wait_until_empty, args=(path, SECONDS))
        waiting.start()
        process.kill()
        process.wait(SECONDS)
        waiting.join(SECONDS)
    assert not waiting.is_alive()
    assert not tree.populated(path)
    (leaf / "inner").rmdir()
    assert tree.remove_leaf(path)
    assert not leaf.exists()
    tree.wait_until_empty(path, SECONDS)  # one that is gone is not waited for

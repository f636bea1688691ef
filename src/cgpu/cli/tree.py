"""``cgpu tree``: the files of ``/proc/cgpu_km``, for scripts written for them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cgpu.adapters.agent_client import AgentClient
from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.errors import RefusedError, UsageError
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu tree mount /run/cgpu-tree &      until it is unmounted, or ends by SIGTERM or SIGINT
  cat /run/cgpu-tree/0/policy
  echo 2 > /run/cgpu-tree/0/policy
  cgpu tree unmount /run/cgpu-tree

docs/tree.md lists the files. It needs the package mfusepy (pip install 'cgpu[tree]') and libfuse (apt install fuse3).
"""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb and what it can do."""
    parser = add_verb(subparsers, "tree", _mount, "mount the tenants as files, as scripts for cGPU know them", EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    mount = add_verb(actions, "mount", _mount, "mount the tree, and serve it in the foreground", EXAMPLES)
    mount.add_argument("folder", type=Path, metavar="DIR", help="an existing folder")
    mount.add_argument(
        "--allow-other",
        action="store_true",
        help="other users may read it; an ordinary user needs user_allow_other in /etc/fuse.conf",
    )
    unmount = add_verb(actions, "unmount", _unmount, "unmount it, which ends what serves it", EXAMPLES)
    unmount.add_argument("folder", type=Path, metavar="DIR", help="where it is mounted")


def _mount(options: argparse.Namespace, settings: Settings) -> int:
    from cgpu.adapters import fuse_mount

    if fuse_mount.is_mounted(options.folder):
        raise RefusedError(f"the tree is already mounted on {options.folder}", "`cgpu tree unmount` ends it")
    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is not a folder", "make it first")
    client = AgentClient.of(settings)
    client.get("/v1/info")
    folder = Path(os.path.realpath(options.folder))
    fuse_mount.mount(
        folder,
        client,
        allow_other=options.allow_other,
        ready=lambda: print(f"the tree is mounted on {folder}", flush=True),
    )
    return 0


def _unmount(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - a verb's form
    from cgpu.adapters import fuse_mount

    if not fuse_mount.is_mounted(options.folder):
        raise UsageError(f"no tree is mounted on {options.folder}", "`findmnt -t fuse.cgpu` lists them")
    fuse_mount.unmount(Path(os.path.realpath(options.folder)))
    return 0

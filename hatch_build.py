"""Build hook: compile the C libraries and put them into the wheel as data of the package, and the Helm chart too.

The libraries are plain C and load on any glibc from 2.17 on, with any Python, so the tag is
py3-none-manylinux_2_17. CGPU_BUILD_ARCH=aarch64 (or x86_64) builds a wheel for another machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface[Any]):
    """Runs native/build.py: for a wheel into a folder of its own, for an editable install in place."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, then tell hatch the tag and the files. `version` is "standard" or "editable"."""
        arch = os.environ.get("CGPU_BUILD_ARCH") or os.uname().machine
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_17_{arch}.manylinux2014_{arch}"
        root = Path(self.root)
        if version == "editable":
            out = root / "src" / "cgpu" / "_native"
        else:
            out = root / "build" / f"wheel-{arch}"
            build_data["force_include"][str(out)] = "cgpu/_native"
            build_data["force_include"][str(root / "deploy" / "helm" / "cgpu")] = "cgpu/k8s/chart"
        build = [
            sys.executable,
            str(root / "native" / "build.py"),
            "--compiler",
            "zig",
            "--arch",
            arch,
            "--out",
            str(out),
        ]
        subprocess.run(build, check=True)

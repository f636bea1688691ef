"""A Python program on NVIDIA's own package in a container, as its users write it."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

from cgpu.model.units import GIB
from native.build import ROOT
from tests.e2e.engines import Engine
from tests.e2e.node import Node
from tests.e2e.wanted import Volume, Wanted

CLIENTS = ROOT / "tests" / "integration" / "clients"
LIBRARIES = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu")


def test_cuda_bindings_see_and_get_the_quota(node: Node, engine: Engine):
    # Python is the machine's own, where it lies; its C libraries are found by the container's own variable.
    prefixes = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve()}
    volumes = (
        *(Volume(path, str(path)) for path in sorted(prefixes)),
        Volume(LIBRARIES, "/libraries"),
        Volume(CLIENTS, "/clients"),
    )
    python = str(Path(sys.prefix).resolve() / "bin" / "python")
    command = (python, "/clients/cuda_bindings_client.py", str(2 * GIB), str(GIB))
    variables = {"CGPU_MEMORY": "2GiB", "LD_LIBRARY_PATH": "/libraries"}
    result = engine.run("python", Wanted(command, variables, volumes))
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["total_bytes"] == [2 * GIB, 2 * GIB]
    assert told["error"] == ["cuda.bindings.driver", "CUresult", "CUDA_ERROR_OUT_OF_MEMORY"]
    assert told["copied"] is True

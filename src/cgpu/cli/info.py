"""``cgpu info``: this installation, this node, and the agent."""

from __future__ import annotations

import argparse
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cgpu import __version__
from cgpu.adapters.agent_client import AgentClient
from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.errors import AgentError, DriverError, RegionError
from cgpu.region.reader import RegionReader
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu info
  cgpu info --json

It needs neither an agent nor a GPU: what is missing is said. Inside a tenant it names the tenant too.
"""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    add_json(add_verb(subparsers, "info", run, "show versions, GPUs and whether an agent runs", EXAMPLES))


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print what is known."""
    info = _info(settings)
    print(render.as_json(info) if options.json else _text(info))
    return 0


def _info(settings: Settings) -> dict[str, Any]:
    from cgpu.adapters.cdi.driver_files import NVML, driver_tree
    from cgpu.adapters.nvml import NvmlNode  # the other verbs start faster without NVML

    info: dict[str, Any] = {"version": __version__, "simulated": settings.sim_state is not None}
    if settings.region is not None:
        info |= _own(settings.region)
    client = AgentClient.of(settings)
    info["agent_socket"] = str(client.path)
    try:
        info["agent"] = client.get("/v1/info")
    except AgentError as error:
        info["agent"], info["agent_error"] = None, str(error)
    try:
        driver = driver_tree(settings)
        node = NvmlNode(settings.sim_state, None if driver is None else driver.library_here(NVML))
        info["gpus"] = [asdict(gpu) for gpu in node.gpus()]
        node.close()
    except DriverError as error:
        info["gpus"], info["driver_error"] = [], str(error)
    return info


def _own(region: Path) -> dict[str, Any]:
    """The tenant that this process is of; ``cgpu info`` of the containers' helper has the same keys."""
    try:
        with closing(RegionReader(region)) as reader:
            grants = reader.grants()
    except RegionError as error:
        return {"region_error": str(error)}
    return {"id": grants.tenant_id, "name": grants.tenant_name}


def _text(info: dict[str, Any]) -> str:
    lines = [f"cgpu {info['version']}" + (f" [{render.SIMULATED}]" if info["simulated"] else "")]
    if "id" in info:
        lines.append(f"tenant {info['name']} ({info['id']})")
    elif "region_error" in info:
        lines.append(f"tenant: {info['region_error']}")
    agent = info["agent"]
    if agent is None:
        lines.append(f"agent: {info['agent_error']}")
    else:
        kind = "private agent" if agent["private"] else "agent"
        lines.append(
            f"{kind}: pid {agent['pid']}, version {agent['version']}, {agent['tenants']} tenants,"
            f" {info['agent_socket']}, memory layers: {', '.join(agent['memory_layers'])}"
        )
    if not info["gpus"]:
        lines.append(f"GPUs: {info.get('driver_error', 'none')}")
    for gpu in info["gpus"]:
        mark = f" [{render.SIMULATED}]" if gpu["simulated"] else ""
        lines.append(
            f"GPU {gpu['index']}: {gpu['name']}, {render.mebibytes(gpu['total_bytes'])}, {gpu['uuid']},"
            f" driver {gpu['driver_version']}{mark}" + (", MIG: not supported" if gpu["mig"] else "")
        )
    lines += _misfits(info)
    return "\n".join(lines)


def _misfits(info: dict[str, Any]) -> list[str]:
    """What is to be said about the driver and the kernel, a line each."""
    from cgpu.compat.ours import misfit

    drivers = sorted({gpu["driver_version"] for gpu in info["gpus"]})
    found = [misfit("kernel", os.uname().release), *(misfit("driver", driver) for driver in drivers)]
    return [f"warning: {words}" for _, words in found if words]

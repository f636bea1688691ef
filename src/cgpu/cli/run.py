"""``cgpu run``: a command as a tenant.

The command takes the place of this process (exec), so its exit code, its signals, its terminal and
its output are its own by construction. The agent watches it through a pidfd and removes the tenant
when the last process of the tree has ended.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.agent_client import AgentClient, SilentAgentError, tenant_path
from cgpu.adapters.native import SHIM, content_named_copy, native_library
from cgpu.adapters.program_file import Program, program_of
from cgpu.cli.parsers import Subparsers, add_share, add_verb, share_amounts
from cgpu.cli.private_agent import agent_or_private
from cgpu.errors import AgentError, UsageError, public_code
from cgpu.settings import Settings

EXAMPLES = """\
examples:
  cgpu run --memory 6GiB -- python train.py
  cgpu run --memory 2GiB --weight 4 --name web -- ./server
  cgpu run --gpu 0 --gpu 1 --memory 8GiB -- python two_cards.py    8 GiB of each
  cgpu run --require-layer driver --memory 6GiB -- python train.py   not without the driver's limits
  cgpu run --sim t4 --memory 2GiB -- python train.py               on a simulated GPU

exit code: the command's own; 127 when it is not found, 126 when it cannot be executed; before it
starts: 2 malformed request, 3 refused by the node, 4 agent, 5 NVIDIA driver, 6 region or state.
"""
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
_ATTEMPTS: Final = 5  # an agent that is just ending with its last tenant is asked no more than this often


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "run", run, "run a command as a tenant with a share of the GPU", EXAMPLES)
    parser.add_argument(
        "--gpu",
        metavar="IDX|UUID",
        action="append",
        help="GPU by NVML's index or UUID; may be repeated; 0 when not given",
    )
    add_share(parser, change=False)
    parser.add_argument("--name", help="name of the tenant; made up when not given")
    parser.add_argument("--refuse-managed", action="store_true", help="refuse managed (unified) memory altogether")
    parser.add_argument(
        "--require-layer",
        choices=("driver", "shim"),
        help="do not start where the quota of memory is enforced by anything weaker; `cgpu info` shows what there is",
    )
    parser.add_argument(
        "--sim",
        metavar="PROFILE",
        nargs="?",
        const="t4",
        help="on the simulated machine of this profile, made if need be; t4 when not given",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ...", help="the command and its arguments")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Make the tenant and become the command. Returns only when the command cannot be executed."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UsageError("no command", "write it after --: cgpu run --memory 6GiB -- python train.py")
    if options.sim is not None:
        from cgpu.sim.machine import SimMachine  # a start on a real GPU has no use for it

        os.environ.update(SimMachine.of_profile(options.sim).environment())
        settings = Settings.from_environment()
    refused = why_refused(program_of(command[0], os.environ))
    if refused:
        return _say(command[0], refused, _NOT_EXECUTABLE)
    tenant_id = f"run-{os.getpid()}-{secrets.token_hex(4)}"
    client, tenant = _create(tenant_id, options, settings)
    environment = tenant_environment(os.environ, tenant, settings)
    try:
        return _become(command, environment)
    finally:
        client.delete(tenant_path(tenant_id))


def _create(tenant_id: str, options: argparse.Namespace, settings: Settings) -> tuple[AgentClient, dict[str, Any]]:
    share = share_amounts(options)
    body = {
        "name": options.name or tenant_id,
        "shares": [{"gpu": gpu, **share} for gpu in options.gpu or ["0"]],
        "refuse_managed": options.refuse_managed,
        "lifetime": "caller",
    }
    if options.require_layer is not None:
        body["require_layer"] = options.require_layer
    for attempt in range(_ATTEMPTS + 1):
        # Most often one runs, and is not asked first.
        client = agent_or_private(settings) if attempt else AgentClient.of(settings)
        try:
            return client, client.put(tenant_path(tenant_id), body)
        except AgentError as error:
            # It ended between two requests, with its last tenant: the next attempt starts another.
            if attempt == _ATTEMPTS or isinstance(error, SilentAgentError):
                raise
    raise AssertionError  # the loop returns or raises


def tenant_environment(inherited: Mapping[str, str], tenant: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """The environment of a tenant's first process: what makes it one, and nothing else changed."""
    shim = content_named_copy(native_library(SHIM), settings.runtime_dir / "lib")
    environment = {
        **inherited,
        "CGPU_REGION": tenant["region"],
        "LD_PRELOAD": _preloaded(shim, Path(tenant["region"]), inherited.get("LD_PRELOAD", "")),
        "CUDA_VISIBLE_DEVICES": ",".join(share["gpu_uuid"] for share in tenant["shares"]),
    }
    if settings.sim_state is not None:
        from cgpu.sim.machine import SimMachine

        environment.update(SimMachine.open(settings.sim_state).environment(inherited))
    return environment


def _preloaded(shim: Path, region: Path, rest: str) -> str:
    """LD_PRELOAD: the shim by a path that leads through the tenant's folder, then what was there.

    The shim knows by that path whose it is, so a program that changes its variables stays the tenant for as long as it
    loads the shim at all. The plain path behind it is the same library, which the loader takes once: it counts when
    somebody has cleared the folder.
    """
    libraries = [str(shim)]
    if shim.parent == region.parent.parent / "lib":
        libraries.insert(0, f"{region}/../../lib/{shim.name}")
    if set(str(shim)) & set(": ;"):
        raise UsageError(
            f"the path {str(shim)!r} has a character that the loader takes for a separator", "install cgpu elsewhere"
        )
    others = [path for path in rest.split(":") if path and path not in libraries]
    return ":".join([*libraries, *others])


def why_refused(program: Program | None) -> str:
    """Why a program cannot be a tenant, empty where it can. It would not load the shim, or not start with it.

    Whoever else runs without the shim is told of in docs/escapes.md. A static program is let through, since it may
    start others.
    """
    if program is None:
        return ""
    if not program.native:
        return f"it is a program of another architecture than {os.uname().machine}, and would run without limits"
    if Path(program.loader).name.startswith("ld-musl-"):
        return (
            f"its C library is musl (its loader is {program.loader}): the library that holds a tenant to its share"
            " needs glibc 2.17 or later, as NVIDIA's driver does. Build the program for glibc"
        )
    return ""


def _become(command: list[str], environment: dict[str, str]) -> int:
    # Python ignores these; an ignored signal stays ignored through exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except FileNotFoundError:
        if Path(command[0]).exists():
            message, code = "its interpreter is not there", _NOT_EXECUTABLE
        else:
            message, code = "no such command", _NOT_FOUND
    except OSError as error:
        message, code = str(error.strerror), _NOT_EXECUTABLE
    return _say(command[0], message, code)


def _say(command: str, message: str, code: int) -> int:
    print(f"cgpu: {command}: {message} [{public_code('command')}]", file=sys.stderr)
    return code

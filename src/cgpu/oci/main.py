"""``python -I -m cgpu.oci --config CONF -- ARGS``: a container as a tenant, then the real runtime in our place.

cgpu-runtime calls it for a ``create`` or ``run`` whose bundle may ask for a share. The real runtime takes over this
process (exec). The tenant lasts as long as this process, so it also ends where the runtime fails, until the
createRuntime hook ties it to the container.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cgpu.errors import BundleError, CgpuError
from cgpu.oci.command_line import CommandLine, parse
from cgpu.oci.conf import Conf
from cgpu.oci.create import prepare

_USAGE: Final = "usage: python -m cgpu.oci --config CONF -- ARGUMENTS OF THE RUNTIME"


def main(arguments: Sequence[str]) -> int:
    """Become the real runtime; returns only where that cannot be, with the exit code."""
    if len(arguments) < 3 or arguments[0] != "--config" or arguments[2] != "--":
        print(_USAGE, file=sys.stderr)
        return 1
    rest = list(arguments[3:])
    line = parse(rest)
    try:
        conf = Conf.read(Path(arguments[1]))
        take_back = prepare(line, conf)
        try:
            _become(conf, rest)
        except OSError as error:
            take_back()
            raise BundleError(f"cannot execute {conf.runtime}: {error.strerror}") from error
    except CgpuError as error:
        _say(line, f"cgpu: {error} [{error.public_code}]")
    return 1


def _become(conf: Conf, arguments: list[str]) -> None:
    # Python ignores these; an ignored signal stays ignored through exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execv(conf.runtime, [str(conf.runtime), *arguments])


def _say(line: CommandLine, message: str) -> None:
    """On stderr, and where the engine looks for it: in the runtime's log, in the runtime's form."""
    print(message, file=sys.stderr)
    if not line.log:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if line.log_json:
        text = json.dumps({"level": "error", "msg": message, "time": now})
    else:
        text = f'time="{now}" level=error msg={json.dumps(message)}'
    try:
        with Path(line.log).open("a") as file:
            file.write(text + "\n")
    except OSError as error:
        print(f"cgpu: cannot write {line.log}: {error.strerror}", file=sys.stderr)

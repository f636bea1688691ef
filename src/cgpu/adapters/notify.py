"""Telling the service manager how a daemon is: sd_notify(3), a datagram to the socket in ``NOTIFY_SOCKET``."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"

_LOG: Final = logging.getLogger(__name__)


def notify(*lines: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send the lines, each ``NAME=value``; False where no manager listens, or it cannot be reached.

    Never an error: a daemon works without being watched.
    """
    name = environment.get("NOTIFY_SOCKET", "")
    if name[:1] not in ("/", "@"):  # a path, or a name in the abstract name space; anything else is of another kind
        return False
    address = "\0" + name[1:] if name[0] == "@" else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _LOG.warning("the service manager at %s does not take %s: %s", name, lines, error.strerror)
        return False
    return True

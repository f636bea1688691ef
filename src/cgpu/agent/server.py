"""The API on a Unix socket, with the kernel's word about who calls."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import socketserver
import struct
from pathlib import Path
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

from cgpu.agent.api import PATH, PEER, Peer
from cgpu.errors import AgentError

_LOG: Final = logging.getLogger(__name__)
_UCRED: Final = struct.Struct("iII")
_POLL_SECONDS: Final = 3600.0
_SOCKET_PATH_MAX: Final = 107  # sun_path of unix(7), without its final NUL


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds that a silent client may keep its thread

    def get_environ(self) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_environ()
        credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        environment[PATH] = self.path.partition("?")[0]
        environment[PEER] = Peer(*_UCRED.unpack(credentials))
        return environment

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of the base class
        _LOG.debug(format, *args)


class ApiServer(socketserver.ThreadingMixIn, WSGIServer):
    """Serves an application on ``path`` until ``shutdown``. The socket may be connected to by everybody."""

    address_family = socket.AF_UNIX
    daemon_threads = True
    request_queue_size = 1024  # callers that wait to be accepted; beyond it a connection is refused at once

    def __init__(self, path: Path, application: WSGIApplication) -> None:
        """Bind; a dead agent's socket is replaced. Raises AgentError."""
        self.path = path
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            raise AgentError(
                f"{path}: longer than the {_SOCKET_PATH_MAX} bytes of a socket's name", "set CGPU_AGENT_SOCKET"
            )
        try:
            super().__init__(str(path), _Handler)  # type: ignore[arg-type]  # typeshed knows (host, port) only
        except OSError as error:
            raise AgentError(f"{path}: {error.strerror}") from error
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind beside the final name and rename, so that nobody connects to a socket not yet ready."""
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.unlink(missing_ok=True)
        self.socket.bind(str(temporary))
        temporary.chmod(0o666)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()
        self.socket.listen(self.request_queue_size)
        temporary.rename(self.path)
        self._bound = self.path.lstat()

    def get_request(self) -> tuple[Any, Any]:
        """A connection, with the form of address that the handler expects."""
        connection, _ = self.socket.accept()
        return connection, ("local", 0)

    def serve_forever(self, poll_interval: float = _POLL_SECONDS) -> None:
        """Until ``shutdown``, which ends the wait: nobody has to look whether it was called."""
        super().serve_forever(poll_interval)

    def shutdown(self) -> None:
        """End ``serve_forever``, and wait until it has. Nobody is accepted any more."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def is_reachable(self) -> bool:
        """Whether the name is there, and this server's."""
        try:
            return os.path.samestat(self._bound, self.path.lstat())
        except OSError:
            return False

    def withdraw(self) -> None:
        """Take the name away, so that nobody connects any more; then ``shutdown``. Another agent's stays."""
        with contextlib.suppress(OSError):
            if self.is_reachable():
                self.path.unlink()

"""The HTTPS server that the API server's webhooks call. It decides nothing."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.latencies import CONTENT_TYPE, Latencies
from cgpu.errors import ClusterError, UsageError

_LOG: Final = logging.getLogger(__name__)
BODY_MAX: Final = 8 << 20
"""An object is at most 3 MiB (the API server's limit of a request), and a review can hold two."""

_HANDSHAKE_S: Final = 10.0
_IDLE_S: Final = 150.0  # longer than the API server keeps an idle connection (90 s), so that it is never cut off
_HEALTH: Final = "/healthz"
_METRICS: Final = "/metrics"

Handle = Callable[[str, bytes], bytes]
"""Path and body to the answer's body. Raises UsageError for what is malformed, LookupError for an unknown path."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate (with its chain) and its key, PEM."""

    certificate: Path
    key: Path


class AdmissionServer(ThreadingHTTPServer):
    """Answers until ``shutdown``. The certificate may be replaced at any time: the next connection has the new one."""

    daemon_threads = False  # what was begun is answered before the process ends
    request_queue_size = 256

    def __init__(self, address: str, port: int, files: CertificateFiles, handle: Handle) -> None:
        """Bind. Raises ClusterError: the address or the certificate cannot be used."""
        self._files = files
        self.handle_review = handle
        self.latencies = Latencies("cgpu_webhook_review_seconds", "path", "How long the answer to a review took.")
        self._context: ssl.SSLContext
        self._stamp: object = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.closing = False
        if ":" in address:
            self.address_family = socket.AF_INET6
        try:
            self._load()
            super().__init__((address, port), _Handler)
        except OSError as error:  # ssl.SSLError is one
            raise ClusterError(f"the webhook cannot serve on {address}:{port}: {error}") from error

    def server_bind(self) -> None:
        """Without the base class's look-up of this host's name, which takes long where no DNS answers."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "webhook", self.socket.getsockname()[1]

    def get_request(self) -> tuple[Any, Any]:
        """A connection; its handshake is the handler's, so that a slow client holds up nobody else."""
        connection, address = super().get_request()
        with contextlib.suppress(OSError):  # a half-written pair: the certificate before goes on
            self._load()
        connection.settimeout(_HANDSHAKE_S)
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open.add(wrapped)
        return wrapped, address

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is no event; its handler logs what else fails."""
        _LOG.debug("connection %s from %s failed", request, client_address, exc_info=True)

    def end(self) -> None:
        """Accept nothing more, answer what has come, close idle connections. Not from the thread that it serves in."""
        self.closing = True
        self.shutdown()
        with self._lock:
            waiting = list(self._open)
        for connection in waiting:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RD)  # TLS's own would go on in plain text
        self.server_close()  # waits for the handlers

    def _load(self) -> None:
        stats = [path.stat() for path in (self._files.certificate, self._files.key)]
        stamp = [(stat.st_mtime_ns, stat.st_ino) for stat in stats]
        if stamp != self._stamp:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # anew: one that failed to load is of no use
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(self._files.certificate, self._files.key)
            self._context, self._stamp = context, stamp


class _Handler(BaseHTTPRequestHandler):
    server: AdmissionServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body in one record

    def setup(self) -> None:
        self.request.do_handshake()
        self.request.settimeout(_IDLE_S)
        super().setup()

    def do_GET(self) -> None:
        if self.path == _HEALTH:
            self._answer(HTTPStatus.OK, b"ok\n", "text/plain")
        elif self.path == _METRICS:
            self._answer(HTTPStatus.OK, self.server.latencies.text().encode(), CONTENT_TYPE)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")

    def do_POST(self) -> None:
        began = time.monotonic()
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a body of known length is needed")
            return
        if len(length) > len(str(BODY_MAX)) or int(length) > BODY_MAX:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {BODY_MAX} bytes")
            return
        body = self.rfile.read(int(length))
        path = self.path.partition("?")[0]
        try:
            answer = self.server.handle_review(path, body)
        except UsageError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except LookupError:
            self._refuse(HTTPStatus.NOT_FOUND, "no such webhook")
        except Exception:  # noqa: BLE001 - one review must not end the others
            _LOG.exception("a review failed")
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the webhook failed; its log has more")
        else:
            self.server.latencies.observe(path, time.monotonic() - began)
            self._answer(HTTPStatus.OK, answer, "application/json")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # a body may not have been read
        self._answer(status, f"{message}\n".encode(), "text/plain")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        if self.server.closing:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of the base class
        _LOG.debug(format, *args)

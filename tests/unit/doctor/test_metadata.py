"""The cloud's metadata service, served on loopback: in both of its modes, refusing, silent, and talking nonsense."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cgpu.doctor.probes.metadata import instance_type

_PATH = "/latest/meta-data/instance/instance-type"
_PATIENCE_S = 8.0  # of those that are no test of it


class _Service(BaseHTTPRequestHandler):
    tokens = True
    only_hardened = False
    answer = b"ecs.gn6i-c4g1.xlarge"

    def do_PUT(self) -> None:
        ttl = self.headers["X-aliyun-ecs-metadata-token-ttl-seconds"]
        assert 1 <= int(ttl) <= 21600
        self._send(200, b"a-token") if self.tokens and self.path == "/latest/api/token" else self._send(404, b"")

    def do_GET(self) -> None:
        with_token = self.headers["X-aliyun-ecs-metadata-token"] == "a-token"
        if self.path != _PATH or (self.only_hardened and not with_token):
            self._send(403, b"no")
        else:
            self._send(200, self.answer)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(**settings: object) -> Iterator[tuple[str, int]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Service", (_Service,), settings))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield ("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("tokens", "only_hardened"), [(True, True), (True, False), (False, False)])
def test_both_modes_tell_the_instance_type(*, tokens: bool, only_hardened: bool):
    with served(tokens=tokens, only_hardened=only_hardened) as address:
        fact = instance_type(address, _PATIENCE_S)
    assert fact.value == "ecs.gn6i-c4g1.xlarge"
    assert fact.how == f"http://127.0.0.1{_PATH}"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tokens": False, "only_hardened": True}, "does not tell it"),
        ({"answer": b"<html>\x1b[2J"}, "not an instance type: '<html>\\x1b[2J'"),
        ({"answer": b"x" * 2000}, "not an answer"),
        ({"answer": b"\xff"}, "not an answer"),
    ],
)
def test_what_is_no_answer_is_the_reason(settings: dict[str, object], reason: str):
    with served(**settings) as address:
        fact = instance_type(address, _PATIENCE_S)
    assert fact.value is None
    assert reason in fact.how


def test_a_service_that_is_silent_costs_no_more_than_the_limit():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        fact = instance_type(silent.getsockname(), seconds=0.2)
    assert 0.15 < time.monotonic() - began < 5.0  # it could be silent for ever
    assert fact.how.endswith("no answer within 0.2 s")


def test_where_nobody_listens_is_the_reason():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        fact = instance_type(unused.getsockname(), _PATIENCE_S)
    assert "connection refused" in fact.how


def test_what_is_not_http_is_the_reason():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-x\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        fact = instance_type(other.getsockname(), _PATIENCE_S)
        thread.join()
    assert "not an answer" in fact.how

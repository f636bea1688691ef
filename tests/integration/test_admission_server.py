"""The webhook's server over real TLS: answers, refuses what is malformed, and takes a new certificate."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cgpu.adapters.admission_server import BODY_MAX, AdmissionServer, CertificateFiles
from cgpu.adapters.serving_certificates import make
from cgpu.errors import ClusterError, UsageError

HOSTS = ("webhook.test",)


def handle(path: str, body: bytes) -> bytes:
    if path not in ("/echo", "/bad"):
        raise LookupError(path)
    if body == b"nonsense":
        raise UsageError("not a review")
    if path == "/bad":
        raise ZeroDivisionError
    return body


@dataclass
class Served:
    server: AdmissionServer
    files: CertificateFiles
    authority: bytes

    def renew(self) -> None:
        """Another certificate, of another authority."""
        made = make(HOSTS, datetime.now(UTC))
        for path, content in ((self.files.key, made.key), (self.files.certificate, made.certificate)):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.rename(path)
        self.authority = made.authority

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cadata=self.authority.decode())
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.server_port, timeout=10)
        plain = socket.create_connection(("127.0.0.1", self.server.server_port), 10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = context.wrap_socket(plain, server_hostname=HOSTS[0])
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, length: str = "") -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, {"Content-Length": length} if length else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    files = CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    made = make(HOSTS, datetime.now(UTC))
    files.certificate.write_bytes(made.certificate)
    files.key.write_bytes(made.key)
    server = AdmissionServer("127.0.0.1", 0, files, handle)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Served(server, files, made.authority)
    server.end()
    thread.join()


def test_it_answers_and_tells_that_it_lives(served: Served):
    assert served.ask("GET", "/healthz") == (200, b"ok\n")
    assert served.ask("POST", "/echo", b"{}") == (200, b"{}")
    assert served.ask("GET", "/echo")[0] == 404
    assert served.ask("POST", "/else", b"{}")[0] == 404


def test_it_tells_how_long_its_answers_took(served: Served):
    for path in ("/echo", "/echo", "/else", "/bad"):
        served.ask("POST", path, b"{}")
    status, text = served.ask("GET", "/metrics")
    assert status == 200
    counts = [line for line in text.decode().splitlines() if "_count" in line]
    assert counts == ['cgpu_webhook_review_seconds_count{path="/echo"} 2']


def test_a_connection_carries_many_reviews(served: Served):
    connection = served.connect()
    for number in range(20):
        connection.request("POST", "/echo", str(number))
        assert connection.getresponse().read() == str(number).encode()
    connection.close()


def test_what_is_malformed_is_refused_and_the_next_one_answered(served: Served):
    assert served.ask("POST", "/echo", b"nonsense") == (400, b"not a review\n")
    assert served.ask("POST", "/echo", length="x")[0] == 411
    assert served.ask("POST", "/echo", length=str(BODY_MAX + 1))[0] == 413
    assert served.ask("POST", "/echo", length="9" * 5000)[0] == 413
    assert served.ask("POST", "/echo", b"{}") == (200, b"{}")


def test_a_mistake_of_ours_ends_one_review_only(served: Served, caplog: pytest.LogCaptureFixture):
    assert served.ask("POST", "/bad", b"{}")[0] == 500
    assert "a review failed" in caplog.text
    assert served.ask("POST", "/echo", b"{}") == (200, b"{}")


def test_who_says_nothing_or_no_tls_holds_up_nobody(served: Served):
    address = "127.0.0.1", served.server.server_port
    with socket.create_connection(address), socket.create_connection(address) as loud:
        loud.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert served.ask("GET", "/healthz")[0] == 200


def test_a_new_certificate_is_served_to_the_next_connection(served: Served):
    before = served.connect()
    served.renew()
    assert served.ask("POST", "/echo", b"new") == (200, b"new")  # trusts the new authority alone
    before.request("POST", "/echo", b"old")
    assert before.getresponse().read() == b"old"
    before.close()


def test_a_half_written_pair_leaves_the_former_in_place(served: Served):
    served.files.key.write_bytes(make(HOSTS, datetime.now(UTC)).key)
    assert served.ask("GET", "/healthz")[0] == 200


def closed(connection: http.client.HTTPSConnection) -> bool:
    """Whether nothing more comes. A server that goes says no farewell in TLS."""
    try:
        return connection.sock.recv(1) == b""
    except ssl.SSLError:
        return True


def test_an_end_closes_idle_connections(served: Served):
    connection = served.connect()
    connection.request("POST", "/echo", b"{}")
    connection.getresponse().read()
    served.server.end()
    assert closed(connection)
    connection.close()


def test_an_unusable_address_or_certificate_is_told(served: Served, tmp_path: Path):
    with pytest.raises(ClusterError, match="cannot serve"):
        AdmissionServer("127.0.0.1", served.server.server_port, served.files, handle)
    nothing = CertificateFiles(tmp_path / "no", tmp_path / "no")
    with pytest.raises(ClusterError, match="cannot serve"):
        AdmissionServer("127.0.0.1", 0, nothing, handle)
    assert json.loads(served.ask("POST", "/echo", b"1")[1]) == 1

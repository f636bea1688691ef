"""A served part of the Kubernetes API: real HTTP on loopback, over objects that a test has put there.

It has what the doctor uses, as the real one has it: pages with ``limit`` and ``continue``, expired
lists, label and field selectors, RBAC, chunked logs, and pods that a kubelet runs (here, as processes).
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z0-9.]+)/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>nodes|pods|events|daemonsets|deployments|resourceslices|resourceclaims|deviceclasses|endpointslices"
    r"|mutatingwebhookconfigurations|validatingwebhookconfigurations)(?:/(?P<name>[^/]+)(?:/(?P<sub>log))?)?"
)


@dataclass
class Fault:
    """What is answered instead, so many times, to requests whose path and query match."""

    pattern: str
    status: int
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    late: bool = False
    """Whether what was asked is done all the same, as when an answer is lost on its way."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    verb: str
    resource: str
    namespace: str
    program: str
    """As it calls itself."""


@dataclass
class FakeApi:
    """The objects, what is to go wrong, and what was asked."""

    nodes: Sequence[Json] = ()
    pods: list[Json] = field(default_factory=list)
    daemonsets: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    resourceslices: Sequence[Json] = ()
    resourceclaims: Sequence[Json] = ()
    deviceclasses: Sequence[Json] = ()
    deployments: Sequence[Json] = ()
    endpointslices: Sequence[Json] = ()
    mutatingwebhookconfigurations: Sequence[Json] = ()
    validatingwebhookconfigurations: Sequence[Json] = ()
    logs: dict[tuple[str, str, bool], Sequence[bytes]] = field(default_factory=dict)
    """By pod, container and whether it is the previous run's: the chunks."""

    faults: list[Fault] = field(default_factory=list)
    allowed: Callable[[Asked], bool] = lambda _: True
    token: str | None = None
    kubelet: Callable[[Json, FakeApi], None] | None = None
    """Called in a thread with each pod that is created."""

    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    most_pods: int = 0
    """The most pods that there were at one time."""

    port: int = 0
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def kubeconfig(self, user: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] | None = None) -> str:
        """A kubeconfig for it (JSON is YAML)."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url, **(cluster or {})}}],
            "users": [{"name": "admin", "user": dict(user or {})}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "admin", "namespace": "doctors"}}],
            "current-context": "fake",
        }
        return json.dumps(config)

    def pod(self, name: str) -> Json | None:
        with self.lock:
            return next((pod for pod in self.pods if pod["metadata"]["name"] == name), None)

    @contextlib.contextmanager
    def served(self, tls: ssl.SSLContext | None = None) -> Iterator[FakeApi]:
        """Within, it answers at ``url``."""
        server = _Server(self)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.tls, self.port = tls is not None, server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, api: FakeApi) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that refuses the certificate, or goes, is no event."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        api = self.server.api
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match = _PATH.fullmatch(url.path)
        if api.token is not None and self.headers.get("Authorization") != f"Bearer {api.token}":
            self._status(401, "Unauthorized")
            return
        if match is None:
            self._status(404, f"there is no {url.path}")
            return
        parts = {name: unquote(value) for name, value in match.groupdict(default="").items()}
        resource = parts["plural"] + (f"/{parts['sub']}" if parts["sub"] else "")
        verb = {"POST": "create", "DELETE": "delete"}.get(self.command) or ("get" if parts["name"] else "list")
        asked = Asked(
            self.command, url.path, query, verb, resource, parts["namespace"], self.headers.get("User-Agent", "")
        )
        with api.lock:
            api.asked.append(asked)
            fault = next(
                (f for f in api.faults if f.times and re.search(f.pattern, f"{self.command} {self.path}")), None
            )
            if fault is not None:
                fault.times -= 1
        if fault is not None:
            if fault.late:
                self._create(parts["namespace"], json.loads(body))
            self._send(fault.status, fault.body, fault.headers)
        elif not api.allowed(asked):
            self._status(403, f'{resource} is forbidden: User "doctor" cannot {verb} resource "{resource}"')
        else:
            self._answer(asked, parts, body)

    def _answer(self, asked: Asked, parts: Mapping[str, str], body: bytes) -> None:
        api = self.server.api
        if asked.verb == "create":
            self._json(*self._create(parts["namespace"], json.loads(body)))
        elif asked.verb == "list":
            self._list(asked)
        elif (pod := api.pod(parts["name"])) is None:
            self._status(404, f'pods "{parts["name"]}" not found')
        elif asked.verb == "delete":
            with api.lock:
                api.pods.remove(pod)
            self._json(200, pod)
        elif parts["sub"] == "log":
            self._log(parts["name"], asked.query)
        else:
            self._json(200, pod)

    def _create(self, namespace: str, pod: Json) -> tuple[int, Json]:
        api = self.server.api
        if api.pod(pod["metadata"]["name"]) is not None:
            return 409, {"kind": "Status", "code": 409, "message": "already exists"}
        pod["metadata"] |= {"namespace": namespace, "creationTimestamp": _now()}
        pod["status"] = {"phase": "Pending"}
        with api.lock:
            api.pods.append(pod)
            api.most_pods = max(api.most_pods, len(api.pods))
        if api.kubelet is not None:
            threading.Thread(target=api.kubelet, args=(pod, api), daemon=True).start()
        return 201, pod

    def _list(self, asked: Asked) -> None:
        api = self.server.api
        query = asked.query
        objects: Sequence[Json] = getattr(api, asked.resource)
        chosen = "labelSelector" in query or "fieldSelector" in query
        if chosen or asked.namespace:
            with api.lock:
                objects = [item for item in objects if _chosen(item, asked)]
        start = int(base64.b64decode(query["continue"]).decode()) if "continue" in query else 0
        end = min(start + int(query["limit"]), len(objects)) if "limit" in query else len(objects)
        metadata: Json = {"resourceVersion": "1"}
        if end < len(objects):
            metadata["continue"] = base64.b64encode(str(end).encode()).decode()
            if not chosen:
                metadata["remainingItemCount"] = len(objects) - end
        items = b",".join(json.dumps(objects[index]).encode() for index in range(start, end))
        head = json.dumps({"kind": "List", "apiVersion": "v1", "metadata": metadata}).encode()
        self._send(200, head[:-1] + b', "items": [' + items + b"]}", {})

    def _log(self, name: str, query: Mapping[str, str]) -> None:
        chunks = self.server.api.logs.get((name, query.get("container", ""), query.get("previous") == "true"))
        if chunks is None:
            self._status(400, f'container "{query.get("container")}" in pod "{name}" is waiting to start')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in filter(None, chunks):
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _status(self, code: int, message: str) -> None:
        self._json(code, {"kind": "Status", "status": "Failure", "code": code, "message": message})

    def _json(self, code: int, document: Json) -> None:
        self._send(code, json.dumps(document).encode(), {})

    def _send(self, code: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def expired(token: str = "") -> bytes:
    """The body of a 410: with a token, the list may go on from there."""
    metadata = {"continue": base64.b64encode(token.encode()).decode()} if token else {}
    message = "The provided continue parameter is too old"
    return json.dumps({"kind": "Status", "code": 410, "metadata": metadata, "message": message}).encode()


def _chosen(item: Json, asked: Asked) -> bool:
    labels = item["metadata"].get("labels", {})
    if asked.namespace and item["metadata"].get("namespace") != asked.namespace:
        return False
    return all(_holds(term, labels.get) for term in asked.query.get("labelSelector", "").split(",") if term) and all(
        _holds(term, lambda key: _field(item, key)) for term in asked.query.get("fieldSelector", "").split(",") if term
    )


def _holds(term: str, value: Callable[[str], str | None]) -> bool:
    if "!=" in term:
        key, _, unwanted = term.partition("!=")
        return (value(key) or "") != unwanted
    key, equals, wanted = term.partition("=")
    return value(key) == wanted if equals else value(key) is not None


def _field(item: Json, path: str) -> str:
    value: Any = item
    for key in path.split("."):
        value = value.get(key, {}) if isinstance(value, dict) else {}
    return value if isinstance(value, str) else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for it. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)

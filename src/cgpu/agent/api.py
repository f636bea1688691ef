"""The HTTP/JSON API: routes, who may do what, and errors to statuses. No decisions are made here.

It is a WSGI application on the standard library: the agent must stay below 60 MiB, and a framework
with its event loop and models takes more than all the rest together. ``cgpu.agent.server`` puts it
on a Unix socket; tests call it directly.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote
from wsgiref.types import StartResponse, WSGIEnvironment

from cgpu.agent.documentation import (
    ACCOUNT_QUERY,
    ATTACH,
    POLICY_CHANGE,
    SHARE_CHANGE,
    TENANT_ID,
    TENANT_REQUEST,
    openapi,
)
from cgpu.agent.documents import ProcessRef
from cgpu.agent.refusals import RefusalLog
from cgpu.agent.schema import Schema, check
from cgpu.agent.state import NodeState
from cgpu.agent.views import Views
from cgpu.agent.wishes import Caller, ShareChange
from cgpu.errors import (
    AgentError,
    CgpuError,
    DriverError,
    ForbiddenError,
    NoSuchGpuError,
    NoSuchTenantError,
    RefusedError,
    UsageError,
)
from cgpu.model.account import AccountQuery
from cgpu.model.tenant import MemoryLayer, Policy, Share, Tenant
from cgpu.region.writer import Owner

_LOG: Final = logging.getLogger(__name__)
BODY_BYTES_MAX: Final = 64 * 1024
CONTAINER_BYTES_MAX: Final = 1024 * 1024  # the state of a container repeats its annotations
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_UNKNOWN_PROBLEM: Final = "its C library or its architecture is another"  # of a hook that does not tell more
PATH: Final = "cgpu.path"  # key of the path as our server got it: a name may have a slash, which stands there as %2F
PEER: Final = "cgpu.peer"  # key of the WSGI environment under which the server puts a Peer


class Peer(NamedTuple):
    """The process at the other end of the socket, by the kernel's word (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a route gets."""

    name: str  # the part of the path in braces, "" where there is none
    query: Mapping[str, Any]
    body: Any
    peer: Peer


class Answer(NamedTuple):
    """What a route gives. A body of None is no body."""

    status: HTTPStatus
    body: Any = None


class _TooLargeError(UsageError):
    code = "too_large"


# The first kind that fits decides.
_STATUSES: Final[tuple[tuple[type[CgpuError], HTTPStatus], ...]] = (
    (_TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UsageError, HTTPStatus.BAD_REQUEST),
    (ForbiddenError, HTTPStatus.FORBIDDEN),
    (NoSuchGpuError, HTTPStatus.NOT_FOUND),
    (NoSuchTenantError, HTTPStatus.NOT_FOUND),
    (RefusedError, HTTPStatus.CONFLICT),
    (AgentError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DriverError, HTTPStatus.SERVICE_UNAVAILABLE),
    (CgpuError, HTTPStatus.INTERNAL_SERVER_ERROR),
)

_Handler = Callable[[Request], Answer]
_NO_QUERY: Final[Schema] = {"type": "object", "properties": {}}


class _Route(NamedTuple):
    handler: _Handler
    body: Schema | None = None
    changes: bool = False
    query: Schema = _NO_QUERY
    bytes_max: int = BODY_BYTES_MAX


class Api:
    """The WSGI application. ``owner_uid`` may change things, as root may."""

    def __init__(
        self, state: NodeState, views: Views, owner_uid: int, changed: Callable[[], None] = lambda: None
    ) -> None:
        """``changed`` is called after each request that may have changed something."""
        self._state = state
        self._views = views
        self._owner_uid = owner_uid
        self._changed = changed
        self._refusals = RefusalLog()
        self._routes: dict[str, dict[str, _Route]] = {
            r"/openapi\.json": {"GET": _Route(lambda _: Answer(HTTPStatus.OK, openapi()))},
            "/v1/info": {"GET": _Route(lambda _: Answer(HTTPStatus.OK, views.info()))},
            "/v1/gpus": {"GET": _Route(lambda _: Answer(HTTPStatus.OK, views.gpus()))},
            "/v1/gpus/([^/]+)": {
                "GET": _Route(self._get_gpu),
                "PATCH": _Route(self._set_policy, POLICY_CHANGE, changes=True),
            },
            "/v1/account": {"GET": _Route(self._get_account, query=ACCOUNT_QUERY)},
            "/v1/tenants": {"GET": _Route(lambda _: Answer(HTTPStatus.OK, views.tenants()))},
            "/v1/tenants/([^/]+)": {
                "GET": _Route(self._get_tenant),
                "PUT": _Route(self._create, TENANT_REQUEST, changes=True),
                "PATCH": _Route(self._set_share, SHARE_CHANGE, changes=True),
                "DELETE": _Route(self._remove, changes=True),
            },
            "/v1/tenants/([^/]+)/attach": {
                "POST": _Route(self._attach, ATTACH, changes=True, bytes_max=CONTAINER_BYTES_MAX)
            },
            "/v1/tenants/([^/]+)/ending": {"POST": _Route(self._ending, changes=True)},
        }

    def __call__(self, environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        headers: list[tuple[str, str]] = []
        try:
            answer = self._answer(environment, headers)
        except CgpuError as error:
            if environment["REQUEST_METHOD"] != "GET":
                self._refusals.refused(environment["REQUEST_METHOD"], _path(environment), error.message)
            answer = Answer(_status(error), {"code": error.code, "message": error.message, "remedy": error.remedy})
        except Exception:  # noqa: BLE001 - a request must not end the daemon
            _LOG.exception("%s %s", environment["REQUEST_METHOD"], _path(environment))
            body = {"code": "error", "message": "the agent made a mistake", "remedy": "see its log"}
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, body)
        data = b"" if answer.body is None else json.dumps(answer.body).encode() + b"\n"
        if data:
            headers.append(("Content-Type", "application/json"))
        headers.append(("Content-Length", str(len(data))))
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [data]

    def _answer(self, environment: WSGIEnvironment, headers: list[tuple[str, str]]) -> Answer:
        path, method = _path(environment), environment["REQUEST_METHOD"]
        for pattern, methods in self._routes.items():
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            route = methods.get(method)
            if route is None:
                headers.append(("Allow", ", ".join(methods)))
                body = {"code": "method", "message": f"{method} is not for {path}", "remedy": ""}
                return Answer(HTTPStatus.METHOD_NOT_ALLOWED, body)
            name = unquote(match[1]) if match.lastindex else ""
            return self._call(route, name, environment)
        return Answer(
            HTTPStatus.NOT_FOUND, {"code": "path", "message": f"there is no {path}", "remedy": "see /openapi.json"}
        )

    def _call(self, route: _Route, name: str, environment: WSGIEnvironment) -> Answer:
        peer = environment[PEER]
        if route.changes and peer.uid not in (0, self._owner_uid):
            raise ForbiddenError("only root, or the user of a private agent, may change anything", "use sudo")
        query = _query(environment, route.query)
        body = None
        if route.body is not None:
            body = _body(environment, route.bytes_max)
            check(body, route.body)
        answer = route.handler(Request(name, query, body, peer))
        if route.changes:
            self._changed()
        return answer

    # ---- routes ----

    def _get_gpu(self, request: Request) -> Answer:
        return Answer(HTTPStatus.OK, self._views.gpu(self._state.gpu(request.name)))

    def _set_policy(self, request: Request) -> Answer:
        gpu = self._state.gpu(request.name)
        with self._state.lock:
            old, new = self._state.policy(gpu), request.body
            if new.get("policy") is not None:
                new = {**new, "policy": Policy(new["policy"])}
            self._state.set_policy(gpu, replace(old, **new))
        return Answer(HTTPStatus.OK, self._views.gpu(gpu))

    def _get_account(self, request: Request) -> Answer:
        return Answer(HTTPStatus.OK, self._views.account(AccountQuery(**request.query)))

    def _get_tenant(self, request: Request) -> Answer:
        return Answer(HTTPStatus.OK, self._views.tenant(self._state.record(request.name)))

    def _create(self, request: Request) -> Answer:
        check(request.name, {"type": "string", "pattern": TENANT_ID}, "tenant")
        body = request.body
        tenant = Tenant(
            id=request.name,
            name=body.get("name", request.name),
            shares=tuple(self._share(row) for row in body["shares"]),
            cgroup=body.get("cgroup", ""),
            refuse_managed=body.get("refuse_managed", False),
            container=body.get("container", ""),
            require_layer=MemoryLayer(body["require_layer"]) if "require_layer" in body else None,
        )
        known = any(record.tenant.id == tenant.id for record in self._state.records())
        record = self._state.create(tenant, self._caller(request.peer, body.get("lifetime", "explicit")))
        return Answer(HTTPStatus.OK if known else HTTPStatus.CREATED, self._views.tenant(record))

    def _set_share(self, request: Request) -> Answer:
        return Answer(
            HTTPStatus.OK, self._views.tenant(self._state.set_share(request.name, ShareChange(**request.body)))
        )

    def _remove(self, request: Request) -> Answer:
        if not self._state.remove(request.name):
            raise NoSuchTenantError(f"there is no tenant {request.name!r}", "`cgpu ps` lists them")
        return Answer(HTTPStatus.NO_CONTENT)

    def _attach(self, request: Request) -> Answer:
        body = request.body
        problem = "" if body.get("loads_shim", True) else body.get("shim_problem") or _UNKNOWN_PROBLEM
        record = self._state.attach(request.name, body["pid"], request.peer.pid, shim_problem=problem)
        return Answer(HTTPStatus.OK, self._views.tenant(record))

    def _ending(self, request: Request) -> Answer:
        self._state.container_ends(request.name)
        return Answer(HTTPStatus.NO_CONTENT)

    def _share(self, row: Mapping[str, Any]) -> Share:
        return Share(
            gpu_uuid=self._state.gpu(row["gpu"]).uuid,
            memory_bytes=row["memory_bytes"],
            compute_percent=row.get("compute_percent"),
            compute_limit_percent=row.get("compute_limit_percent"),
            weight=row.get("weight", 1),
            priority=row.get("priority", 0),
        )

    def _caller(self, peer: Peer, lifetime: str) -> Caller:
        owner = Owner(peer.uid, peer.gid)
        if lifetime == "explicit":
            return Caller(None, owner)
        ticks = self._state.processes.start_ticks(peer.pid) if peer.pid else None
        if ticks is None:
            raise RefusedError(
                "the calling process cannot be seen from here", "call from a PID namespace below the agent's"
            )
        return Caller(ProcessRef(peer.pid, ticks), owner)


def _status(error: CgpuError) -> HTTPStatus:
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


def _path(environment: WSGIEnvironment) -> str:
    """The path, still encoded."""
    sent = environment.get(PATH)
    return quote(environment.get("PATH_INFO", "")) if sent is None else str(sent)


def _query(environment: WSGIEnvironment, schema: Schema) -> dict[str, Any]:
    """The parameters after the question mark, each at most once, and integers where the schema says so."""
    text = environment.get("QUERY_STRING", "")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict") if text else []
    except ValueError as error:
        raise UsageError(f"the query is malformed: {error}") from error
    query: dict[str, Any] = {}
    for name, value in pairs:
        if name in query:
            raise UsageError(f"query: {name} is given twice")
        integer = schema["properties"].get(name, {}).get("type") == "integer"
        query[name] = int(value) if integer and _INTEGER.fullmatch(value) else value
    check(query, schema, "query")
    return query


def _body(environment: WSGIEnvironment, bytes_max: int) -> Any:
    length = environment.get("CONTENT_LENGTH") or "0"
    if not length.isascii() or not length.isdigit():
        raise UsageError("Content-Length is not a number")
    if int(length) > bytes_max:
        raise _TooLargeError(f"the request is larger than {bytes_max} bytes")
    try:
        text = environment["wsgi.input"].read(int(length))
        return json.loads(text, parse_float=_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is not JSON: {error}") from error


def _number(text: str) -> float:
    """JSON Schema takes 2.0 for an integer."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")

"""The agent's API from the other side of its socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from cgpu.errors import AgentError, CgpuError
from cgpu.settings import Settings

SYSTEM_SOCKET: Final = Path("/run/cgpu/agent.sock")


class AgentClient:
    """One agent. Each call is one request; errors are those that the agent raised."""

    def __init__(self, path: Path, answer_seconds: float) -> None:
        self.path = path
        self._answer_seconds = answer_seconds

    @classmethod
    def of(cls, settings: Settings) -> AgentClient:
        """The agent of these settings, or the node's own where this user has none."""
        path = settings.agent_socket
        if settings.sim_state is None and path == settings.runtime_dir / "agent.sock" and not path.exists():
            path = SYSTEM_SOCKET if SYSTEM_SOCKET.exists() else path
        return cls(path, settings.agent_answer_seconds)

    def get(self, path: str) -> Any:
        """GET, for example ``/v1/tenants``."""
        return self._request("GET", path)

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """PUT a document."""
        return self.create(path, body)[0]

    def create(self, path: str, body: Mapping[str, Any]) -> tuple[Any, bool]:
        """PUT a document; the answer, and whether it is new rather than known already."""
        status, document = self._exchange("PUT", path, body)
        return document, status == http.HTTPStatus.CREATED

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """POST, for example to ``/v1/tenants/<id>/ending``; without a document where none is wanted."""
        return self._request("POST", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """PATCH with the values to change."""
        return self._request("PATCH", path, body)

    def delete(self, path: str) -> None:
        """DELETE."""
        self._request("DELETE", path)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._exchange(method, path, body)[1]

    def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Any]:
        """One request; status and document of an answer that is no error."""
        connection = _UnixConnection(self.path, self._answer_seconds)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            content = answer.read()
        except (FileNotFoundError, ConnectionError) as error:
            raise NoAgentError(
                f"no agent answers at {self.path}", "start one with `cgpu agent`; `cgpu run` starts a private one"
            ) from error
        except TimeoutError as error:
            raise SilentAgentError(
                f"the agent at {self.path} does not answer", "see its log; end it, the tenants run on"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise AgentError(f"the agent at {self.path}: {error}") from error
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.NO_CONTENT:
            return answer.status, None
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise AgentError(f"{self.path} does not speak the agent's language") from error
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise error_from(document)
        return answer.status, document


class NoAgentError(AgentError):
    """No agent runs there, or it has just ended: one may be started."""


class SilentAgentError(AgentError):
    """An agent runs there and does not answer: another one would not get its GPUs."""


def tenant_path(name: str) -> str:
    """The API's path of a tenant."""
    return f"/v1/tenants/{quote(name, safe='')}"


def gpu_path(name: str) -> str:
    """The API's path of a GPU."""
    return f"/v1/gpus/{quote(name, safe='')}"


def error_from(document: Mapping[str, Any]) -> CgpuError:
    """The exception whose JSON the agent sent."""
    kinds = {kind.code: kind for kind in _kinds(CgpuError)}
    kind = kinds.get(document.get("code", ""), CgpuError)
    return kind.received(document.get("message", ""), document.get("remedy", ""))


def _kinds(kind: type[CgpuError]) -> Iterator[type[CgpuError]]:
    for child in kind.__subclasses__():
        yield from _kinds(child)
    # Parents come last, so a code that a subclass inherits means the parent.
    yield kind


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

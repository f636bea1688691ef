"""The Kubernetes API: what the doctor reads there, and its probe pods.

Objects are plain mappings, as the API has them. A page of a list is decoded object by object, so
that its text and one object are all that is in memory.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from cgpu.adapters.kube_answers import (
    PASSING,
    RETRIES,
    ApiRefusedError,
    document_of,
    foreign,
    parse_retry_after,
    pause_before_retry,
    refusal,
    unreachable,
)
from cgpu.adapters.kube_connection import choose_access, open_client
from cgpu.adapters.kube_objects import Kind
from cgpu.doctor.cluster import GPU_MEMORY, asks_for_gpu_memory
from cgpu.doctor.pod_texts import container_logs, event_text, status_text
from cgpu.errors import ClusterError

if TYPE_CHECKING:
    import httpx2

PAGE: Final = 500
"""Objects per page of a list."""

Object = Mapping[str, Any]
_CHUNK_BYTES: Final = 1 << 16
_EXPIRIES: Final = 5  # of one list, in a row or without a way on: then it is no chance
_PATIENCE_S: Final = 120.0
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    items: Iterator[Object]
    """Its objects; to be read once, before the next page."""

    remaining: int | None
    """How many follow in later pages; None where the server does not tell, as with a selector."""


def connect(kubeconfig: Path | None, context: str | None, *, program: str = "cgpu-doctor") -> Cluster:
    """The cluster of a kubeconfig's context; in a pod without a kubeconfig, the pod's own.

    ``program`` is who asks, for the server's logs.

    Nothing is sent yet. Raises ClusterError: lightkube is missing, there is no kubeconfig, or it is
    malformed, or its credentials cannot be used.
    """
    access = choose_access(kubeconfig, context)
    name = access.cluster.get("tls-server-name")
    return Cluster(open_client(access, program), access.namespace, {"sni_hostname": name} if name else {})


class Cluster:
    """One cluster's API. Safe for several threads. Every method raises ClusterError."""

    def __init__(self, client: httpx2.Client, namespace: str, extensions: Mapping[str, Any]) -> None:
        self._client = client
        self._extensions = dict(extensions)
        self._answered = False
        self._hurried = threading.Event()
        self.namespace = namespace
        """Of the context; where ``kubectl`` would put a pod."""

        self.time = datetime.now(UTC)
        """The server's clock at its last answer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def hurry(self) -> None:
        """From now on wait for nothing between attempts: what is left to do is to clean up."""
        self._hurried.set()

    # --- what the doctor reads

    def nodes(self, selector: str | None) -> Iterator[Page]:
        """All nodes that a label selector chooses, each once, in pages."""
        return self._list("list nodes", "/api/v1/nodes", {"labelSelector": selector}, _any)

    def gpu_pods(self, node: str | None = None) -> Iterator[Object]:
        """The pods, of all namespaces, that have a node, have not ended and ask for ``aliyun.com/gpu-mem``."""
        chosen = f"spec.nodeName={node}" if node is not None else "spec.nodeName!="
        fields = f"{chosen},status.phase!=Succeeded,status.phase!=Failed"
        pages = self._list(
            "list pods", "/api/v1/pods", {"fieldSelector": fields}, asks_for_gpu_memory, GPU_MEMORY.encode()
        )
        return (pod for page in pages for pod in page.items)

    def daemon_sets(self) -> Iterator[Object]:
        """All DaemonSets."""
        pages = self._list("list daemonsets", "/apis/apps/v1/daemonsets", {}, _any)
        return (item for page in pages for item in page.items)

    def pod_texts(self, namespace: str, name: str) -> Iterator[tuple[str, Iterator[bytes]]]:
        """What a pod's failure may be read from, as (what it is, its bytes): status, events, and each container's logs.

        A container that has not started has no log and is left out. Logs are streamed; each is to be
        read before the next is asked for. Raises ClusterError when there is neither the pod nor an event of it.
        """
        fields = f"involvedObject.kind=Pod,involvedObject.name={name}"
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/events"
        pages = self._list("list events", path, {"fieldSelector": fields}, _any)
        events = [event_text(event) for page in pages for event in page.items]
        try:
            pod = self.pod(namespace, name)
        except ApiRefusedError as error:
            if error.status != _NOT_FOUND or not events:
                raise
            yield "events", iter(events)
            return
        yield "status", iter([status_text(pod)])
        yield "events", iter(events)
        for container, previous in container_logs(pod):
            log = self._started_log(namespace, name, container, previous=previous)
            yield f"{'previous log' if previous else 'log'} of container {container}", log

    def _started_log(self, namespace: str, name: str, container: str, *, previous: bool) -> Iterator[bytes]:
        try:
            yield from self.log(namespace, name, container, previous=previous)
        except ApiRefusedError as error:
            # The kubelet's answer for a container that waits, or whose earlier log is gone already.
            if error.status not in (_BAD_REQUEST, _NOT_FOUND):
                raise

    def objects(
        self, kind: Kind, *, namespace: str = "", fields: str = "", labels: str = "", mark: bytes = b""
    ) -> Iterator[Object]:
        """All objects of a kind, of one or all namespaces, that selectors choose and whose text has ``mark`` in it."""
        params = {"fieldSelector": fields or None, "labelSelector": labels or None}
        pages = self._list(f"list {kind.plural}", kind.at(namespace), params, _any, mark)
        return (item for page in pages for item in page.items)

    def version(self) -> str:
        """The API server's, such as ``v1.37.2``."""
        return str(self._ask("ask for the version", "GET", "/version", {}).get("gitVersion") or "")

    # --- probe pods

    def create_pod(self, namespace: str, manifest: Object) -> None:
        """Create it; that it is there already is no error: an earlier attempt's answer was lost."""
        try:
            self._ask("create a pod", "POST", f"/api/v1/namespaces/{quote(namespace, safe='')}/pods", {}, manifest)
        except ApiRefusedError as error:
            if error.status != _CONFLICT:
                raise

    def pod(self, namespace: str, name: str) -> Object:
        """One pod."""
        return self._ask(f"get pod {namespace}/{name}", "GET", _pod_path(namespace, name), {})

    def pods(self, namespace: str, selector: str) -> Iterator[Object]:
        """The pods of a namespace that a label selector chooses."""
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
        pages = self._list("list pods", path, {"labelSelector": selector}, _any)
        return (pod for page in pages for pod in page.items)

    def delete_pod(self, namespace: str, name: str) -> None:
        """Delete it at once; that it is gone already is no error."""
        try:
            self._ask("delete a pod", "DELETE", _pod_path(namespace, name), {"gracePeriodSeconds": "0"})
        except ApiRefusedError as error:
            if error.status != _NOT_FOUND:
                raise

    def log(self, namespace: str, name: str, container: str, *, previous: bool = False) -> Iterator[bytes]:
        """A container's log, in chunks of at most 64 KiB."""
        params = {"container": container, "previous": "true" if previous else None}
        what = f"read the log of pod {namespace}/{name}"
        response = self._answer(what, "GET", f"{_pod_path(namespace, name)}/log", params, stream=True)
        with contextlib.closing(response), self._whole():
            yield from response.iter_bytes(_CHUNK_BYTES)

    # --- requests

    def _list(
        self,
        what: str,
        path: str,
        params: Mapping[str, str | None],
        wanted: Callable[[Object], bool],
        mark: bytes = b"",
    ) -> Iterator[Page]:
        """The pages of a list: objects that have ``mark`` in their text and are wanted, each once.

        A list that takes longer than the server keeps old states (five minutes by default) expires
        (410). It goes on with the token that the server gives then, or else begins anew; what came
        before is not given again.
        """
        seen: set[str] = set()
        token: str | None = None
        expired = beginnings = 0
        while True:
            try:
                page = self._page(what, path, {**params, "limit": str(PAGE), "continue": token})
            except ApiRefusedError as error:
                expired += 1
                beginnings += not error.continue_token
                if error.status != _GONE or not token or max(expired, beginnings) > _EXPIRIES:
                    raise
                token = error.continue_token or None
                continue
            expired = 0
            token = page.metadata.continue_token
            yield Page(_new(page.items or [], mark, wanted, seen), page.metadata.remaining if token else 0)
            if not token:
                return
            del page  # or it is there while the next comes

    def _page(self, what: str, path: str, params: Mapping[str, str | None]) -> Any:
        import msgspec

        content = self._answer(what, "GET", path, params).content
        try:
            return msgspec.json.decode(content, type=_list_form())
        except msgspec.DecodeError as error:
            raise self._foreign(str(error)) from error

    def _ask(self, what: str, method: str, path: str, params: Mapping[str, str | None], body: Any = None) -> Object:
        response = self._answer(what, method, path, params, body)
        document = document_of(response.content)
        if not isinstance(document, dict):
            raise self._foreign(f"its answer is {response.headers.get('Content-Type', 'of no type')}")
        return document

    def _answer(
        self,
        what: str,
        method: str,
        path: str,
        params: Mapping[str, str | None],
        body: Any = None,
        *,
        stream: bool = False,
    ) -> httpx2.Response:
        """The answer, after waiting where waiting may help; of a stream, before its body is read."""
        import httpx2

        given = {name: value for name, value in params.items() if value is not None}
        give_up = time.monotonic() + _PATIENCE_S
        for attempt in itertools.count():
            last = attempt == RETRIES or time.monotonic() > give_up
            asked_s = None
            request = self._client.build_request(method, path, params=given, json=body, extensions=self._extensions)
            try:
                response = self._client.send(request, stream=stream)
            except httpx2.TransportError as error:
                # A server that has never answered is more likely a wrong address than a busy one.
                if last or not self._answered:
                    raise unreachable(str(self._client.base_url), str(error)) from error
            else:
                self._note(response)
                if response.is_success:
                    return response
                if last or response.status_code not in PASSING:
                    raise refusal(response.status_code, document_of(response.read()), what)
                asked_s = parse_retry_after(response.headers.get("Retry-After"), self.time)
                response.close()
            self._hurried.wait(pause_before_retry(attempt, asked_s, random.random()))
        raise AssertionError("not reached")

    def _note(self, response: httpx2.Response) -> None:
        self._answered = True
        with contextlib.suppress(KeyError, ValueError, TypeError):
            self.time = parsedate_to_datetime(response.headers["Date"])

    def _foreign(self, reason: str) -> ClusterError:
        return foreign(str(self._client.base_url), reason)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Within, a stream that breaks off is a ClusterError."""
        import httpx2

        try:
            yield
        except httpx2.RequestError as error:
            raise unreachable(str(self._client.base_url), str(error)) from error


def _new(items: list[Any], mark: bytes, wanted: Callable[[Object], bool], seen: set[str]) -> Iterator[Object]:
    import msgspec

    for raw in items:
        if mark not in bytes(raw):
            continue
        item: Object = msgspec.json.decode(raw, type=dict[str, Any])
        metadata = item.get("metadata") or {}
        key = f"{metadata.get('namespace', '')}/{metadata.get('name')}"
        if key not in seen and wanted(item):
            seen.add(key)
            yield item


@functools.cache
def _list_form() -> Any:
    """What of a list is decoded at once; its items stay text."""
    import msgspec

    metadata = msgspec.defstruct(
        "ListMeta",
        [
            ("continue_token", str, msgspec.field(name="continue", default="")),
            ("remaining", int | None, msgspec.field(name="remainingItemCount", default=None)),
        ],
    )
    return msgspec.defstruct("List", [("items", list[msgspec.Raw] | None), ("metadata", metadata)])


def _any(_: Object) -> bool:
    return True


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"

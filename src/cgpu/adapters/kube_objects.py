"""The Kubernetes API for programs that keep something as it should be: read, write, watch. Plain mappings.

Nothing is asked twice here: who keeps something as it should be comes back anyway. Objects are as the
server sends them, with the fields that this release does not know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from cgpu.adapters.kube_answers import ApiRefusedError, document_of, foreign, refusal, unreachable
from cgpu.adapters.kube_connection import choose_access, open_client
from cgpu.errors import ClusterError

if TYPE_CHECKING:
    import httpx2

Object = dict[str, Any]
_PAGE: Final = 500
_WATCH_S: Final = 300
_WATCH_GRACE_S: Final = 30.0  # after which a watch that the server should have ended is taken for broken
_MERGE: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object and where it lives."""

    path: str  # "/api/v1" or "/apis/<group>/<version>"
    plural: str
    namespaced: bool = False

    def at(self, namespace: str = "", name: str = "", part: str = "") -> str:
        """The path of an object, of a list (without a name), or of a part such as ``status``."""
        place = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        rest = "".join(f"/{quote(word, safe='')}" for word in (name, part) if word)
        return f"{self.path}{place}/{self.plural}{rest}"


NODES: Final = Kind("/api/v1", "nodes")
PODS: Final = Kind("/api/v1", "pods", namespaced=True)
NAMESPACES: Final = Kind("/api/v1", "namespaces")
CONFIG_MAPS: Final = Kind("/api/v1", "configmaps", namespaced=True)
SECRETS: Final = Kind("/api/v1", "secrets", namespaced=True)
RESOURCE_QUOTAS: Final = Kind("/api/v1", "resourcequotas", namespaced=True)
MUTATING_WEBHOOKS: Final = Kind("/apis/admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations")
VALIDATING_WEBHOOKS: Final = Kind("/apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations")
EVENTS: Final = Kind("/apis/events.k8s.io/v1", "events", namespaced=True)
SLICES: Final = Kind("/apis/resource.k8s.io/v1", "resourceslices")
CLAIMS: Final = Kind("/apis/resource.k8s.io/v1", "resourceclaims", namespaced=True)
DEVICE_CLASSES: Final = Kind("/apis/resource.k8s.io/v1", "deviceclasses")
CLAIM_TEMPLATES: Final = Kind("/apis/resource.k8s.io/v1", "resourceclaimtemplates", namespaced=True)


class ExpiredError(ClusterError):
    """A watch cannot go on from where it was: list again."""


class ObjectClient:
    """One cluster. Safe for several threads.

    Every method raises ClusterError; of its kinds ApiRefusedError where the server answers and refuses.
    """

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections; a watch that another thread reads ends."""
        self._client.close()

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """An object, or None."""
        try:
            return self._ask("GET", kind.at(namespace, name), f"get {kind.plural} {name}")
        except ApiRefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    def list(self, kind: Kind, namespace: str = "", *, fields: str = "", labels: str = "") -> tuple[list[Object], str]:
        """All objects that the selectors choose, and the version from which a watch goes on."""
        found: list[Object] = []
        version = ""
        for page in self.pages(kind, namespace, fields, labels):
            found += page.get("items") or []
            version = page["metadata"]["resourceVersion"]
        return found, version

    def each(self, kind: Kind, namespace: str = "", *, fields: str = "", labels: str = "") -> Iterator[Object]:
        """The objects of a list one after the other: of a long one, no more than a page is in memory."""
        for page in self.pages(kind, namespace, fields, labels):
            yield from page.get("items") or ()

    def pages(self, kind: Kind, namespace: str = "", fields: str = "", labels: str = "") -> Iterator[Object]:
        """A list in parts, each with ``items``; all of them show the version that the last one tells."""
        token = ""
        while True:
            params = {"fieldSelector": fields, "labelSelector": labels, "limit": str(_PAGE), "continue": token}
            page = self._ask("GET", kind.at(namespace), f"list {kind.plural}", params)
            self._object(page, "a list has no version", "resourceVersion")
            items = page.get("items") or []
            for item in items if isinstance(items, list) else [items]:
                self._object(item, "a list has an object without a name", "name")
            yield page
            token = page["metadata"].get("continue", "")
            if not token:
                return

    def watch(
        self, kind: Kind, version: str, namespace: str = "", *, fields: str = "", labels: str = "",
        seconds: int = _WATCH_S,
    ) -> Generator[tuple[str, Object], None, None]:  # fmt: skip
        """Changes after that version: (ADDED | MODIFIED | DELETED | BOOKMARK, object), for some minutes.

        Raises ExpiredError where the server no longer knows what came after the version.
        """
        import httpx2

        params = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
            "fieldSelector": fields,
            "labelSelector": labels,
        }
        timeout = httpx2.Timeout(seconds + _WATCH_GRACE_S, connect=_WATCH_GRACE_S)
        what = f"watch {kind.plural}"
        with self._sent("GET", kind.at(namespace), what, params, timeout=timeout, stream=True) as response:
            try:
                for line in response.iter_lines():
                    change, item = self._event(line)
                    if change == "ERROR":
                        raise _watch_error(item, what)
                    yield change, item
            except (httpx2.RequestError, httpx2.StreamError, ValueError) as error:
                raise unreachable(str(self._client.base_url), str(error)) from error

    def _event(self, line: str) -> tuple[str, Object]:
        event = document_of(line)
        change, item = (event.get("type"), event.get("object")) if isinstance(event, dict) else (None, None)
        if not isinstance(change, str) or not isinstance(item, dict):
            raise self._foreign("a watch tells what is no change of an object")
        if change == "ERROR":
            return change, item
        names = ("resourceVersion",) if change == "BOOKMARK" else ("resourceVersion", "name")
        return change, self._object(item, f"a watch tells of an object without {' and '.join(names)}", *names)

    def _object(self, document: object, reason: str, *names: str) -> Object:
        """Raises ClusterError unless it is an object whose metadata have texts of these names."""
        metadata = document.get("metadata") if isinstance(document, dict) else None
        if not isinstance(metadata, dict) or not all(isinstance(metadata.get(name), str) for name in names):
            raise self._foreign(reason)
        assert isinstance(document, dict)
        return document

    def _foreign(self, reason: str) -> ClusterError:
        return foreign(str(self._client.base_url), reason)

    def create(self, kind: Kind, document: Mapping[str, Any], namespace: str = "", *, dry_run: bool = False) -> Object:
        """Create; what the server made of it."""
        params = {"dryRun": "All" if dry_run else ""}
        return self._ask("POST", kind.at(namespace), f"create {kind.plural}", params, document)

    def evict(self, namespace: str, name: str, uid: str) -> None:
        """End a pod as its disruption budgets allow it; refused (429) where they do not, (409) when it is another."""
        document = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        self._ask("POST", PODS.at(namespace, name, "eviction"), f"evict pod {name}", {}, document)

    def update(self, kind: Kind, document: Mapping[str, Any], namespace: str = "") -> Object:
        """Replace; refused (409) when somebody else was there since it was read."""
        name = document["metadata"]["name"]
        return self._ask("PUT", kind.at(namespace, name), f"update {kind.plural} {name}", {}, document)

    def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], part: str = "") -> Object:
        """Change the fields that are named, and no others; null removes one."""
        path = kind.at(namespace, name, part)
        return self._ask("PATCH", path, f"patch {kind.plural} {name}", {}, patch, {"Content-Type": _MERGE})

    def delete(self, kind: Kind, namespace: str, name: str, *, version: str = "") -> None:
        """Delete; that it is gone already is no error. With a version: refused (409) when it is another by now."""
        body = {"preconditions": {"resourceVersion": version}} if version else None
        try:
            self._ask("DELETE", kind.at(namespace, name), f"delete {kind.plural} {name}", {}, body)
        except ApiRefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def _ask(
        self,
        method: str,
        path: str,
        what: str,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        with self._sent(method, path, what, params or {}, body=body, headers=headers) as response:
            kind = response.headers.get("Content-Type", "of no type")
            return self._object(document_of(response.content), f"its answer is no object, but {kind}")

    @contextlib.contextmanager
    def _sent(
        self, method: str, path: str, what: str, params: Mapping[str, str], *, stream: bool = False,
        body: Any = None, headers: Mapping[str, str] | None = None, timeout: Any = None,
    ) -> Iterator[httpx2.Response]:  # fmt: skip
        import httpx2

        given = {name: value for name, value in params.items() if value}
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        request = self._client.build_request(method, path, params=given or None, json=body, headers=headers, **options)
        try:
            response = self._client.send(request, stream=stream)
        except (httpx2.TransportError, RuntimeError) as error:  # RuntimeError: it was closed
            raise unreachable(str(self._client.base_url), str(error)) from error
        with contextlib.closing(response):
            if not response.is_success:
                raise _refused(response, what)
            yield response


def connect(kubeconfig: Path | None = None, context: str | None = None, *, program: str = "cgpu") -> ObjectClient:
    """The cluster of a kubeconfig's context; in a pod without a kubeconfig, the pod's own. Raises ClusterError.

    ``program`` is who asks, for the server's logs.
    """
    return ObjectClient(open_client(choose_access(kubeconfig, context), program))


def micro_time() -> str:
    """Now, as the API's MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _refused(response: httpx2.Response, what: str) -> ClusterError:
    error = refusal(response.status_code, document_of(response.read()), what)
    return ExpiredError(str(error)) if response.status_code == HTTPStatus.GONE else error


def _watch_error(status: Mapping[str, Any], what: str) -> ClusterError:
    told = status.get("code")
    code = told if isinstance(told, int) else HTTPStatus.INTERNAL_SERVER_ERROR
    error = refusal(code, status, what)
    return ExpiredError(str(error)) if code == HTTPStatus.GONE else error

"""AdmissionReview of admission.k8s.io/v1: what the API server asks, and what it is answered. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cgpu.errors import CgpuError, UsageError

Object = Mapping[str, Any]
API: Final = "admission.k8s.io/v1"
CREATE: Final = "CREATE"
_WARNING_MAX: Final = 256  # characters, of which the API server shows no more
_WARNINGS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One object that somebody wants to create or change."""

    uid: str
    kind: str
    namespace: str
    name: str
    operation: str
    obj: Object
    old: Object | None
    dry_run: bool

    @property
    def where(self) -> str:
        """The object, for messages."""
        metadata = self.obj.get("metadata") or {}
        name = self.name or metadata.get("name") or metadata.get("generateName") or "?"
        return f"{self.kind} {self.namespace}/{name}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Yes, perhaps with changes and warnings."""

    patch: Sequence[Object] = ()
    warnings: Sequence[str] = ()


def parse_review(body: bytes) -> Request:
    """The request of an AdmissionReview. Raises UsageError for what is none."""
    try:
        review = json.loads(body)
        given = review["request"]
        old = given.get("oldObject") or None
        request = Request(
            uid=given["uid"],
            kind=given["kind"]["kind"],
            namespace=given.get("namespace") or "",
            name=given.get("name") or "",
            operation=given["operation"],
            obj=given["object"],
            old=old,
            dry_run=bool(given.get("dryRun")),
        )
        version = review["apiVersion"]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not an AdmissionReview with an object: {type(error).__name__}: {error}"[:300]) from error
    texts = (request.uid, request.kind, request.namespace, request.name, request.operation)
    if version != API or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"not an AdmissionReview of {API}")
    if not isinstance(request.obj, dict) or not isinstance(old, dict | None):
        raise UsageError("the object of the AdmissionReview is none")
    return request


def allowed(uid: str, answer: Answer) -> bytes:
    """The review that lets the object pass."""
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if answer.patch:
        patch = json.dumps(list(answer.patch), separators=(",", ":")).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    if answer.warnings:
        response["warnings"] = [f"cgpu: {text}"[:_WARNING_MAX] for text in answer.warnings[:_WARNINGS_MAX]]
    return _review(response)


def refused(uid: str, error: CgpuError, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> bytes:
    """The review that refuses the object with the words of the error."""
    remedy = f"; {error.remedy}" if error.remedy else ""
    message = f"{error.message}{remedy} [{error.public_code}]"
    return _review({"uid": uid, "allowed": False, "status": {"code": int(status), "message": message}})


def _review(response: Object) -> bytes:
    document = {"apiVersion": API, "kind": "AdmissionReview", "response": response}
    return json.dumps(document, separators=(",", ":")).encode()

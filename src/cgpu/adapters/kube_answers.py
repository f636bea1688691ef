"""What answers of the Kubernetes API mean: which may pass by waiting, how long to wait, what to tell. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from cgpu.errors import ClusterError

RETRIES: Final = 6
"""How often a request is sent again. With the pauses below: half a minute, or what the server asks for."""

PASSING: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""Statuses that another attempt may not meet."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_SHOWN: Final = 500


class ApiRefusedError(ClusterError):
    """The API answered, and not with what was asked for."""

    def __init__(self, status: int, message: str, remedy: str = "", continue_token: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status
        self.continue_token = continue_token
        """Where an expired list goes on (410 only); empty: it must begin anew."""


def pause_before_retry(attempt: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds to wait before the attempt after ``attempt`` (from 0); ``chance`` is a random number from 0 to 1.

    What the server asks for holds, up to half a minute. Otherwise the pause doubles, and its second
    half is left to chance so that many clients do not come back at once.
    """
    if retry_after_s is not None:
        return min(retry_after_s, _LONGEST_PAUSE_S)
    pause = min(_FIRST_PAUSE_S * 2.0 ** min(attempt, 16), _LONGEST_PAUSE_S)
    return pause / 2 + pause / 2 * chance


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number or a date (RFC 9110, 10.2.3); None: neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            then = parsedate_to_datetime(header)
            seconds = (then - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def document_of(content: bytes | str) -> object:
    """The JSON of an answer; None where it is none: whatever stands before the API server may answer, too."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def foreign(server: str, reason: str) -> ClusterError:
    """The error for an answer that the Kubernetes API does not give."""
    return ClusterError(
        f"what answers at {server} is not the Kubernetes API: {reason}",
        "check the server in the kubeconfig, and whether a proxy or a login page stands before it",
    )


def refusal(status: int, document: object, what: str) -> ApiRefusedError:
    """The error for an answer of 300 or above; ``document`` is its JSON, ``what`` was asked ("list nodes")."""
    given: Mapping[str, Any] = document if isinstance(document, dict) else {}
    message = str(given.get("message") or "no reason given")
    said = "".join(char if char.isprintable() else " " for char in message)[:_SHOWN]
    metadata = given.get("metadata")
    token = metadata.get("continue") if isinstance(metadata, dict) else None
    cause, remedy = _CAUSES.get(status, ("", ""))
    number = f"{status} {_phrase(status)}".strip()
    return ApiRefusedError(
        status, f"the Kubernetes API did not {what}: {cause or said} ({number}{f': {said}' if cause else ''})", remedy,
        token if isinstance(token, str) else "",
    )  # fmt: skip


_CAUSES: Final[Mapping[int, tuple[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: (
        "it does not accept who asks",
        "the token or certificate has expired or was withdrawn: log in again, or fetch a new kubeconfig",
    ),
    HTTPStatus.FORBIDDEN: (
        "this user may not do that",
        "deploy/doctor-rbac.yaml has the permissions that are needed, and no more",
    ),
    HTTPStatus.TOO_MANY_REQUESTS: ("it has too many requests, and still had after waiting", "try again later"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("it failed, again and again", "look at the control plane"),
    HTTPStatus.BAD_GATEWAY: ("it cannot be reached behind its gateway", "look at the control plane"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("it is not ready, and still was not after waiting", "look at the control plane"),
    HTTPStatus.GATEWAY_TIMEOUT: ("it gave no answer in time, again and again", "look at the control plane"),
}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def unreachable(server: str, reason: str) -> ClusterError:
    """The error for a server that gave no answer at all; ``reason`` is the network's or TLS's own."""
    lowered = reason.lower()
    if "certificate verify failed" in lowered or "certificate_verify_failed" in lowered:
        return ClusterError(
            f"the certificate of {server} is not trusted: {reason}",
            "the kubeconfig's certificate-authority must be the one that signed it: fetch a new kubeconfig",
        )
    if "ssl" in lowered or "alert" in lowered:
        return ClusterError(
            f"{server} and this machine agree on no TLS connection: {reason}",
            "it may want a client certificate, or another one: fetch a new kubeconfig",
        )
    return ClusterError(
        f"the Kubernetes API at {server} does not answer: {reason or 'no reason given'}",
        "check the server in the kubeconfig, the network, and HTTPS_PROXY and NO_PROXY",
    )

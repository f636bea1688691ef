"""The webhook's certificate in a Secret, long before its end replaced by another; all replicas agree on it.

A new one is first *announced*: it lies beside the old one, and the API servers are told to trust both.
Some minutes later, when every API server knows, it is served. Writes that another replica was faster
with are refused by the API server, and then everything is read anew.
"""

from __future__ import annotations

import base64
import enum
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cgpu.adapters.admission_server import CertificateFiles
from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_objects import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS, Kind, Object, ObjectClient
from cgpu.adapters.serving_certificates import Made, make, valid_until
from cgpu.errors import CgpuError, ClusterError

_LOG: Final = logging.getLogger(__name__)
RENEW_BEFORE: Final = timedelta(days=30)
ANNOUNCED: Final = timedelta(minutes=5)
_ROUND_S: Final = 10.0  # whoever takes the authority out of a configuration stops it for no longer than that
_ATTEMPTS: Final = 10
_ANNOUNCED_AT: Final = "cgpu.dev/announced-at"
_PAIR: Final = ("ca.crt", "tls.crt", "tls.key")
_NEXT: Final = ("next-ca.crt", "next.crt", "next.key")
_BEFORE: Final = "previous-ca.crt"


class Step(enum.Enum):
    """What is to be done with the Secret."""

    KEEP = enum.auto()
    MAKE = enum.auto()  # there is nothing that could be served
    ANNOUNCE = enum.auto()
    SERVE = enum.auto()  # what was announced


@dataclass(frozen=True, slots=True)
class Stored:
    """What the Secret holds."""

    data: Mapping[str, bytes]
    announced_at: datetime | None = None

    @property
    def trusted(self) -> bytes:
        """All authorities that API servers are to trust: a replica may still serve what was before."""
        parts = [self.data.get(name, b"") for name in (_PAIR[0], _NEXT[0], _BEFORE)]
        return b"".join(dict.fromkeys(part for part in parts if part))


def decide(stored: Stored, hosts: Sequence[str], now: datetime) -> Step:
    """The next step. Pure."""
    until = _until(stored, _PAIR, hosts)
    if until is None or until <= now:
        return Step.MAKE
    if _until(stored, _NEXT, hosts) is not None:
        waited = stored.announced_at is None or now - stored.announced_at >= ANNOUNCED
        return Step.SERVE if waited else Step.KEEP
    return Step.ANNOUNCE if until - now <= RENEW_BEFORE else Step.KEEP


def after(step: Step, stored: Stored, made: Made, now: datetime) -> Stored:
    """What the Secret holds after a step, for which ``made`` is a new certificate. Pure."""
    new = made.authority, made.certificate, made.key
    match step:
        case Step.MAKE:
            return Stored(dict(zip(_PAIR, new, strict=True)))
        case Step.ANNOUNCE:
            return Stored({**stored.data, **dict(zip(_NEXT, new, strict=True))}, now)
        case Step.SERVE:
            served = {name: stored.data[later] for name, later in zip(_PAIR, _NEXT, strict=True)}
            return Stored({**served, _BEFORE: stored.data[_PAIR[0]]})
        case Step.KEEP:
            return stored


class WebhookCertificates:
    """Of one replica. ``round`` before the server starts, then ``run`` in a thread."""

    def __init__(
        self,
        api: ObjectClient,
        namespace: str,
        secret: str,
        hosts: Sequence[str],
        files: CertificateFiles,
        configurations: tuple[str, str],
    ) -> None:
        """``configurations`` are the names of the mutating and the validating one, ``files`` what the server reads."""
        self._api = api
        self._namespace = namespace
        self._secret = secret
        self._hosts = hosts
        self._files = files
        self._configurations = tuple(zip((MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS), configurations, strict=True))
        self._stopping = threading.Event()

    def run(self) -> None:
        """Rounds until ``stop``. What fails is tried again in the next one."""
        while not self._stopping.wait(_ROUND_S):
            try:
                self.round(datetime.now(UTC))
            except (CgpuError, OSError) as error:
                _LOG.warning("the webhook's certificate is as it was: %s", error)

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def round(self, now: datetime) -> Step:
        """Bring Secret, configurations and files up to date. Raises ClusterError, OSError."""
        step, stored = self._settled(now)
        self._write(stored)
        for kind, name in self._configurations:
            self._trust(kind, name, stored.trusted)
        return step

    def _settled(self, now: datetime) -> tuple[Step, Stored]:
        for _ in range(_ATTEMPTS):
            found = self._api.get(SECRETS, self._namespace, self._secret)
            stored = _stored(found)
            step = decide(stored, self._hosts, now)
            if step is Step.KEEP:
                return step, stored
            wanted = after(step, stored, make(self._hosts, now), now)
            try:
                self._store(found, wanted)
            except ApiRefusedError as error:
                if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                    raise
                continue  # another replica was faster
            _LOG.info("the webhook's certificate: %s", step.name.lower())
            return step, wanted
        raise ClusterError(f"Secret {self._namespace}/{self._secret} changes all the time", "see who else writes it")

    def _store(self, found: Object | None, wanted: Stored) -> None:
        document: Object = found or {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": self._secret, "labels": {"app.kubernetes.io/name": "cgpu"}},
        }
        document["data"] = {name: base64.b64encode(value).decode() for name, value in wanted.data.items()}
        notes = dict(document["metadata"].get("annotations") or {})
        notes.pop(_ANNOUNCED_AT, None)
        if wanted.announced_at is not None:
            notes[_ANNOUNCED_AT] = wanted.announced_at.isoformat()
        document["metadata"]["annotations"] = notes
        if found is None:
            self._api.create(SECRETS, document, self._namespace)
        else:
            self._api.update(SECRETS, document, self._namespace)

    def _trust(self, kind: Kind, name: str, authorities: bytes) -> None:
        """Have the API servers trust these, in each of a configuration's webhooks."""
        bundle = base64.b64encode(authorities).decode()
        for _ in range(_ATTEMPTS):
            found = self._api.get(kind, "", name)
            if found is None:
                _LOG.warning("%s %s is not there: nothing calls this webhook", kind.plural, name)
                return
            clients = [webhook["clientConfig"] for webhook in found.get("webhooks") or ()]
            if all(client.get("caBundle") == bundle for client in clients):
                return
            for client in clients:
                client["caBundle"] = bundle
            try:
                self._api.update(kind, found)
            except ApiRefusedError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
            else:
                return

    def _write(self, stored: Stored) -> None:
        for path, name in ((self._files.key, "tls.key"), (self._files.certificate, "tls.crt")):
            if not path.exists() or path.read_bytes() != stored.data[name]:
                _replace(path, stored.data[name])


def _until(stored: Stored, fields: tuple[str, str, str], hosts: Sequence[str]) -> datetime | None:
    authority, certificate, key = (stored.data.get(name, b"") for name in fields)
    return valid_until(certificate, key, hosts) if authority else None


def _stored(found: Object | None) -> Stored:
    if found is None:
        return Stored({})
    data = {name: base64.b64decode(value) for name, value in (found.get("data") or {}).items()}
    text = (found["metadata"].get("annotations") or {}).get(_ANNOUNCED_AT, "")
    try:
        announced = datetime.fromisoformat(text)
    except ValueError:
        return Stored(data)
    return Stored(data, announced if announced.tzinfo else announced.replace(tzinfo=UTC))


def _replace(path: Path, content: bytes) -> None:
    """The whole content or the former; for nobody else to read."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.rename(path)

"""The process behind the webhook configurations: a server, what it depends on, and what keeps order beside it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cgpu.adapters.admission_server import AdmissionServer, CertificateFiles
from cgpu.adapters.kube_objects import ObjectClient
from cgpu.k8s.ack_pods import Rules
from cgpu.k8s.admission import Admission, Mirrors
from cgpu.k8s.claim_check import CLASSES
from cgpu.k8s.quota_keeper import QuotaKeeper
from cgpu.k8s.template_keeper import TemplateKeeper

_LOG: Final = logging.getLogger(__name__)
_SYNC_S: Final = 60.0


class Background(Protocol):
    """Something that runs in a thread of its own until it is stopped."""

    def run(self) -> None:
        """Work."""

    def stop(self) -> None:
        """End ``run`` soon."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where and with what certificate."""

    address: str
    port: int
    files: CertificateFiles

    @classmethod
    def in_folder(cls, address: str, port: int, folder: Path) -> Serving:
        """With the files that a mounted Secret of type kubernetes.io/tls has."""
        return cls(address, port, CertificateFiles(folder / "tls.crt", folder / "tls.key"))


def serve(
    api: ObjectClient,
    rules: Rules,
    own_namespace: str,
    serving: Serving,
    wait: Callable[[], object],
    certificates: Background | None = None,
    classes: Collection[str] = CLASSES,
) -> None:
    """Answer until ``wait`` returns.

    Args:
        api: of the cluster.
        rules: the administrator's.
        own_namespace: where the reservations of quotas are kept.
        serving: where and with what certificate.
        wait: returns when it is to end.
        certificates: keeps the certificate, where nobody else does.
        classes: the DeviceClasses of our cards.

    Raises ClusterError: the cluster does not answer, or the address or certificate cannot be used.
    """
    mirrors = Mirrors(api)
    quotas = QuotaKeeper(api, own_namespace, classes)
    admission = Admission(rules, mirrors, TemplateKeeper(api), quotas, classes)
    with contextlib.ExitStack() as undo:
        undo.callback(api.close)
        undo.callback(mirrors.stop)
        undo.callback(quotas.stop)
        mirrors.start(_SYNC_S)
        if certificates is not None:
            undo.callback(certificates.stop)
            threading.Thread(target=certificates.run, name="certificates", daemon=True).start()
        server = AdmissionServer(serving.address, serving.port, serving.files, admission.handle)
        thread = threading.Thread(target=server.serve_forever, name="webhook")
        thread.start()
        _LOG.info("answering on %s:%d", serving.address, server.server_port)
        try:
            wait()
        finally:
            server.end()
            thread.join()

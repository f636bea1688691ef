"""Sees to it that the templates are there that pods are about to name."""

from __future__ import annotations

import threading
import time
from http import HTTPStatus
from typing import Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_objects import CLAIM_TEMPLATES, Object, ObjectClient
from cgpu.errors import ClusterError
from cgpu.k8s import names
from cgpu.k8s.templates import Share, check_content, template

TRUSTED_S: Final = 60.0
"""For so long a template that was there is taken to be there. The collector waits ten times as long."""

_ATTEMPTS: Final = 5
_KEPT_MAX: Final = 10_000


class TemplateKeeper:
    """Safe for several threads; several of them in several processes do not disturb each other."""

    def __init__(self, api: ObjectClient) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], float] = {}

    def ensure(self, share: Share, namespace: str, *, dry_run: bool = False) -> None:
        """Make the share's template where it is missing (in a dry run only look).

        Raises ClaimError: there is another of its name, or the API server cannot store it; ClusterError.
        """
        wanted = template(share, namespace)
        key = namespace, wanted["metadata"]["name"]
        with self._lock:
            if time.monotonic() - self._seen.get(key, float("-inf")) < TRUSTED_S:
                return
        if not self._ensure(wanted, dry_run=dry_run):
            return
        with self._lock:
            if len(self._seen) >= _KEPT_MAX:
                self._seen.clear()
            self._seen[key] = time.monotonic()

    def _ensure(self, wanted: Object, *, dry_run: bool) -> bool:
        """Whether it is there now."""
        namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
        for _ in range(_ATTEMPTS):
            found = self._api.get(CLAIM_TEMPLATES, namespace, name)
            if found is None and dry_run:
                return False
            try:
                if found is None:
                    found = self._api.create(CLAIM_TEMPLATES, wanted, namespace)
                check_content(wanted, found)
                if dry_run:
                    return False
                if names.UNUSED_SINCE in (found["metadata"].get("annotations") or {}):
                    # The collector deletes only what is as it has seen it.
                    patch = {"metadata": {"annotations": {names.UNUSED_SINCE: None}}}
                    self._api.merge(CLAIM_TEMPLATES, namespace, name, patch)
            except ApiRefusedError as error:
                # Another replica has made it, or the collector has just deleted it.
                if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND) or _is_namespace(error):
                    raise
            else:
                return True
        raise ClusterError(f"ResourceClaimTemplate {namespace}/{name} comes and goes", "try again")


def _is_namespace(error: ApiRefusedError) -> bool:
    return "namespaces" in error.message

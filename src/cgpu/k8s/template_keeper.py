"""Sees to it that the templates are there that pods are about to name."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_objects import CLAIM_TEMPLATES, Object, ObjectClient
from cgpu.errors import CgpuError, ClusterError
from cgpu.k8s import names
from cgpu.k8s.templates import Share, check_content, template

_LOG: Final = logging.getLogger(__name__)
TRUSTED_S: Final = 60.0
"""For so long a template that was there is taken to be there."""

STALE_S: Final = 180.0
"""And for so long while it is looked for again, for which no review waits. The collector waits three times as long."""

_ATTEMPTS: Final = 5
_KEPT_MAX: Final = 10_000


class TemplateKeeper:
    """Safe for several threads; several of them in several processes do not disturb each other."""

    def __init__(self, api: ObjectClient, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` counts seconds."""
        self._api = api
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], float] = {}
        self._looking: set[tuple[str, str]] = set()

    def ensure(self, share: Share, namespace: str, *, dry_run: bool = False) -> None:
        """Make the share's template where it is missing (in a dry run only look).

        Raises ClaimError: there is another of its name, or the API server cannot store it; ClusterError.
        """
        wanted = template(share, namespace)
        key = namespace, wanted["metadata"]["name"]
        with self._lock:
            age_s = self._clock() - self._seen.get(key, float("-inf"))
            looks = not dry_run and TRUSTED_S <= age_s < STALE_S and key not in self._looking
            if looks:
                self._looking.add(key)
        if looks:
            threading.Thread(target=self._look_again, args=(key, wanted), name="template", daemon=True).start()
        if age_s >= STALE_S and self._ensure(wanted, dry_run=dry_run):
            self._note(key)

    def _look_again(self, key: tuple[str, str], wanted: Object) -> None:
        try:
            if self._ensure(wanted, dry_run=False):
                self._note(key)
        except ClusterError as error:
            _LOG.warning("template %s/%s: %s", *key, error)
        except CgpuError:
            with self._lock:
                self._seen.pop(key, None)  # the next review finds out, and says it
        finally:
            with self._lock:
                self._looking.discard(key)

    def _note(self, key: tuple[str, str]) -> None:
        with self._lock:
            if len(self._seen) >= _KEPT_MAX:
                self._seen.clear()
            self._seen[key] = self._clock()

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

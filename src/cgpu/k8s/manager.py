"""Whose a node's cards are, as it was found last; told in the log and on the Node whenever that changes."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_objects import EVENTS, Object, ObjectClient
from cgpu.errors import ClusterError, RefusedError
from cgpu.k8s import node_event
from cgpu.k8s.foreign import REMEDY
from cgpu.k8s.node_event import Reason

_LOG: Final = logging.getLogger(__name__)
_FIRST_LOOK_S: Final = 10.0  # a claim that comes at the agent's start waits for the first look, no longer
_RESUMED: Final = "nobody else manages the GPUs of this node any more: cgpu offers them again"


class Manager:
    """``found`` is called by one thread, everything else by any."""

    def __init__(self, api: ObjectClient) -> None:
        self._api = api
        self._other = ""
        self._looked = threading.Event()
        self._untold: Object | None = None  # an event that has to be written yet

    def wait(self) -> None:
        """Until the first look after the start, some seconds at most."""
        self._looked.wait(_FIRST_LOOK_S)

    def check(self) -> None:
        """Raises RefusedError where new pods must not get a card of this node."""
        self.wait()
        if self._other:
            raise RefusedError(f"cgpu gives out no share on this node: {self._other}", REMEDY)

    def found(self, node: Object, other: str) -> None:
        """What a look has found, in the words of ``managed_by``; an event where it is not what was found before.

        The first event after the agent's start has the name that it had before: nothing is said twice.
        """
        before, self._other = self._other, other
        is_first = not self._looked.is_set()
        self._looked.set()
        if other != before:
            self._note(node, other, "" if is_first else datetime.now(UTC).isoformat())
        self._tell()

    def _note(self, node: Object, other: str, occasion: str) -> None:
        if other:
            _LOG.warning("node %s: its GPUs are not offered: %s; %s", node["metadata"]["name"], other, REMEDY)
            note = f"cgpu does not offer the GPUs of this node: {other}; {REMEDY}"
            self._untold = node_event.document(node, Reason.REFUSED, note, occasion)
        else:
            _LOG.info("node %s: %s", node["metadata"]["name"], _RESUMED)
            self._untold = node_event.document(node, Reason.RESUMED, _RESUMED, occasion)

    def left_alone(self) -> None:
        """The node's labels ask for nothing: whose its cards are is no matter, and not told."""
        self._other = ""
        self._looked.set()

    def _tell(self) -> None:
        """Write what has to be written; what the API server does not take now is tried again at the next look."""
        if self._untold is None:
            return
        try:
            self._api.create(EVENTS, self._untold, node_event.NAMESPACE)
        except ClusterError as error:  # the slices are what matters
            if not isinstance(error, ApiRefusedError) or error.status != HTTPStatus.CONFLICT:
                _LOG.warning("the event on node %s is not written: %s", self._untold["regarding"]["name"], error)
                return
        self._untold = None

"""Keeps watch over the node's cards: which of them are well, and tells at once when that changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cgpu.errors import DriverError
from cgpu.model.card_health import Ailment, CardLook, ailment_of, counting_xids, with_xid
from cgpu.model.tenant import Gpu

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 2.0  # an Xid is told at once; that a card is back, or does not answer, is only seen by asking


class CardSource(Protocol):
    """The driver."""

    def look(self, gpu: Gpu) -> CardLook:
        """What it says of the card now."""

    def wait_xid(self, seconds: float) -> tuple[str, int] | None:
        """The next Xid of any card, by the card's UUID; None when there was none in that time. Raises DriverError."""


class HealthWatch:
    """A thread of its own between ``start`` and ``stop``; ``ailment`` is asked by any."""

    def __init__(self, source: CardSource, gpus: Sequence[Gpu], changed: Callable[[], None]) -> None:
        """``changed`` is called after what is wrong with a card has changed."""
        self._source = source
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._changed = changed
        self._looks = dict.fromkeys(self._gpus, CardLook())
        self._xids: dict[str, tuple[int, ...]] = dict.fromkeys(self._gpus, ())
        self._ailments: dict[str, Ailment | None] = dict.fromkeys(self._gpus)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health of the cards", daemon=True)

    def start(self) -> None:
        """Look once, and go on in a thread. Xids are told from now on: the driver keeps none for who asks later."""
        self._take_xid(0.0)
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End it; it takes no longer than a look."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def ailment(self, uuid: str) -> Ailment | None:
        """What is wrong with a card; None: nothing."""
        return self._ailments.get(uuid)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._take_xid(_LOOK_S)
            self.look()

    def _take_xid(self, seconds: float) -> None:
        try:
            told = self._source.wait_xid(seconds)
        except DriverError:  # a lost card may fail the wait for all; the look says which
            told = None
            self._stopping.wait(seconds)
        if told is not None and told[0] in self._xids:
            uuid, xid = told
            _LOG.warning("GPU %d (%s): Xid %d", self._gpus[uuid].index, uuid, xid)
            self._xids[uuid] = with_xid(self._xids[uuid], xid)

    def look(self) -> None:
        """Ask the driver for every card, and tell what has changed."""
        before = dict(self._ailments)
        for uuid, gpu in self._gpus.items():
            look = self._source.look(gpu)
            self._xids[uuid] = counting_xids(self._xids[uuid], self._looks[uuid], look)
            self._looks[uuid] = look
            self._ailments[uuid] = ailment_of(look, self._xids[uuid])
        for uuid in (uuid for uuid in self._gpus if self._ailments[uuid] != before[uuid]):
            ailment = self._ailments[uuid]
            _LOG.warning("GPU %d (%s): %s", self._gpus[uuid].index, uuid, ailment.message if ailment else "well again")
        if self._ailments != before:
            self._changed()

"""Claims of nodes whose cards are shared without limits (label ``share``): which there are, and what they have.

Such a claim gets no tenant: the node would promise what nothing keeps. What is left of it here is one file per
claim, beside the views of those that have some. It tells that the claim was prepared this way, whatever
the node's label says by now, and how much the scheduler has given away of each card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cgpu.adapters.host_files import replace_file
from cgpu.errors import StateError
from cgpu.model.tenant import Tenant

_FILE: Final = "unlimited.json"
_MODE: Final = 0o600
_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class UnlimitedClaims:
    """``folder`` has a folder for each claim, by its uid; whoever takes a claim back removes that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, uid: str) -> bool:
        """Whether the claim was prepared this way."""
        return self._file(uid).exists()

    def add(self, uid: str, requests: Iterable[Tenant]) -> None:
        """Note a claim and what its requests would have as tenants. Raises StateError."""
        memory: dict[str, int] = {}
        for share in (share for tenant in requests for share in tenant.shares):
            memory[share.gpu_uuid] = memory.get(share.gpu_uuid, 0) + share.memory_bytes
        path = self._file(uid)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps({"memory_bytes": memory}).encode(), _MODE, durable=False)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}", "it has to be writable") from error

    def memory_bytes(self) -> dict[str, int]:
        """What all of them have been given, by the card's UUID. Nothing holds them to it."""
        found: dict[str, int] = {}
        for path in self._folder.glob(f"*/{_FILE}"):
            try:
                memory = json.loads(path.read_bytes())["memory_bytes"]
                amounts = {uuid: int(amount) for uuid, amount in memory.items()}
            except (OSError, *_UNREADABLE):  # it goes just now, or somebody has written into it
                continue
            for uuid, amount in amounts.items():
                found[uuid] = found.get(uuid, 0) + amount
        return found

    def _file(self, uid: str) -> Path:
        return self._folder / uid / _FILE

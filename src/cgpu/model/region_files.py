"""The files of a tenant's region, the folder through which agent and tenant share memory.

``native/include/region.h`` says what is in each of them.
"""

from __future__ import annotations

from typing import Final

GRANTS: Final = "grants"
"""Flows down: the tenant maps it read-only."""

USAGE: Final = "usage"
"""Flows up: the tenant writes it."""

LOCKS: Final = "locks"
"""Never mapped: byte N is locked by the process that owns slot N."""

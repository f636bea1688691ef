"""One agent takes over from another: what is there before and after, compared. And who can start an agent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cgpu.adapters.agent_client import AgentClient, NoAgentError
from cgpu.adapters.host.systemd import SystemdService
from cgpu.cli.hand_service import HandService

_WISH: Final = ("memory_bytes", "compute_percent", "compute_limit_percent", "weight", "priority")

Wish = dict[str, tuple[Any, ...]]
"""What a tenant is to have, by the UUID of the GPU."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An agent that answers, and its tenants."""

    pid: int
    version: str
    private: bool
    tenants: dict[str, Wish]


def look(client: AgentClient) -> Seen | None:
    """The agent as it is now; None where none runs. Raises AgentError for one that does not answer."""
    try:
        info, tenants = client.get("/v1/info"), client.get("/v1/tenants")
    except NoAgentError:
        return None
    return Seen(info["pid"], info["version"], info["private"], {row["id"]: _wish(row) for row in tenants})


def lost(before: Seen, after: Seen, still_there: Callable[[str], bool]) -> list[str]:
    """What the second agent does not know, or knows otherwise, of the first one's tenants; in words.

    ``still_there``: whether the region of a tenant is; one that has ended meanwhile has none.
    """
    missing = [tenant for tenant in before.tenants if tenant not in after.tenants and still_there(tenant)]
    changed = [tenant for tenant, wish in before.tenants.items() if after.tenants.get(tenant, wish) != wish]
    return [f"tenant {tenant} is not known" for tenant in missing] + [
        f"tenant {tenant} has another share" for tenant in changed
    ]


class Service(Protocol):
    """Who starts the agent of the version in use. Each raises CgpuError with what kept it from starting."""

    def restart(self) -> None:
        """End the agent and start the new version's."""
        ...

    def go_back(self) -> None:
        """Start the old version's again, whatever runs now."""
        ...


class UnderSystemd:
    """The unit: the version in use is where its link leads."""

    def restart(self) -> None:
        """See ``Service``."""
        SystemdService().restart()

    def go_back(self) -> None:
        """See ``Service``."""
        SystemdService().restart()


class ByHand:
    """An agent that somebody started."""

    def __init__(self, agent: HandService, command: Path, running: Callable[[], int | None]) -> None:
        """``command``: the `cgpu` of the version in use; ``running``: the pid of the agent that answers."""
        self._agent = agent
        self._command = command
        self._running = running

    def restart(self) -> None:
        """See ``Service``."""
        self._agent.restart(self._command)

    def go_back(self) -> None:
        """See ``Service``."""
        self._agent.go_back(self._running())


def _wish(tenant: dict[str, Any]) -> Wish:
    return {share["gpu_uuid"]: tuple(share[name] for name in _WISH) for share in tenant["shares"]}

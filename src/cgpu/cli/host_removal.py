"""The end of an installation. Everything is imported when this module is: the modules may be among what goes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cgpu.adapters.agent_client import AgentClient
from cgpu.adapters.host import systemd
from cgpu.adapters.host.layout import PROGRAMS, HostLayout
from cgpu.adapters.host.leftovers import leftovers
from cgpu.adapters.host.unit import is_ours
from cgpu.adapters.host_files import Change, carry_out
from cgpu.agent.living import living_tenants
from cgpu.agent.locks import agent_has_ended
from cgpu.cli.hand_service import end_process, program_of
from cgpu.cli.host_engines import engines_of
from cgpu.cli.install import service_settings, settings_below
from cgpu.cli.takeover import look
from cgpu.errors import RefusedError

_ROOT: Final = Path("/")
_END_SECONDS: Final = 30.0
_NAMED: Final = 5  # tenants that a message names


class Removal:
    """One host, as it is before."""

    def __init__(self, layout: HostLayout) -> None:
        """Look. Where ``layout`` is not of this host as it runs, no agent is asked."""
        self._layout = layout
        self._live = layout.root == _ROOT
        self._settings = settings = settings_below(layout, service_settings(layout))
        self._seen = look(AgentClient(settings.agent_socket, settings.agent_answer_seconds)) if self._live else None
        self._tenants = living_tenants(settings) if self._seen is None else tuple(self._seen.tenants)
        self._engines = engines_of(layout)

    def refuse(self) -> None:
        """Raises RefusedError while somebody needs the installation."""
        tenants, engines = self._tenants, self._engines
        if tenants:
            names = ", ".join(tenants[:_NAMED]) + (", ..." if len(tenants) > _NAMED else "")
            raise RefusedError(
                f"tenants run here ({len(tenants)}): {names}", "end them first, or leave them without an agent: --force"
            )
        if engines:
            ways = "; ".join(f"cgpu runtime uninstall --engine {name}" for name in engines)
            raise RefusedError(
                f"the runtime `cgpu` of {', '.join(engines)} needs this installation", f"{ways}; or --force"
            )

    def carry_out(self, *, purge: bool, dry_run: bool) -> list[str]:
        """Do it, or only say what would be done. Living tenants keep what they need."""
        lines = self._stop(dry_run=dry_run) if self._live else []
        changes: list[Change] = []
        # Without a lock there was no agent; with one, an agent stops answering a moment before it has ended.
        lock = self._settings.agent_lock
        if not self._live or dry_run or not lock.exists() or agent_has_ended(lock, _END_SECONDS):
            changes += leftovers(self._settings, tenants=not self._tenants, ledger=purge)
        changes += self._layout.remove(tenants=bool(self._tenants))
        lines += carry_out(changes, dry_run=dry_run)
        if self._live and lines and not dry_run and systemd.runs_here():
            systemd.SystemdService().forget()
        return lines

    def notes(self) -> list[str]:
        """What is left, and why."""
        notes = []
        if self._tenants:
            notes.append(
                f"tenants that run on: {len(self._tenants)}; kept for them: {PROGRAMS}, {self._settings.tenants_dir}"
                " and the libraries beside it; repeat this after their end"
            )
        notes += [f"broken until `cgpu runtime uninstall --engine {name}`: the runtime cgpu" for name in self._engines]
        if self._settings.account.exists():
            notes.append(f"kept: {self._settings.account}, the ledger of time; --purge removes it")
        unit = self._layout.unit_now()
        if unit is not None and not is_ours(unit):
            notes.append(f"kept: {self._layout.unit}, which is not from `cgpu install`")
        return notes

    def _stop(self, *, dry_run: bool) -> list[str]:
        """End the service's agent, or one that was started by hand from what is going to be removed."""
        unit = systemd.SystemdService() if systemd.runs_here() else None
        if unit is not None and unit.main_pid() is not None:
            if not dry_run:
                unit.stop()
            return ["stop cgpu-agent.service"]
        program = None if self._seen is None else program_of(self._seen.pid)
        if self._seen is None or program is None or not program.is_relative_to(PROGRAMS):
            return []
        if not dry_run:
            end_process(self._seen.pid)
        return [f"end the agent (pid {self._seen.pid})"]

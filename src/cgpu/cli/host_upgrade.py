"""The step from one installed version to the next: looked at, made, compared, and taken back where it fails."""

from __future__ import annotations

from collections.abc import Sequence

from cgpu.adapters.agent_client import AgentClient
from cgpu.adapters.host import systemd
from cgpu.adapters.host.layout import CURRENT, PROGRAMS, HostLayout
from cgpu.adapters.host.program import COMMAND, PYTHON, Program
from cgpu.adapters.host_files import Change, Link, Write, carry_out
from cgpu.agent.living import living_tenants, obstacles
from cgpu.cli.hand_service import HandService, program_of
from cgpu.cli.install import agent_of, refuse_agent_by_hand
from cgpu.cli.takeover import ByHand, Seen, Service, UnderSystemd, look, lost
from cgpu.errors import AgentError, CgpuError, RefusedError
from cgpu.settings import Settings


class Upgrade:
    """What there is before, and the step from one version to the next."""

    def __init__(self, layout: HostLayout, program: Program, service: Settings, *, live: bool) -> None:
        """Look; refuse, before anything is changed, what could not be taken over. ``live``: this host, now."""
        self.notes: list[str] = []
        self._layout = layout
        self._program = program
        self._settings = service
        self._client = AgentClient(service.agent_socket, service.agent_answer_seconds)
        self._seen = look(self._client) if live else None
        self._old = self._version_before()
        self._manager = self._find_manager() if live else None
        self._live = live
        if live:
            self._refuse_obstacles()

    def switch(self, *, dry_run: bool) -> tuple[str, ...]:
        """Make the new version the one in use, and have its agent take over. Raises AgentError when it does not."""
        changes = self._layout.switch(self._program.name, self._settings)
        unit = self._layout.unit_now()
        lines = carry_out(changes, dry_run=dry_run)
        if self._manager is None:
            self.notes.append("no agent runs, so none was restarted" if self._live else "no agent was restarted")
            return lines
        if not lines and self._is_of_program(self._seen):
            return lines
        if not dry_run:
            before = [] if unit is None else [Write(self._layout.unit, unit.encode())]
            self._take_over([*before, Link(changes[-1].path, self._old)])
        return (*lines, "restart the agent")

    def obsolete(self) -> list[Change]:
        """The versions that nobody needs any more. A tenant may load a library of the one that it began with."""
        others = self._layout.others(self._program.name)
        if not others or not self._live:
            return others
        tenants: Sequence[str] = tuple(self._seen.tenants) if self._seen else living_tenants(self._settings)
        if tenants:
            names = ", ".join(change.path.name for change in others)
            self.notes.append(f"kept for the tenants that run: {names}; `cgpu upgrade` removes it once they have ended")
            return []
        return others

    def _take_over(self, back: Sequence[Change]) -> None:
        assert self._manager is not None
        try:
            self._manager.restart()
            self._compare()
        except CgpuError as error:
            carry_out(back, dry_run=False)
            try:
                self._manager.go_back()
            except CgpuError as second:
                raise AgentError(
                    f"{self._program.name} did not take over ({error.message}), and {self._old} does not start"
                    f" ({second.message})",
                    "the tenants run on by themselves; start an agent: /opt/cgpu/current/bin/cgpu agent",
                ) from error
            raise AgentError(
                f"{self._program.name} did not take over: {error.message}", f"{self._old} runs again; {error.remedy}"
            ) from error

    def _compare(self) -> None:
        """Raises AgentError where the agent that answers is not the new one, or lacks a tenant."""
        after = look(self._client)
        if after is None or not self._is_of_program(after):
            answer = "no agent" if after is None else f"an agent of version {after.version}, pid {after.pid},"
            raise AgentError(f"{answer} answers at {self._settings.agent_socket}", "see its log")
        folder = self._settings.tenants_dir
        faults = lost(self._seen, after, lambda tenant: (folder / tenant).exists()) if self._seen else []
        if faults:
            raise AgentError("; ".join(faults), "see the new agent's log")
        version = f"{self._seen.version} (pid {self._seen.pid})" if self._seen else "none"
        self.notes.append(
            f"agent: {version} -> {after.version} (pid {after.pid}), tenants as before: {len(after.tenants)}"
        )
        self._seen = after

    def _version_before(self) -> str:
        """The version that the agent runs; without one, or with another's, the one that the link leads to."""
        program = None if self._seen is None else program_of(self._seen.pid)
        if program is not None and program.is_relative_to(PROGRAMS):
            return program.relative_to(PROGRAMS).parts[0]
        return self._layout.current or ""

    def _is_of_program(self, seen: Seen | None) -> bool:
        """Whether an agent was started from the new version's own folder."""
        return seen is not None and program_of(seen.pid) == PROGRAMS / self._program.name / PYTHON

    def _find_manager(self) -> Service | None:
        """Who is to start the agent; None where none runs, nor is to. Raises RefusedError where that is unclear."""
        if self._seen is not None and self._seen.private:
            raise RefusedError(
                f"a private agent runs here (pid {self._seen.pid})", "it ends with its last tenant; repeat this then"
            )
        if systemd.runs_here():
            refuse_agent_by_hand(self._settings)
            return UnderSystemd() if systemd.SystemdService().is_wanted() else None
        if self._seen is None:
            return None
        agent = HandService(self._seen.pid, self._settings)
        return ByHand(agent, CURRENT / COMMAND, lambda: agent_of(self._settings))

    def _refuse_obstacles(self) -> None:
        found = obstacles(self._settings)
        if found:
            names = "; ".join(f"{one.what}: {one.reason}" for one in found)
            raise RefusedError(
                f"{self._program.name} could not take over what runs here: {names}",
                "end these tenants first (cgpu ps), or take a version of the same layout; nothing was changed",
            )

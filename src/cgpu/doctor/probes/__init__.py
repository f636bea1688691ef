"""Reading the facts of a node from its files, from read-only commands and, only when asked, from the cloud."""

from __future__ import annotations

from cgpu.doctor.probes.commands import COMMANDS, OUTPUTS, Command, CommandRunner, HostCommands
from cgpu.doctor.probes.files import PROBE_FILES, Collected, collected
from cgpu.doctor.probes.probe import probe_node

__all__ = [
    "COMMANDS",
    "OUTPUTS",
    "PROBE_FILES",
    "Collected",
    "Command",
    "CommandRunner",
    "HostCommands",
    "collected",
    "probe_node",
]

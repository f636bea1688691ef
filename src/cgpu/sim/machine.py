"""A simulated machine: a folder that any number of processes share as if it were their hardware."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.adapters.native import SIMULATED_CUDA, native_library
from cgpu.errors import StateError, UsageError
from cgpu.sim import control
from cgpu.sim.control import Fault
from cgpu.sim.profiles import load_profile
from cgpu.sim.status import MachineStatus

_STATE: Final = "state"
_ENOUGH_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class SimMachine:
    """One simulated machine. All its output is simulated, and says so."""

    folder: Path

    @classmethod
    def create(
        cls, folder: Path, profile: str = "t4", *, driver: str | None = None, cards: int | None = None
    ) -> SimMachine:
        """Make a machine in a folder, or find the one that is there (the profile is then not looked at).

        Args:
            folder: its state folder; made when missing.
            profile: a name of ``profile_names()``, or the path of a ``.toml`` file.
            driver: driver version instead of the profile's, 460.x to 62x.x.
            cards: number of cards instead of the profile's, 1 to 16.

        Raises:
            UsageError: there is no such profile.
            StateError: the profile has an error, or the folder cannot be used.
        """
        control.create(folder, load_profile(profile).path, driver, cards)
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> SimMachine:
        """The machine in a folder. Raises StateError when there is none."""
        if not (folder / _STATE).is_file():
            raise StateError(f"{folder} holds no simulated machine", "make one: cgpu sim create")
        return cls(folder)

    @classmethod
    def of_profile(cls, profile: str) -> SimMachine:
        """This user's machine of that profile in the default place, made if need be."""
        return cls.create(machines_folder() / load_profile(profile).name, profile)

    def environment(self, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables that put a process on this machine: its folder, and its driver's libraries."""
        inherited = os.environ if inherited is None else inherited
        libraries = str(native_library(SIMULATED_CUDA).parent)
        rest = [path for path in inherited.get("LD_LIBRARY_PATH", "").split(":") if path and path != libraries]
        return {"CGPU_SIM_STATE": str(self.folder.resolve()), "LD_LIBRARY_PATH": ":".join([libraries, *rest])}

    def status(self) -> MachineStatus:
        """The truth about memory and time, per card, process and cgroup."""
        return MachineStatus.from_json(control.status_json(self.folder))

    def status_json(self) -> str:
        """The same as a JSON document."""
        return control.status_json(self.folder)

    def fault(self, card: int, fault: Fault, value: int) -> None:
        """Make a fault happen, or end it. Raises UsageError for a negative value."""
        if value < 0:
            raise UsageError(f"the value of a fault is not negative: {value}")
        control.set_fault(self.folder, card, fault, value)

    def set_memory_limit(self, card: int, cgroup: str, hard_bytes: int, soft_bytes: int = 0) -> None:
        """Limit the device memory of a cgroup and those below it, as driver r615 does; 0 is none."""
        control.set_limit(self.folder, card, cgroup, hard_bytes, soft_bytes)

    def remove(self) -> None:
        """Delete the machine. Processes on it keep what they have mapped; new ones do not find it."""
        type(self).open(self.folder)
        shutil.rmtree(self.folder)


def machines_folder() -> Path:
    """Where this user's machines are by default: in memory where that has room, else on disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and _size_bytes(memory) >= _ENOUGH_BYTES
    folder = (memory if roomy else Path(tempfile.gettempdir())) / f"cgpu-sim-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StateError(f"{folder} belongs to somebody else")
    return folder


def machines() -> tuple[SimMachine, ...]:
    """This user's machines in the default place."""
    return tuple(SimMachine(state.parent) for state in sorted(machines_folder().glob(f"*/{_STATE}")))


def _size_bytes(folder: Path) -> int:
    volume = os.statvfs(folder)
    return volume.f_blocks * volume.f_frsize

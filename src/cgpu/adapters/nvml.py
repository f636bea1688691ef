"""The GPUs of this node as NVML tells of them: the only importer of ``pynvml``.

On a simulated machine the same functions are answered by the simulated ``libnvidia-ml.so.1``. It
is opened by path before ``pynvml`` asks for the soname, which then finds the one already loaded; so is
the driver's own where the loader does not look for it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import pynvml

from cgpu.adapters.native import SIMULATED_NVML, native_library
from cgpu.errors import DriverError
from cgpu.model.card_health import CardLook
from cgpu.model.tenant import Gpu

_Answer = TypeVar("_Answer")
_PERCENT: Final = 100
_PROCESSES_ROOM: Final = 64  # on one card, before there has to be more
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that has a context on a GPU."""

    host_pid: int
    memory_bytes: int | None  # None: the driver does not say


class CardQuestions(NamedTuple):
    """Addresses, in this process: of a card's handle, and of NVML's functions to ask about it."""

    device: int
    lists: tuple[int, ...]
    """``nvmlDeviceGet*RunningProcesses_v2`` or later."""
    memory: int
    """``nvmlDeviceGetMemoryInfo``."""


class NvmlNode:
    """NVML of one machine, initialised for the life of the object."""

    def __init__(self, sim_state: Path | None = None, library: Path | None = None) -> None:
        """``sim_state``: the state folder when the machine is a simulated one. Raises DriverError.

        ``library``: NVML's, where the loader would not find it.
        """
        self._sim = sim_state is not None
        library = native_library(SIMULATED_NVML) if self._sim else library
        if library is not None:
            try:
                ctypes.CDLL(str(library))
            except OSError as error:
                raise DriverError(f"NVML cannot be loaded: {error}") from error
        _ask("nvmlInit", pynvml.nvmlInit)
        self._handles: dict[int, Any] = {}
        self._lists: dict[int, tuple[_ProcessList, ...]] = {}  # by index: computing, drawing
        self._gpus = tuple(self._found())
        self._events: Any = None  # a set, once somebody waits for Xids
        self._silent = set(self._handles)  # cards whose Xids are not in the set

    def close(self) -> None:
        """Release NVML. Nobody waits for Xids any more."""
        if self._events is not None:
            _ask("nvmlEventSetFree", pynvml.nvmlEventSetFree, self._events)
        _ask("nvmlShutdown", pynvml.nvmlShutdown)

    def gpus(self) -> tuple[Gpu, ...]:
        """All cards, in NVML's order."""
        return self._gpus

    def driver_version(self) -> str:
        """Such as ``550.163.01``."""
        return str(_ask("nvmlSystemGetDriverVersion", pynvml.nvmlSystemGetDriverVersion))

    def used_bytes(self, gpu: Gpu) -> int:
        """Memory of the card that is in use by anybody, the driver itself included."""
        return int(_ask("nvmlDeviceGetMemoryInfo", pynvml.nvmlDeviceGetMemoryInfo, self._handles[gpu.index]).used)

    def driver_reserved_bytes(self, gpu: Gpu) -> int:
        """Memory of the card that the driver keeps for itself and nobody can have; 0 where it does not tell."""
        info: Any = _optional(
            "nvmlDeviceGetMemoryInfo_v2",
            None,
            pynvml.nvmlDeviceGetMemoryInfo,
            self._handles[gpu.index],
            pynvml.nvmlMemory_v2,
        )
        return 0 if info is None else int(info.reserved)

    def questions(self, gpu: Gpu) -> CardQuestions:
        """What ``processes`` and ``used_bytes`` ask, for the library to ask. Raises DriverError."""
        return CardQuestions(
            _address(self._handles[gpu.index]) or 0,
            tuple(of_kind.address for of_kind in self._lists_of(gpu)),
            _address(pynvml.nvmlLib.nvmlDeviceGetMemoryInfo) or 0,
        )

    def processes(self, gpu: Gpu) -> tuple[GpuProcess, ...]:
        """The processes on the card, by their pids as this process's PID namespace has them.

        For one thread at a time. The same answer is the same tuple.
        """
        computing, drawing = (of_kind.ask() for of_kind in self._lists_of(gpu))
        if not drawing:
            return computing
        return tuple({row.host_pid: row for row in (*computing, *drawing)}.values())

    def _lists_of(self, gpu: Gpu) -> tuple[_ProcessList, ...]:
        lists = self._lists.get(gpu.index)
        if lists is None:
            kinds = ("Compute", "Graphics")
            lists = self._lists[gpu.index] = tuple(_ProcessList(kind, self._handles[gpu.index]) for kind in kinds)
        return lists

    def limits_memory(self, gpu: Gpu, cgroup: Path) -> bool:
        """Whether the driver can limit the card's memory for a cgroup: r615 and later, with cgroup v2.

        ``cgroup`` is the folder of any that exists. A driver that fails to answer cannot.
        """
        limits = pynvml.c_nvmlGetMemoryLimits_v1_t(nameSpace=os.fsencode(cgroup))
        try:
            _ask(
                "nvmlDeviceGetMemoryLimits_v1",
                pynvml.nvmlDeviceGetMemoryLimits_v1,
                self._handles[gpu.index],
                limits,
            )
        except DriverError:
            return False
        return True

    def set_memory_limit(self, gpu: Gpu, cgroup: Path, soft_bytes: int, hard_bytes: int | None) -> None:
        """Limit what a cgroup's processes hold of the card. Raises DriverError.

        Args:
            gpu: the card.
            cgroup: folder of the cgroup.
            soft_bytes: kept for it; what its ancestors keep goes with it, unless it is 0 when the cgroup is deleted.
            hard_bytes: the most that it may have; None: no limit.
        """
        limits = pynvml.c_nvmlSetMemoryLimits_v1_t(
            nameSpace=os.fsencode(cgroup),
            softLimit=soft_bytes,
            hardLimit=pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX if hard_bytes is None else hard_bytes,
        )
        try:
            _ask(
                "nvmlDeviceSetMemoryLimits_v1",
                pynvml.nvmlDeviceSetMemoryLimits_v1,
                self._handles[gpu.index],
                limits,
            )
        except DriverError as error:
            raise DriverError(
                f"GPU {gpu.index} ({gpu.uuid}): the memory of cgroup {cgroup} cannot be limited: {error.message}",
                "see the kernel's log for the driver's own words",
            ) from error

    def utilisation_percent(self, gpu: Gpu) -> int:
        """Share of time in which the card was busy, in NVML's last sample."""
        rates: Any = _optional(
            "nvmlDeviceGetUtilizationRates", None, pynvml.nvmlDeviceGetUtilizationRates, self._handles[gpu.index]
        )
        return min(int(rates.gpu), _PERCENT) if rates is not None else 0

    def process_utilisation(self, gpu: Gpu, since_us: int) -> dict[int, int]:
        """Percent of the card's time by host pid, from samples younger than ``since_us`` (CPU time stamp)."""
        samples: Any = _optional(
            "nvmlDeviceGetProcessUtilization",
            (),
            pynvml.nvmlDeviceGetProcessUtilization,
            self._handles[gpu.index],
            since_us,
        )
        return {int(sample.pid): int(sample.smUtil) for sample in samples}

    def look(self, gpu: Gpu) -> CardLook:
        """Whether the card answers, and what the driver says has to be done about it."""
        handle = self._handles[gpu.index]
        try:
            _ask("nvmlDeviceGetMemoryInfo", pynvml.nvmlDeviceGetMemoryInfo, handle)
            fields: Any = _optional(
                "nvmlDeviceGetFieldValues",
                (),
                pynvml.nvmlDeviceGetFieldValues,
                handle,
                [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION],
            )
        except DriverError as error:
            lost = isinstance(error.__cause__, pynvml.NVMLError_GpuIsLost)
            return CardLook(lost=lost, failure="" if lost else error.message)
        told = [int(field.value.uiVal) for field in fields if field.nvmlReturn == pynvml.NVML_SUCCESS]
        return CardLook(recovery=told[0] if told else None)

    def wait_xid(self, seconds: float) -> tuple[str, int] | None:
        """The next Xid of any card, by its UUID; None when there was none in that time. For one thread.

        Raises DriverError: a lost card may fail the wait for all cards.
        """
        if self._events is None:
            self._events = _ask("nvmlEventSetCreate", pynvml.nvmlEventSetCreate)
        self._listen()
        if len(self._silent) == len(self._handles):
            time.sleep(seconds)  # no card can tell
            return None
        try:
            told = _ask("nvmlEventSetWait", pynvml.nvmlEventSetWait, self._events, int(seconds * 1000))
        except DriverError as error:
            if isinstance(error.__cause__, pynvml.NVMLError_Timeout):
                return None
            raise
        found = [gpu for gpu in self._gpus if _address(self._handles[gpu.index]) == _address(told.device)]
        return (found[0].uuid, int(told.eventData)) if found else None

    def _listen(self) -> None:
        """Have all cards tell their Xids; one that cannot now is asked again next time."""
        for index in sorted(self._silent):
            try:
                _ask(
                    "nvmlDeviceRegisterEvents",
                    pynvml.nvmlDeviceRegisterEvents,
                    self._handles[index],
                    pynvml.nvmlEventTypeXidCriticalError,
                    self._events,
                )
            except DriverError:  # not supported, or lost
                continue
            self._silent.discard(index)

    def _found(self) -> Iterator[Gpu]:
        """The cards that can be reached. One that is lost keeps nobody from the others."""
        count, lost = _ask("nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount), 0
        for index in range(count):
            try:
                self._handles[index] = _ask("nvmlDeviceGetHandleByIndex", pynvml.nvmlDeviceGetHandleByIndex, index)
                yield self._describe(index)
            except DriverError as error:
                lost += 1
                if lost == count or not isinstance(error.__cause__, pynvml.NVMLError_GpuIsLost):
                    raise
                self._handles.pop(index, None)
                _LOG.warning("GPU %d is left out: %s", index, error)

    def _describe(self, index: int) -> Gpu:
        handle = self._handles[index]
        mig: Any = _optional("nvmlDeviceGetMigMode", None, pynvml.nvmlDeviceGetMigMode, handle)
        pci: Any = _optional("nvmlDeviceGetPciInfo", None, pynvml.nvmlDeviceGetPciInfo, handle)
        minor: Any = _optional("nvmlDeviceGetMinorNumber", None, pynvml.nvmlDeviceGetMinorNumber, handle)
        return Gpu(
            index=index,
            uuid=str(_ask("nvmlDeviceGetUUID", pynvml.nvmlDeviceGetUUID, handle)),
            name=str(_ask("nvmlDeviceGetName", pynvml.nvmlDeviceGetName, handle)),
            total_bytes=int(_ask("nvmlDeviceGetMemoryInfo", pynvml.nvmlDeviceGetMemoryInfo, handle).total),
            driver_version=self.driver_version(),
            simulated=self._sim,
            mig=bool(mig and mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE),
            pci_bus_id="" if pci is None else str(_text(pci.busId)),
            minor=None if minor is None else int(minor),
        )


class _ProcessList:
    """``nvmlDeviceGet<kind>RunningProcesses`` of one card, in the newest form that the driver has.

    The third came with r510, the second with r450, and both fill the same structure. pynvml asks twice, for the number
    and for the rows, and makes an object of each row; the agent asks some times a second. Here one question is enough
    while there is room, and the same answer is the same tuple.
    """

    def __init__(self, kind: str, handle: Any) -> None:
        """Raises DriverError where the driver has neither form."""
        names = [f"nvmlDeviceGet{kind}RunningProcesses_v{version}" for version in (3, 2)]
        name = next((name for name in names if hasattr(pynvml.nvmlLib, name)), None)
        if name is None:
            # What runs on its cards is not guessed: such a driver is older than any that cgpu knows.
            raise DriverError(
                f"this driver's NVML has no {names[-1]}: it does not tell what runs on its GPUs",
                "install a driver of series 450 or later",
            )
        self._name = name
        self._function = getattr(pynvml.nvmlLib, name)
        self._handle = handle
        self._rows = (pynvml.c_nvmlProcessInfo_v3_t * _PROCESSES_ROOM)()
        self._answer: tuple[bytes, tuple[GpuProcess, ...]] = b"", ()

    @property
    def address(self) -> int:
        """Of the driver's function."""
        return _address(self._function) or 0

    def ask(self) -> tuple[GpuProcess, ...]:
        """The processes now; none where the card does not tell. Raises DriverError."""
        count = _optional_data(self._name, 0, self._fill)
        data = ctypes.string_at(self._rows, count * ctypes.sizeof(self._rows._type_))
        if data != self._answer[0]:
            self._answer = data, tuple(_gpu_process(row) for row in self._rows[:count])
        return self._answer[1]

    def _fill(self) -> int:
        while True:
            count = ctypes.c_uint(len(self._rows))
            code = self._function(self._handle, ctypes.byref(count), self._rows)
            if code == pynvml.NVML_SUCCESS:
                return count.value
            if code != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                raise pynvml.NVMLError(code)
            self._rows = (pynvml.c_nvmlProcessInfo_v3_t * max(2 * count.value, 2 * len(self._rows)))()


def _gpu_process(row: Any) -> GpuProcess:
    unknown = row.usedGpuMemory == pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value
    return GpuProcess(row.pid, None if unknown else row.usedGpuMemory)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _ask(name: str, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        missing = isinstance(error, pynvml.NVMLError_LibraryNotFound)
        remedy = "install the NVIDIA driver, or use a simulated GPU: --sim" if missing else ""
        raise DriverError(f"{name}: {error}", remedy) from error


def _optional(name: str, default: _Answer, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """The answer, or ``default`` where this card or driver does not have the function or has no data."""
    try:
        return _optional_data(name, default, function, *arguments)
    except DriverError as error:
        if isinstance(error.__cause__, pynvml.NVMLError_FunctionNotFound):
            return default
        raise


def _optional_data(name: str, default: _Answer, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """The answer, or ``default`` where this card does not support the question or has no data."""
    try:
        return _ask(name, function, *arguments)
    except DriverError as error:
        if isinstance(error.__cause__, pynvml.NVMLError_NotSupported | pynvml.NVMLError_NotFound):
            return default
        raise

"""Facts of the cards, of NVIDIA's driver, and of Alibaba's cGPU in the kernel."""

from __future__ import annotations

import re
from typing import Final

from cgpu.doctor.facts import ABSENT, Fact
from cgpu.doctor.probes import files
from cgpu.doctor.probes.node import Node, first_known, quoted, version_fact
from cgpu.doctor.probes.tree import UnknownError
from cgpu.model.alibaba import CGPU_MODULES

_NVIDIA: Final = 0x10DE  # PCI vendor
_DISPLAY: Final = 0x03  # PCI base class: VGA, 3D and other display controllers, but not their sound devices
# "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 ...", and of the open module
# "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ...".
_NVRM: Final = re.compile(r"^NVRM version:.{0,200}?\bModule\b(?: for \S+)?\s+(\S+)", re.MULTILINE)


def driver(node: Node) -> Fact:
    """The driver that is loaded; ``none`` where it is seen that none is."""
    return first_known(
        (
            lambda: _driver_of_proc(node),
            lambda: _driver_of_module(node),
            lambda: _not_loaded(node, ("nvidia",)),
        )
    )


def _driver_of_proc(node: Node) -> Fact:
    text, how = node.text(files.DRIVER_VERSION), f"/{files.DRIVER_VERSION}"
    match = _NVRM.search(text)
    if match is None:
        raise UnknownError(f"{how}: not a version: {quoted(text)}")
    return version_fact("driver", match[1], how)


def _driver_of_module(node: Node) -> Fact:
    return version_fact("driver", node.text(files.DRIVER_MODULE), f"/{files.DRIVER_MODULE}")


def _not_loaded(node: Node, modules: tuple[str, ...]) -> Fact:
    try:
        loaded = node.loaded_modules().intersection(modules)
    except UnknownError as error:
        # A kernel without loadable modules has no list of them.
        if error.absent and gpus(node).value == 0:
            return Fact(ABSENT, f"{error}, and no NVIDIA card on the PCI bus")
        raise
    if loaded:
        raise UnknownError(f"/{files.MODULES}: {', '.join(sorted(loaded))} is loaded")
    return Fact(ABSENT, f"/{files.MODULES}: no module of it is loaded")


def gpus(node: Node) -> Fact:
    """The number of cards: those of the driver, or on the PCI bus where the driver has none."""
    return first_known((lambda: _gpus_of_driver(node), lambda: _gpus_of_pci(node)))


def _gpus_of_driver(node: Node) -> Fact:
    count = len(node.tree.glob(files.GPU_INFORMATION))
    if count == 0:
        raise UnknownError(f"/{files.GPU_INFORMATION}: no such file", absent=True)
    return Fact(count, f"/{files.GPU_INFORMATION}")


def _gpus_of_pci(node: Node) -> Fact:
    devices = node.tree.glob(files.PCI_VENDOR)
    if not devices:
        raise UnknownError(f"/{files.PCI_VENDOR}: no such file", absent=True)
    cards = [path for path in devices if _is_card(node, path)]
    return Fact(len(cards), f"/{files.PCI_VENDOR.removesuffix('*/vendor')}")


def _is_card(node: Node, vendor: str) -> bool:
    if _hexadecimal(node, vendor, files.PCI_VENDOR) != _NVIDIA:
        return False
    kind = vendor.removesuffix("vendor") + "class"
    return _hexadecimal(node, kind, files.PCI_CLASS) >> 16 == _DISPLAY


def _hexadecimal(node: Node, path: str, pattern: str) -> int:
    text = node.text(path, pattern)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) is None:
        raise UnknownError(f"/{path}: not a number: {quoted(text)}")
    return int(text, 16)


def cgpu(node: Node) -> Fact:
    """Alibaba's cGPU; ``none`` where it is seen that no module of it is loaded.

    Its modules without its version, as of one that is being loaded or removed, are not known.
    """
    return first_known((lambda: _cgpu_of_proc(node), lambda: _no_cgpu(node)))


def _cgpu_of_proc(node: Node) -> Fact:
    return version_fact("cgpu", node.text(files.CGPU_VERSION), f"/{files.CGPU_VERSION}")


def _no_cgpu(node: Node) -> Fact:
    if node.tree.exists(files.CGPU_VERSION):
        raise UnknownError(f"/{files.CGPU_VERSION}: it is there")
    return _not_loaded(node, CGPU_MODULES)


def modules(node: Node) -> Fact:
    """Which of cGPU's modules are loaded."""
    loaded = node.loaded_modules()
    return Fact([name for name in CGPU_MODULES if name in loaded], f"/{files.MODULES}")

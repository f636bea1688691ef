"""Where a PCI device is in the machine, from sysfs."""

from __future__ import annotations

from pathlib import Path


def numa_node(root: Path, bus_id: str) -> int | None:
    """The NUMA node of a PCI device; None where the machine has none, or does not say.

    Args:
        root: the node's root folder.
        bus_id: as NVML writes it, such as ``00000000:3B:00.0``; the kernel's domain has four digits.
    """
    domain, _, rest = bus_id.lower().partition(":")
    try:
        place = f"{int(domain, 16):04x}:{rest}"
        number = int((root / "sys/bus/pci/devices" / place / "numa_node").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return number if number >= 0 else None  # -1: none (Linux, Documentation/ABI/testing/sysfs-bus-pci)

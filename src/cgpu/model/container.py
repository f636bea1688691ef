"""Containers as tenants: the places and names that runtime, agent, shim and helper agree on.

Everything of ours in a container lies below one folder in its root. That folder is a mount point, so
the container's root can neither rename nor remove it; below ``/run`` or ``/usr`` it could rename the
folder above. ``native/shim/region.c`` and ``native/programs`` have the same paths.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

from cgpu.errors import UsageError

ROOT: Final = PurePosixPath("/.cgpu")
"""Mounted read-only from the container's own view folder on the host."""

REGION: Final = ROOT / "tenant"
"""The region: ``grants`` read-only, ``usage`` and ``locks`` writable, each a mount of its own."""

LIBRARIES: Final = ROOT / "lib"
"""The shim under its content-named file; with a simulated GPU its driver's libraries in ``SIM_LIBRARIES``."""

SIM_LIBRARIES: Final = LIBRARIES / "sim"

HELPER: Final = ROOT / "bin" / "cgpu"
"""The static helper; also mounted as ``/usr/local/bin/cgpu`` where the image has no such file."""

HELPER_IN_PATH: Final = PurePosixPath("/usr/local/bin/cgpu")

SIM_STATE: Final = ROOT / "machine"
"""The state folder of the simulated machine, writable."""

PRELOAD: Final = PurePosixPath("/etc/ld.so.preload")
"""Names the shim, before what the image's own file names."""

TENANT_PREFIX: Final = "oci-"
"""See ``tenant_id_of``."""

CDI_KIND: Final = "cgpu.dev/gpu"
CDI_CONTAINER: Final = "cdi"
"""Stands for the container's id in the tenant of a CDI device, which any number of containers use."""

CDI_TENANT_PREFIX: Final = "cdi-"
"""The tenant of the CDI device ``cgpu.dev/gpu=<name>`` is ``cdi-<name>``."""

CLAIM_TENANT_PREFIX: Final = "k8s-"
"""The tenants of a Kubernetes claim are ``k8s-<its uid>-<part>``; as a device's, they are any number of containers'."""

ANNOTATION_PREFIX: Final = "cgpu.dev/"
ANNOTATION_TENANT: Final = "cgpu.dev/tenant"
ANNOTATION_MEMORY_LAYER: Final = "cgpu.dev/memory-layer"
ANNOTATION_COMPUTE_LAYER: Final = "cgpu.dev/compute-layer"

_TENANT_ID_MAX: Final = 63
_CDI_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,57}[A-Za-z0-9])?")


def tenant_id_of(container_id: str) -> str:
    """The tenant of a container: ``oci-`` and the id, with ``-`` for what a tenant's id may not hold, cut to 63.

    ``native/programs/runtime.c`` computes the same. Two containers whose ids differ only beyond that
    do not share a tenant: the agent compares the whole id, and refuses the second.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", container_id)
    return (TENANT_PREFIX + safe)[:_TENANT_ID_MAX].rstrip("._-")


def cdi_tenant_id(name: str) -> str:
    """The tenant of the CDI device of that name. Raises UsageError for what cannot be one.

    A CDI device's name may also have colons; a tenant's id may not, and has at most 63 characters.
    """
    if _CDI_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not the name of a CDI device",
            "at most 59 letters, digits, dots, dashes and underscores, the first and the last a letter or a digit",
        )
    return CDI_TENANT_PREFIX + name


def cdi_name_of(tenant_id: str, container: str) -> str:
    """The name of the CDI device whose tenant this is; "" for any other tenant. ``container``: as the tenant has it."""
    is_device = container != "" and tenant_id.startswith(CDI_TENANT_PREFIX)
    return tenant_id.removeprefix(CDI_TENANT_PREFIX) if is_device else ""


def is_shared(tenant_id: str, container: str) -> bool:
    """Whether any number of containers use the tenant, as a CDI device's. ``container``: as the tenant has it."""
    return container == CDI_CONTAINER and tenant_id.startswith((CDI_TENANT_PREFIX, CLAIM_TENANT_PREFIX))


def is_claims(tenant_id: str, container: str) -> bool:
    """Whether the tenant is a claim's: each container that uses it is told to the agent, where that matters."""
    return container == CDI_CONTAINER and tenant_id.startswith(CLAIM_TENANT_PREFIX)

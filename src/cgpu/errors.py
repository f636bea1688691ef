"""The exceptions of cgpu, and the exit code that each becomes.

    CgpuError                   what a user can be told in one line
    +-- UsageError              the command or request is malformed              exit 2
    |   +-- AmountError         an amount, percentage or weight is malformed
    |   +-- FactError           a version or another fact about a node is malformed
    |   +-- DataError           a file of compatibility data is malformed
    |   +-- VariableError       a container's variable or annotation is malformed
    |   +-- BundleError         a container's bundle, or the runtime's own settings, cannot be used
    +-- RefusedError            well-formed, but the node says no                exit 3
    |   +-- NoSuchGpuError      there is no such GPU
    |   +-- NoSuchTenantError   there is no such tenant
    |   +-- TenantExistsError   the name or id is taken
    |   +-- CapacityError       more than what is left of the card, or the 21st tenant
    |   +-- QuotaError          more GPU memory than a namespace of Kubernetes may have
    |   +-- ForbiddenError      the caller may look, but not change
    |   +-- LayerError          nothing on this node enforces the quota as was required
    +-- AgentError              the agent does not run or does not answer        exit 4
    +-- ClusterError            the Kubernetes API does not answer or refuses    exit 3
    +-- DriverError             NVML or libcuda is missing or failed             exit 5
    +-- RegionError             a region file is foreign, truncated or damaged   exit 6
    +-- StateError              the checkpoint or the agent's folder is unusable exit 6

Each class has a `code`, which the API sends; its public form (``CGPU-CAPACITY``) is what a user sees and what
``cgpu explain`` answers to.

Only ``cgpu.cli.main`` turns these into exit codes and only ``cgpu.agent.api`` into HTTP statuses.
``cgpu run`` otherwise exits as its child does: its code, or 128 + the signal's number.
"""

from __future__ import annotations

from typing import Final, Self

PUBLIC_PREFIX: Final = "CGPU-"


def public_code(code: str) -> str:
    """The form of a code that users see: ``CGPU-NO-SUCH-GPU`` of ``no_such_gpu``."""
    return PUBLIC_PREFIX + code.upper().replace("_", "-")


class CgpuError(Exception):
    """An error that names its cause and, where there is one, the way out (``remedy``)."""

    exit_code = 1
    code = "error"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    @classmethod
    def received(cls, message: str, remedy: str) -> Self:
        """The error that another process has told in these words."""
        return cls(message, remedy)

    @property
    def public_code(self) -> str:
        """What a user sees, such as ``CGPU-CAPACITY``."""
        return public_code(self.code)

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class UsageError(CgpuError):
    """The command or request is malformed."""

    exit_code = 2
    code = "usage"


class AmountError(UsageError):
    """An amount of memory, a percentage or a weight is malformed or out of range."""

    code = "amount"


class FactError(UsageError):
    """A version, an instance type or another fact about a node is malformed; ``field`` is its name."""

    code = "fact"

    def __init__(self, field: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message, remedy)
        self.field = field

    @classmethod
    def received(cls, message: str, remedy: str) -> Self:
        """The error that another process has told in these words."""
        field, separator, text = message.partition(": ")
        return cls(field, text, remedy) if separator else cls("", message, remedy)


class DataError(UsageError):
    """A file of compatibility data is malformed."""

    code = "data"


class VariableError(UsageError):
    """A variable or annotation by which a container asks for a share is malformed; the message names it."""

    code = "variable"


class BundleError(UsageError):
    """A container's bundle, or the settings of cgpu-runtime, cannot be used."""

    code = "bundle"


class RefusedError(CgpuError):
    """A well-formed request that this node cannot grant."""

    exit_code = 3
    code = "refused"


class NoSuchGpuError(RefusedError):
    """The GPU that was named is not on this node."""

    code = "no_such_gpu"


class NoSuchTenantError(RefusedError):
    """The tenant that was named is not known to the agent."""

    code = "no_such_tenant"


class TenantExistsError(RefusedError):
    """The tenant's name or id is in use with another share."""

    code = "tenant_exists"


class CapacityError(RefusedError):
    """The card has not enough memory left, or already has as many tenants as it may."""

    code = "capacity"


class QuotaError(RefusedError):
    """A claim, or a pod, is beyond what its Kubernetes namespace may have of GPUs."""

    code = "quota"


class ForbiddenError(RefusedError):
    """The caller may look at the node, but not change it."""

    code = "forbidden"


class LayerError(RefusedError):
    """What enforces the quota here is weaker than the request requires."""

    code = "layer"


class AgentError(CgpuError):
    """The agent does not run, does not answer, or runs already."""

    exit_code = 4
    code = "agent"


class ClusterError(CgpuError):
    """The Kubernetes API cannot be asked: no kubeconfig, unreachable, not trusted, not allowed."""

    exit_code = 3
    code = "cluster"


class DriverError(CgpuError):
    """The NVIDIA driver (NVML or libcuda) is missing or failed."""

    exit_code = 5
    code = "driver"


class RegionError(CgpuError):
    """A region file cannot be used: foreign, truncated, damaged, or of another major version."""

    exit_code = 6
    code = "region"


class StateError(CgpuError):
    """The agent's folder or checkpoint cannot be used."""

    exit_code = 6
    code = "state"


class ClaimError(CgpuError):
    """A Kubernetes ResourceClaim cannot be prepared on this node."""

    exit_code = 3
    code = "claim"

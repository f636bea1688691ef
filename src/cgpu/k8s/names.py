"""The names under which cgpu is known to Kubernetes, and those of ACK that it understands."""

from __future__ import annotations

from typing import Final

DRIVER: Final = "gpu.cgpu.dev"
"""Of Dynamic Resource Allocation: in slices, claims, and the kubelet's folders."""

DEVICE_CLASS: Final = "gpu.cgpu.dev"
"""The class that claims name; it takes every device of ours."""

CDI_KIND: Final = "cgpu.dev/claim"
"""Of the CDI devices that are made for a claim; those of ``cgpu cdi`` have another."""

# Capacities of a device. A request that leaves one out gets the device's default.
MEMORY: Final = "memory"
COMPUTE: Final = "compute"
SHARES: Final = "shares"

# Attributes of a device.
UUID: Final = "uuid"
INDEX: Final = "index"
PRODUCT: Final = "productName"
DRIVER_VERSION: Final = "driverVersion"
ISOLATION: Final = "isolation"
MEMORY_LAYER: Final = "memoryLayer"
POLICY: Final = "policy"
SIMULATED: Final = "simulated"
NUMA_NODE: Final = "resource.kubernetes.io/numaNode"
"""Kubernetes' own attribute."""

UNHEALTHY: Final = "gpu.cgpu.dev/unhealthy"
"""Key of the taint on a card that is not well."""

# ACK's interface: resources and labels of pods.
ACK_MEMORY: Final = "aliyun.com/gpu-mem"
"""Whole GiB."""

ACK_COMPUTE: Final = "aliyun.com/gpu-core.percentage"
"""Percent of one card, in steps of 5."""

ACK_COUNT: Final = "aliyun.com/gpu-count"
"""A label of a pod: over how many cards its memory is divided."""

# Annotations of a pod with ACK's resources, for all its GPU containers.
WEIGHT: Final = "cgpu.dev/weight"
"""1 to 1000."""

PRIORITY: Final = "cgpu.dev/priority"
"""1 high, 0 normal."""

# Labels of a namespace, which its administrator sets.
FAVOURS: Final = "cgpu.dev/weight-and-priority"
"""``allowed``: shares here may have a weight above 1 and high priority."""

MEMORY_QUOTA: Final = "cgpu.dev/gpu-memory-quota"
"""A quantity such as ``64Gi``: GPU memory of all claims of the namespace together."""

ADMISSION: Final = "cgpu.dev/admission"
"""``disabled`` on a namespace or a pod: ACK's resources stay as they are, for ACK's own scheduler."""

TEMPLATE: Final = "cgpu.dev/template"
"""Label of the ResourceClaimTemplates that we make and collect; its value is TEMPLATE_OF_ACK."""
TEMPLATE_OF_ACK: Final = "ack"

UNUSED_SINCE: Final = "cgpu.dev/unused-since"
"""Annotation of such a template: the time (RFC 3339) since which no pod uses it."""

SECRET: Final = "cgpu-webhook-certificate"
"""In which the webhook's replicas share their certificate."""

LEASE: Final = "cgpu-controller"
"""By which the controller's replicas agree on who leads."""

PARAMETERS_VERSION: Final = "gpu.cgpu.dev/v1"
PARAMETERS_KIND: Final = "ShareParameters"
"""Of the opaque parameters in a claim: what capacities cannot say, such as weight and priority."""

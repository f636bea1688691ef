"""How Alibaba Cloud's container-optimized OS calls itself.

ContainerOS is built from LifseaOS. ``ID=lifsea`` is what Alibaba's own CSI plugin looks for in os-release
(kubernetes-sigs/alibaba-cloud-csi-driver, its entrypoint script); the osImage of such a node, which the kubelet
takes from PRETTY_NAME, is "Alibaba Cloud Linux Lifsea (ContainerOS) 3"; and its kernels are named like
5.10.134-19.1.1.lifsea8.x86_64 (ACK documentation, release notes of ContainerOS 3.5.1).

ACK also has "Alibaba Cloud Linux 3 Container-optimized Edition", an image of the ordinary distribution. No source
tells whether its os-release says so. Where it does, it is counted: the FAQ's words fit both.
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(r"lifsea|\bcontaineros\b", re.IGNORECASE)
_EDITION: Final = r"container[-_ ]?optimi[sz]ed"
_ANY_EDITION: Final = re.compile(_EDITION, re.IGNORECASE)
_ALIBABAS_EDITION: Final = re.compile(rf"(?:alibaba|aliyun).*{_EDITION}", re.IGNORECASE)
_KERNEL: Final = ".lifsea"


def is_name(text: str) -> bool:
    """Whether a name or id of a distribution is ContainerOS's."""
    return _NAME.search(text) is not None


def is_edition(text: str) -> bool:
    """Whether a distribution calls itself container-optimized, whoever's it is."""
    return _ANY_EDITION.search(text) is not None


def is_alibabas_edition(text: str) -> bool:
    """Whether one that names Alibaba Cloud does."""
    return _ALIBABAS_EDITION.search(text) is not None


def is_kernel(release: str) -> bool:
    """Whether ``uname -r`` names a kernel of ContainerOS."""
    return _KERNEL in release

"""The probe pod: its manifest, and what its log brings back. Pure but for writing what was unpacked.

The pod sees the node's files read-only, has no token, no network of the node, and of root's
capabilities only ``CAP_SYS_CHROOT``, with which it asks programs of the node for their version.
``data/probe.sh`` is all that it runs.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Final

IMAGE: Final = "docker.io/library/busybox:1.37.0"
"""Any image with a POSIX shell and busybox's or coreutils' tools will do."""

CONTAINER: Final = "probe"
NAME_LABEL: Final = "app.kubernetes.io/name"
NAME: Final = "cgpu-doctor-probe"
RUN_LABEL: Final = "cgpu-doctor/run"
OWNER_LABEL: Final = "cgpu-doctor/owner"

_NODE_ROOT: Final = "/node"
_FOLDER: Final = "/probe"
_RECORDED: Final = ".cgpu-probe/"  # what the probe itself fills
_FOLDER_MIB: Final = 64
_LARGEST_LOG_BYTES: Final = 48 << 20
_LARGEST_TREE_BYTES: Final = 64 << 20
_LONGEST_LINE: Final = 1 << 16  # the archive's have 76 bytes
_MOST_ENTRIES: Final = 10_000
_BEGIN: Final = b"-----BEGIN CGPU PROBE-----"
_END: Final = re.compile(rb"-----END CGPU PROBE ([0-9a-f]{64})-----")
# A container in such a state does not start by waiting (kubelet, pkg/kubelet/images and kuberuntime).
_HOPELESS: Final = frozenset(
    {
        "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
        "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
    }
)  # fmt: skip
_SHOWN: Final = 300


class ProbeError(Exception):
    """Why a probe brought nothing; the node's other facts stand."""


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How nodes are probed."""

    image: str = IMAGE
    namespace: str | None = None
    """Where the pods are created; None: the namespace of the kubeconfig's context."""

    at_once: int = 10
    """Pods at one time."""

    seconds: int = 120
    """How long a pod may take from its creation on, with the image's download."""


@dataclass(frozen=True, slots=True)
class ProbeList:
    """What a probe brings from a node."""

    files: Mapping[str, int]
    """The most bytes of each path or pattern below the root, as ``cgpu.doctor.probes.files`` has them."""

    commands: Mapping[str, Sequence[str]]
    """Commands of the node, by the file below ``.cgpu-probe`` that gets their output."""


def pod_name(run: str, node: str) -> str:
    """The pod's name: the same for a run and a node, so that a lost answer leaves no second pod."""
    return f"{NAME}-{run}-{hashlib.sha256(node.encode()).hexdigest()[:12]}"


def manifest(node: str, run: str, owner: str, options: ProbeOptions, wanted: ProbeList) -> dict[str, Any]:
    """The pod for one node. ``run`` and ``owner`` are label values that tell whose pod it is."""
    files = "\n".join(f"{limit}\t{path}" for path, limit in wanted.files.items() if not path.startswith(_RECORDED))
    commands = "\n".join("\t".join((name, *words)) for name, words in wanted.commands.items())
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(run, node),
            "labels": {NAME_LABEL: NAME, RUN_LABEL: run, OWNER_LABEL: owner},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": options.seconds,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": CONTAINER,
                    "image": options.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", script(), "probe.sh"],
                    "args": [_NODE_ROOT, _FOLDER, files, commands],
                    "securityContext": {
                        "runAsUser": 0,  # the kubelet's files are root's alone
                        "privileged": False,
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"], "add": ["SYS_CHROOT"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "16Mi"},
                        # What the folder holds counts as the container's memory.
                        "limits": {"cpu": "500m", "memory": f"{_FOLDER_MIB + 32}Mi"},
                    },
                    "volumeMounts": [
                        # Below Kubernetes 1.30, mounts below the root (/run, /sys) can't be read-only with it.
                        {"name": "node", "mountPath": _NODE_ROOT, "readOnly": True, "recursiveReadOnly": "IfPossible"},
                        {"name": "folder", "mountPath": _FOLDER},
                    ],
                }
            ],
            "volumes": [
                {"name": "node", "hostPath": {"path": "/", "type": "Directory"}},
                {"name": "folder", "emptyDir": {"medium": "Memory", "sizeLimit": f"{_FOLDER_MIB}Mi"}},
            ],
        },
    }


def script() -> str:
    """What the pod runs."""
    return (resources.files("cgpu.doctor") / "data" / "probe.sh").read_text()


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether the probe has done its work. Raises ProbeError when it failed, or can't ever start."""
    status = pod.get("status") or {}
    states = [container.get("state") or {} for container in status.get("containerStatuses") or ()]
    if status.get("phase") == "Succeeded":
        return True
    if status.get("phase") == "Failed":
        ended: Mapping[str, Any] = next((state["terminated"] for state in states if state.get("terminated")), {})
        reasons = (status.get("reason"), status.get("message"), ended.get("reason"), ended.get("message"))
        raise ProbeError(_short("its pod failed: " + (" ".join(str(part) for part in reasons if part) or "no reason")))
    waiting: Mapping[str, Any] = next((state["waiting"] for state in states if state.get("waiting")), {})
    if waiting.get("reason") in _HOPELESS:
        raise ProbeError(_short(f"its pod can't start: {waiting['reason']}: {waiting.get('message') or ''}"))
    return False


def is_leftover(pod: Mapping[str, Any], now: datetime, seconds: int, ended_owner: bool) -> bool:
    """Whether a probe pod of another run is nobody's any more.

    So it is when its owner was a process of this machine that has ended, or when it is older than
    twice what a run gives its pods.
    """
    created = str((pod.get("metadata") or {}).get("creationTimestamp") or "")
    try:
        age = now - datetime.fromisoformat(created)
    except (ValueError, TypeError):
        return ended_owner
    return ended_owner or age > timedelta(seconds=2 * seconds)


def archive_of(log: Iterable[bytes]) -> bytes:
    """The archive that a probe's log holds. Raises ProbeError: cut off, damaged, or larger than 48 MiB."""
    lines: list[bytes] = []
    rest, size, begun = b"", 0, False
    for chunk in log:
        size += len(chunk)
        if size > _LARGEST_LOG_BYTES:
            raise ProbeError(f"its log is larger than {_LARGEST_LOG_BYTES >> 20} MiB")
        *whole, rest = (rest[-_LONGEST_LINE:] + chunk).split(b"\n")
        for line in whole:
            end = _END.fullmatch(line)
            if begun and end is not None:
                return _decoded(b"".join(lines), end[1].decode())
            if begun:
                lines.append(line)
            begun = begun or line == _BEGIN
    raise ProbeError("its log is cut off" if begun else "its log has no archive: does the image have busybox's tools?")


def _decoded(text: bytes, checksum: str) -> bytes:
    try:
        archive = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ProbeError(f"its log is damaged: {error}") from error
    if hashlib.sha256(archive).hexdigest() != checksum:
        raise ProbeError("its log is damaged: the checksum differs")
    return archive


def unpack(archive: bytes, folder: Path) -> None:
    """Write the archive's folders and files below an empty folder.

    Raises ProbeError for what is no archive, for names that lead out of the folder, and beyond
    64 MiB or 10,000 entries. Links and devices, which the probe never sends, are refused as well.
    """
    try:
        with gzip.open(io.BytesIO(archive)) as plain:
            bounded: Any = _Bounded(plain, _LARGEST_TREE_BYTES)
            with tarfile.open(fileobj=bounded, mode="r|") as members:
                for count, member in enumerate(members):
                    if count == _MOST_ENTRIES:
                        raise ProbeError(f"its archive has more than {_MOST_ENTRIES} entries")
                    _write(members, member, folder)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        raise ProbeError(_short(f"its archive is damaged: {error}")) from error


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    name = PurePosixPath(member.name)
    plain = member.isdir() or (member.isreg() and not member.issparse())
    if name.is_absolute() or ".." in name.parts or not plain:
        raise ProbeError(_short(f"its archive has an entry that it may not have: {member.name!r}"))
    target = folder / name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = members.extractfile(member)
    assert content is not None
    target.write_bytes(content.read())


class _Bounded:
    """A stream that fails when more is read from it than was granted."""

    def __init__(self, stream: gzip.GzipFile, limit_bytes: int) -> None:
        self._stream = stream
        self._left = limit_bytes

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise ProbeError("its archive is too large")
        return content


def _short(text: str) -> str:
    """As a fact's reason may have it: printable, on one line."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"

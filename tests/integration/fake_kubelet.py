"""A kubelet that runs a pod's one container as a process, on a folder that stands for the node."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.fake_api import FakeApi

Json = dict[str, Any]
_VARIABLE = re.compile(r"\$\$|\$\(([^)]*)\)")


@dataclass
class Kubelet:
    """``root_of`` is a node's folder; ``faults`` are what goes wrong on a node instead of a run."""

    root_of: Callable[[str], Path]
    faults: Mapping[str, Callable[[Json, FakeApi], None]] = field(default_factory=dict)
    hold: threading.Event | None = None
    """Containers start when it is set."""

    ran: list[Json] = field(default_factory=list)

    def __call__(self, pod: Json, api: FakeApi) -> None:
        fault = self.faults.get(pod["spec"]["nodeName"])
        if fault is not None:
            fault(pod, api)
            return
        pod["status"] = {"phase": "Running", "containerStatuses": [{"name": "probe", "state": {"running": {}}}]}
        if self.hold is not None:
            self.hold.wait(60)
        self.ran.append(pod)
        code, log = run_container(pod, self.root_of(pod["spec"]["nodeName"]))
        api.logs[pod["metadata"]["name"], "probe", False] = [log[at : at + 1000] for at in range(0, len(log), 1000)]
        pod["status"] = {"phase": "Failed" if code else "Succeeded"}


def run_container(pod: Json, root: Path) -> tuple[int, bytes]:
    """Its command's exit code and log, with its volumes where the kubelet would mount them."""
    [container] = pod["spec"]["containers"]
    sources = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    with tempfile.TemporaryDirectory() as folder:
        words = [expanded(word, {}) for word in [*container["command"], *container["args"]]]
        for mount in container["volumeMounts"]:
            source = str(root) if "hostPath" in sources[mount["name"]] else folder
            words = [source if word == mount["mountPath"] else word for word in words]
        ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        return ended.returncode, ended.stdout


def expanded(word: str, environment: Mapping[str, str]) -> str:
    """As Kubernetes does with a command's words: ``$(NAME)`` of a variable that there is, ``$$`` as ``$``."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return _VARIABLE.sub(value, word)


def image_missing(pod: Json, api: FakeApi) -> None:
    """The image can't be pulled."""
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}
    pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": "probe", "state": {"waiting": waiting}}]}


def no_room(pod: Json, api: FakeApi) -> None:
    """The node has as many pods as it may."""
    pod["status"] = {"phase": "Failed", "reason": "OutOfpods", "message": "Node didn't have enough resource: pods"}


def never_starts(pod: Json, api: FakeApi) -> None:
    """The node's kubelet is dead."""


def cut_log(pod: Json, api: FakeApi) -> None:
    """The log was rotated away."""
    api.logs[pod["metadata"]["name"], "probe", False] = [b"-----BEGIN CGPU PROBE-----\nAAAA\n"]
    pod["status"] = {"phase": "Succeeded"}


def deleted(pod: Json, api: FakeApi) -> None:
    """Somebody tidies up."""
    with api.lock:
        api.pods.remove(pod)

"""``cgpu explain --pod`` reads what a pod's status, events and logs say, over a served API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

import cgpu
from tests.integration.fake_api import FakeApi

SECONDS: Final = 60.0
NVML: Final = b"Failed to initialize NVML: GPU access blocked by operating system\n"
STATUS: Final[dict[str, Any]] = {
    "phase": "Pending",
    "containerStatuses": [
        {
            "name": "cuda",
            "state": {"waiting": {"reason": "CreateContainerError", "message": "context deadline exceeded"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
        },
        {"name": "side", "state": {"running": {}}},
    ],
}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    pod: dict[str, Any] = {"metadata": {"namespace": "default", "name": "train-0"}, "spec": {}, "status": STATUS}
    event: dict[str, Any] = {
        "metadata": {"namespace": "default", "name": "train-0.1"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "train-0"},
        "lastTimestamp": "2026-03-01T12:00:00Z",
        "type": "Warning",
        "reason": "Failed",
        "message": "Error occurs when creating cGPU instance: unknown",
    }
    logs: dict[tuple[str, str, bool], Sequence[bytes]] = {
        ("train-0", "cuda", True): [b"start\n" + NVML[:34], NVML[34:], b"end\n"],
        ("train-0", "side", False): [b"all is well\n"],
    }
    with FakeApi(pods=[pod], events=[event], logs=logs).served() as served:
        yield served


def explain(api: FakeApi, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(api.kubeconfig())
    inherited = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    return subprocess.run(
        [sys.executable, "-m", "cgpu", "explain", "--kubeconfig", str(kubeconfig), *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**inherited, "PYTHONPATH": str(Path(cgpu.__file__).parents[1])},
    )


def test_each_text_of_the_pod_is_read_and_named(api: FakeApi, tmp_path: Path) -> None:
    done = explain(api, tmp_path, "--pod", "default/train-0", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    assert {(finding["id"], finding["confidence"], finding["where"]) for finding in found} == {
        ("create-timeout", "possible", "status"),
        ("pod-limit", "certain", "events"),
        ("nvml-init", "certain", "previous log of container cuda"),
    }
    assert {finding["id"]: finding["line"] for finding in found}["nvml-init"] == 2


def test_people_are_told_where(api: FakeApi, tmp_path: Path) -> None:
    done = explain(api, tmp_path, "--pod", "default/train-0", "--context", "fake")
    assert done.returncode == 0, done.stderr
    assert "pod-limit (certain), events, line 1: " in done.stdout
    assert "nvml-init (certain), previous log of container cuda, line 2: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--pod", "default/nobody"), 3, "CGPU-CLUSTER"),
        (("--pod", "train-0"), 2, "NAMESPACE/NAME"),
        (("--pod", "a/b/c"), 2, "NAMESPACE/NAME"),
        (("--pod", "/b"), 2, "NAMESPACE/NAME"),
        (("--pod", "default/train-0", "--context", "other"), 3, "other"),
    ],
)
def test_what_cannot_be_read_is_said(
    api: FakeApi, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = explain(api, tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr

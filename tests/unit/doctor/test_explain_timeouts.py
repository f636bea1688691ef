"""A deadline that is exceeded at a container's creation is possibly cGPU's; any other one is not."""

from __future__ import annotations

from functools import cache

import pytest

from cgpu.compat.dataset import shipped
from cgpu.doctor.explain import Confidence, recognise
from cgpu.doctor.failures import Catalogue, catalogue
from tests.unit.doctor.messages import NOISE

ID = "6b6c1a7b5d0a1f9f5f7a2f6f0b6c1a7b5d0a1f9f5f7a2f6f0b6c1a7b5d0a1f9f"


@cache
def known() -> Catalogue:
    return catalogue(shipped())


def found(text: str) -> list[tuple[str, Confidence, int]]:
    return [(finding.id, finding.confidence, finding.line) for finding in recognise(text, known())]


AT_CREATION = [
    "Failed to create container with error: rpc error: code = 4 desc = context deadline exceeded",
    (
        'Error syncing pod, skipping: failed to "StartContainer" for "dind" with rpc error: code = 4 desc = '
        "context deadline "
        'exceeded: "Create Container Failed"'
    ),
    (
        'rpc error: code = 2 desc = failed to start sandbox container for pod "x": operation timeout: context '
        "deadline exceeded"
    ),
    "Failed to create pod sandbox: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    "Warning  Failed     20s (x2 over 2m20s)   kubelet            Error: context deadline exceeded",
    "default   3m   Warning   Failed   pod/train-0   Error: context deadline exceeded",
    "2026-03-01T12:00:00Z Warning Failed Error: context deadline exceeded",
    (
        '"CreateContainer in sandbox from runtime service failed" err="rpc error: code = DeadlineExceeded desc = '
        "context "
        f'deadline exceeded" podSandboxID="{ID}"'
    ),
    (
        f'CreateContainer in sandbox "{ID}" from runtime service failed: rpc error: code = DeadlineExceeded desc '
        "= context "
        "deadline exceeded"
    ),
    (
        '"RunPodSandbox from runtime service failed" err="rpc error: code = DeadlineExceeded desc = context '
        'deadline exceeded"'
    ),
    (
        f'StartContainer "{ID}" from runtime service failed: rpc error: code = DeadlineExceeded desc = context '
        "deadline exceeded"
    ),
    (
        '"Error syncing pod, skipping" err="failed to \\"CreateContainer\\" for \\"image-network-etcd\\" with '
        'CreateContainerError: \\"context deadline exceeded\\""'
    ),
    'failed to "StartContainer" for "etcd-plugin" with RunContainerError: "context deadline exceeded"',
    (
        f'level=error msg="CreateContainer within sandbox \\"{ID}\\" for '
        f'&ContainerMetadata{{Name:cuda,Attempt:0,}} failed" '
        'error="failed to create containerd container: context deadline exceeded"'
    ),
    (
        f'level=error msg="StartContainer for \\"{ID}\\" failed" error="failed to create containerd task: failed '
        "to create "
        'shim task: context deadline exceeded: unknown"'
    ),
    "docker: Error response from daemon: failed to create task for container: context deadline exceeded.",
    "Handler for POST /v1.41/containers/create returned error: context deadline exceeded",
    f"Handler for POST /v1.24/containers/{ID}/start returned error: context deadline exceeded",
    (
        "Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: runc "
        "create failed: "
        "error running prestart hook #0: context deadline exceeded"
    ),
    "OCI runtime create failed: runc did not terminate: context deadline exceeded: unknown",
    "CreateContainerError: context deadline exceeded",
    "CreateContainer failed: DeadlineExceeded",
    "level=error id=f794 name=/runtime.v1.RuntimeService/CreateContainer error: DEADLINE_EXCEEDED",
    "cuda waiting CreateContainerError context deadline exceeded",
    "    waiting:\n      message: context deadline exceeded\n      reason: CreateContainerError",
    '"waiting": {\n  "message": "context deadline exceeded",\n  "reason": "CreateContainerError"\n}',
]


@pytest.mark.parametrize("message", AT_CREATION)
def test_at_creation_it_is_possible(message: str):
    ((failure, confidence, line),) = found(f"first\n{message}\nlast")
    assert (failure, confidence) == ("create-timeout", Confidence.POSSIBLE)
    assert line in (2, 3)


# What each line has a time stamp of its own for is taken for entries of their own.
@pytest.mark.parametrize("noise", sorted(NOISE.keys() - {"a time stamp on each folded line"}))
@pytest.mark.parametrize("message", [AT_CREATION[3], AT_CREATION[7].replace('"', "'"), AT_CREATION[20]])
def test_noise_does_not_hide_it(message: str, noise: str):
    assert [failure for failure, _, _ in found(f"first\n{NOISE[noise](message)}\nlast")] == ["create-timeout"]


ELSEWHERE = [
    "context deadline exceeded",
    "Error: context deadline exceeded",
    "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    (
        '{"level":"warn","ts":"2026-03-01T12:00:00Z","logger":"etcd-client","msg":"retrying '
        'of unary invoker failed","target":"etcd-endpoints://0xc000/10.0.0.2:2379","attempt":0,"error":"rpc '
        "error: code = "
        'DeadlineExceeded desc = context deadline exceeded"}'
    ),
    "failed to renew lease kube-node-lease/node-1: context deadline exceeded",
    (
        "Warning  Unhealthy  3s  kubelet  Readiness probe failed: Get http://10.0.0.1: context deadline exceeded "
        "(Client.Timeout exceeded while awaiting headers)"
    ),
    (
        "Readiness probe errored: rpc error: code = DeadlineExceeded desc = failed to exec in container: timeout "
        "1s exceeded: "
        "context deadline exceeded"
    ),
    'Failed to pull image "cuda:12": rpc error: code = DeadlineExceeded desc = context deadline exceeded',
    (
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox "
        '"0f": plugin '
        'type="calico" failed (add): error getting ClusterInformation: context deadline exceeded'
    ),
    (
        "Failed to create pod sandbox: rpc error: code = DeadlineExceeded desc = failed to get sandbox image "
        '"pause:3.9": '
        "context deadline exceeded"
    ),
    'failed to "StartContainer" for "x" with ImagePullBackOff: "rpc error: context deadline exceeded"',
    "Unable to attach or mount volumes: unmounted volumes=[data]: timed out; context deadline exceeded",
    'failed to "KillContainer" for "x" with KillContainerError: "rpc error: code = DeadlineExceeded"',
    "StopPodSandbox from runtime service failed: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    "ContainerStatus from runtime service failed: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    "CreateContainerConfigError: failed to sync secret cache: context deadline exceeded",
    "Failed to start ContainerManager: context deadline exceeded",
    "systemd[1]: Failed to start containerd: context deadline exceeded",
    "Warning  DeadlineExceeded  1s  job-controller  Job was active longer than specified deadline",
    "Created container cuda\nStarted container cuda\nother: context deadline exceeded",
    "CreateContainer done\nclient: context deadline exceeded",
    (
        "2026-03-01T12:00:00Z CreateContainer of a long name that takes the whole of the line, and more of it\n"
        "2026-03-01T12:00:01Z client: context deadline exceeded"
    ),
    (
        'I0301 12:00:00.123456    1234 x.go:1] "Creating container" '
        'pod="default/a-name-that-makes-the-line-long-enough"\n'
        'E0301 12:00:00.123456    1234 y.go:1] "list failed" err="context deadline exceeded"'
    ),
    (
        "  Normal   Pulled     7s    kubelet   Created container cuda, which is a long line in the table of events\n"
        "  Warning  Unhealthy  7s    kubelet   context deadline exceeded"
    ),
    "pod sandbox changed, it will be killed and re-created",
]


@pytest.mark.parametrize("text", ELSEWHERE)
def test_elsewhere_it_is_not(text: str):
    assert found(text) == []


def test_the_words_themselves_may_be_broken_into_stamped_lines():
    stamp = "2026-03-01T12:00:00Z "
    assert found(f"{stamp}CreateContainerError: context deadline\n{stamp}exceeded")[0][0] == "create-timeout"

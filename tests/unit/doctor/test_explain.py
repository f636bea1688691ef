"""Documented messages are recognised whatever a log does to them; what only looks like them is not."""

from __future__ import annotations

from functools import cache

import pytest

from cgpu.compat.dataset import shipped
from cgpu.doctor.explain import Confidence, Finding, Recogniser, recognise
from cgpu.doctor.failures import Catalogue, Failure, catalogue
from cgpu.doctor.log_text import squeeze, squeeze_bytes
from tests.unit.doctor.messages import DOCUMENTED, HOOK, NOISE, OTHER_LINES


@cache
def known() -> Catalogue:
    return catalogue(shipped())


def found(text: bytes | str) -> dict[str, Finding]:
    return {finding.id: finding for finding in recognise(text, known())}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize(("failure", "message"), DOCUMENTED)
def test_a_documented_message_is_certain_in_any_noise(failure: str, message: str, noise: str):
    before, after = "\n".join([*OTHER_LINES, ""]), "\n".join(["", *OTHER_LINES])
    findings = found(before + NOISE[noise](message) + after)
    assert list(findings) == [failure]
    assert findings[failure].confidence == Confidence.CERTAIN
    first = len(OTHER_LINES) + 1
    assert findings[failure].count == 1
    # A message that is folded early begins in the line that has its first words.
    assert first <= findings[failure].line <= first + HOOK.count(" ") // 4


@pytest.mark.parametrize(("failure", "message"), DOCUMENTED)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_log_in_utf_16_is_read(failure: str, message: str, encoding: str):
    assert list(found(f"first\r\n{message}\r\nlast".encode(encoding))) == [failure]


@pytest.mark.parametrize(("failure", "message"), DOCUMENTED)
def test_lines_end_as_windows_ends_them(failure: str, message: str):
    finding = found(f"first\r\nsecond\r\n{message}\r\nlast\r\n")[failure]
    assert (finding.line, finding.text) == (3, message)


@pytest.mark.parametrize(("failure", "message"), DOCUMENTED)
def test_cause_versions_and_fix_are_those_of_the_compatibility_data(failure: str, message: str):
    issue = shipped().issues[failure]
    document = found(message)[failure].as_json()
    assert document["cause"] == issue.cause
    assert document["fix"].startswith(issue.fix)
    assert document["confirm"]
    if issue.affected is not None:
        assert issue.affected.text.lstrip("<=") in document["affected"]


def test_what_is_affected_reads_as_a_sentence():
    affected = {name: failure.affected for name, failure in known().failures.items() if failure.id in shipped().issues}
    assert affected == {
        "kernel-panic": "cGPU 1.5.7 and earlier",
        "container-os-hook": "cGPU 1.5.18 and earlier with Alibaba Cloud's container-optimized OS",
        "modprobe": "not stated",
        "create-timeout": "cGPU 1.0.10 and earlier with nvidia-container-toolkit 1.11 and later",
        "pod-limit": "every cGPU version with more than 20 pods on one GPU",
        "nvml-init": "cGPU 1.5.2 and earlier with a GPU driver that was released after 2023-07-31",
    }


LOOKS_ALIKE = [
    "",
    "km",
    "the km module and cgpu_procfs are loaded",
    "modprobe: ERROR: could not insert 'kmod': Operation not permitted",
    "modprobe: ERROR: could not insert 'nvidia': Operation not permitted",
    "modprobe: ERROR: could not insert 'kvm_intel': Operation not supported",
    "modprobe: ERROR: could not insert 'skm': Operation not permitted",
    "modprobe: FATAL: Module kmx not found in directory /lib/modules/5.10.0",
    "rmmod: ERROR: Module km is in use by: cgpu_procfs",
    "mkdir: cannot create directory 'km': Operation not permitted",
    "Failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND",
    "access blocked by operating system",
    "error running prestart hook #0: exit status 1, stdout: , stderr: ldconfig failed",
    "error running hook #0: error running hook: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'",
    "Auto-detected mode as 'legacy'",
    "Error occurs when creating instance: unknown",
    "RuntimeError: out of memory",
    "Out of memory: Killed process 123 (python)",
    "the document explains CUDA and memory",
    "SXid (PCI:0000:06:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.129.03",
    "if the GPU is lost, reboot",
    "cgpu: no agent answers at /run/cgpu/agent.sock; trying again",
]


@pytest.mark.parametrize("text", LOOKS_ALIKE)
def test_what_only_looks_alike_is_not_recognised(text: str):
    assert found(text) == {}
    assert found("\n".join([*OTHER_LINES, text, *OTHER_LINES])) == {}


def test_all_that_looks_alike_together_is_not_recognised_either():
    assert found("\n".join(LOOKS_ALIKE)) == {}


NVIDIAS = (
    "docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime "
    "create failed: runc create failed: unable to start container process: error during container init: error running "
    "prestart hook #0: exit status {status}, stdout: , stderr: Auto-detected mode as 'legacy'\n{rest}: unknown"
)


@pytest.mark.parametrize("status", [1, 2])
@pytest.mark.parametrize(
    ("rest", "failures"),
    [
        (
            (
                "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open "
                "shared object file: no such file or directory"
            ),
            {"nvidia-container-cli", "nvml-library-missing"},
        ),
        (
            "nvidia-container-cli: initialization error: nvml error: driver not loaded",
            {"nvidia-container-cli", "nvml-driver-not-loaded"},
        ),
        (
            (
                "nvidia-container-cli: mount error: failed to add device rules: unable to find any existing device "
                "filters "
                "attached to the cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted"
            ),
            {"container-device-rules"},
        ),
        (
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update your driver",
            {"cuda-driver-insufficient"},
        ),
        ("nvidia-container-cli: device error: no-gpu-has-8GiB-to-run: unknown device", {"no-gpu-to-run"}),
        ("nvidia-container-cli: device error: GPU-2409b7b6-2df6: unknown device", {"container-unknown-device"}),
    ],
)
def test_nvidias_own_hook_failures_are_other_failures(rest: str, status: int, failures: set[str]):
    message = NVIDIAS.format(status=status, rest=rest)
    assert set(found(message)) == failures
    assert set(found(message.replace("\n", "\\n"))) == failures


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        (HOOK.replace("exit status 2", "exit status 1"), "container-os-hook"),
        (HOOK.removesuffix(": unknown"), "container-os-hook"),
        (HOOK.replace("prestart ", ""), "container-os-hook"),
        ("modprobe: ERROR: could not insert 'km': Invalid argument", "modprobe"),
        ("insmod: ERROR: could not insert module /lib/modules/5.15.0/km.ko: Operation not permitted", "modprobe"),
        ("modprobe: FATAL: Module cgpu_procfs not found in directory /lib/modules/6.1.0", "modprobe"),
        ("nvmlInit_v2: GPU access blocked by the operating system", "nvml-init"),
        ("Error occurs when creating cGPU instance: device busy", "pod-limit"),
    ],
)
def test_a_message_that_is_only_near_the_documented_one_is_possible(message: str, failure: str):
    assert {name: finding.confidence for name, finding in found(message).items()} == {failure: Confidence.POSSIBLE}


def test_journald_names_modprobe_before_its_message():
    line = "Mar  1 12:00:00 node-1 modprobe[412]: ERROR: could not insert 'km': Operation not permitted"
    assert found(line)["modprobe"].confidence == Confidence.CERTAIN


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ("NVRM: Xid (PCI:0000:06:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "xid-79"),
        ("NVRM: Xid (0000:03:00): 13, Graphics Exception: ESR 0x404490=0x80000001", "xid-13"),
        ("kernel: NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row marked for remapping", "xid-63"),
        ("I0301 12:00:00.1 1 health.go:159] XidCriticalError: Xid=48 on Device=GPU-1; marking unhealthy", "xid-48"),
        ("NVRM: Xid (PCI:0000:06:00): 119, pid=1, Timeout after 45s of waiting for RPC response from GSP", "xid-119"),
        ("NVRM: Xid (PCI:0000:06:00): 131, pid=1, something new", "xid"),
        ("Failed to initialize NVML: Driver/library version mismatch", "nvml-version-mismatch"),
        ("NVRM: API mismatch: the client has the version 535.171.04, but", "nvml-version-mismatch"),
        ("Failed to initialize NVML: Unknown Error", "nvml-unknown-error"),
        ("Failed to initialize NVML: Insufficient Permissions", "nvml-permissions"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest",
            "nvml-driver-not-loaded",
        ),
        (
            "Unable to determine the device handle for GPU 0000:C1:00.0: GPU is lost.  Reboot the system to recover",
            "gpu-lost",
        ),
        ("error creating nvml.Device 3: nvml: GPU is lost, which is unexpected", "gpu-lost"),
        ("CUDA driver version is insufficient for CUDA runtime version", "cuda-driver-insufficient"),
        ("RuntimeError: No CUDA GPUs are available", "cuda-no-device"),
        ("CUDA error: no CUDA-capable device is detected", "cuda-no-device"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "cuda-out-of-memory"),
        ("error code=2(cudaErrorMemoryAllocation) on cudaMalloc", "cuda-out-of-memory"),
        ('could not select device driver "" with capabilities: [[gpu]].', "docker-no-gpu-runtime"),
        ("could not select device driver with capabilities: [[gpu]].", "docker-no-gpu-runtime"),
        ('could not select device driver "nvidia" with capabilities: [[compute utility gpu]]', "docker-no-gpu-runtime"),
        ("0/1     UnexpectedAdmissionError   0          4s", "unexpected-admission"),
        (
            (
                "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, "
                "Available: 0, which is unexpected"
            ),
            "unexpected-admission",
        ),
        (
            "[HAMI-core ERROR (pid:14 thread=139781782480704 allocator.c:60)]: Device 0 OOM 3145728000 / 2147483648",
            "hami-out-of-memory",
        ),
    ],
)
def test_other_known_failures_have_ids_of_their_own(message: str, failure: str):
    findings = found(message)
    assert list(findings) == [failure]
    document = findings[failure].as_json()
    assert all(document[name] for name in ("title", "cause", "fix", "confirm", "source"))


def test_an_id_is_found_once_and_counted():
    text = "\n".join(["Failed to initialize NVML: Unknown Error", "and again", *OTHER_LINES] * 3)
    (finding,) = recognise(text, known())
    assert (finding.line, finding.count) == (1, 3)


def test_certain_evidence_takes_the_place_of_possible_evidence():
    near, exact = "could not insert 'km': Invalid argument", DOCUMENTED[2][1]
    (finding,) = recognise(f"{near}\n{exact}\n{exact}\n{near}", known())
    assert (finding.confidence, finding.line, finding.count) == (Confidence.CERTAIN, 2, 4)
    assert finding.text == exact


def test_what_is_new_is_told_as_it_comes():
    recogniser = Recogniser(known())
    filler = "\n" * 8
    assert recogniser.feed(f"could not insert 'km': Invalid argument{filler}")[0].confidence == Confidence.POSSIBLE
    assert recogniser.feed(f"could not insert 'km': Invalid argument{filler}") == []
    assert recogniser.feed(f"{DOCUMENTED[2][1]}{filler}")[0].confidence == Confidence.CERTAIN
    assert recogniser.feed(f"{DOCUMENTED[4][1]}") == []
    assert [finding.id for finding in recogniser.finish()] == ["nvml-init"]


def test_the_evidence_is_what_the_log_says_without_what_its_carrier_adds():
    log = (
        "Mar  1 12:00:00 node-1 kubelet[1]: \x1b[31mFailed to initialize NVML:\x1b[0m\n"
        " GPU access blocked by\x07 operating system"
    )
    assert found(log)["nvml-init"].text == "Failed to initialize NVML:\nGPU access blocked by  operating system"


def test_of_a_long_line_the_part_around_the_message_is_shown():
    finding = found("x " * 5000 + DOCUMENTED[4][1] + " y" * 5000)["nvml-init"]
    assert len(finding.text) < 500
    assert DOCUMENTED[4][1] in finding.text


@pytest.mark.parametrize("failure", known().failures.values(), ids=lambda failure: failure.id)
def test_anchors_are_in_the_form_in_which_they_are_looked_for(failure: Failure):
    assert failure.anchors
    for anchor in failure.anchors:
        assert squeeze(anchor) == anchor
        assert squeeze_bytes(anchor.encode()) == anchor.encode()


@pytest.mark.parametrize("failure", known().failures.values(), ids=lambda failure: failure.id)
def test_each_failure_says_all_that_it_should(failure: Failure):
    assert failure.title
    assert failure.cause
    assert failure.fix
    assert failure.source
    assert failure.certain or failure.possible or failure.trace

"""Whatever a cluster, a kubeconfig or a probe's log holds, it is understood or refused in our own words."""

from __future__ import annotations

import gzip
import json
import tarfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgpu.adapters.kube_answers import parse_retry_after, pause_before_retry, refusal
from cgpu.adapters.kubeconfig import read_access
from cgpu.doctor.cluster import facts_of_node, gpus_of_pod, is_gpu_node, shares_gpus
from cgpu.doctor.probe_pod import ProbeError, archive_of, unpack
from cgpu.errors import ClusterError
from tests.unit.doctor.test_probe_pod import archive, log

some = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def mappings(**optional: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Anything, mostly mappings with these keys, or some of them."""
    return JSON | st.fixed_dictionaries({}, optional=optional)


# --- answers


@some
@given(st.text())
def test_any_retry_after_is_a_time_or_none(header: str):
    seconds = parse_retry_after(header, datetime(2026, 1, 1, tzinfo=UTC))
    assert seconds is None or seconds >= 0


@some
@given(st.integers(0, 1000), st.none() | st.floats(0, allow_infinity=False, allow_nan=False), st.floats(0, 1))
def test_a_pause_is_bounded(attempt: int, asked: float | None, chance: float):
    assert 0 <= pause_before_retry(attempt, asked, chance) <= 30


@some
@given(st.integers(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_pauses_grow(attempt: int, chance: float, other: float):
    assert pause_before_retry(attempt, None, chance) <= 2 * pause_before_retry(attempt + 1, None, other)
    assert pause_before_retry(attempt, None, 1) <= pause_before_retry(attempt + 1, None, 1)


@some
@given(st.integers(300, 999), mappings(message=JSON, metadata=mappings(**{"continue": JSON})))
def test_any_refusal_is_an_error_of_one_line(status: int, document: object):
    error = refusal(status, document, "list nodes")
    assert error.message.isprintable()
    assert len(error.message) < 800
    assert error.status == status


WORDS = st.sampled_from(["clusters", "contexts", "users", "name", "cluster", "context", "user", "current-context"])
CONFIG = st.recursive(
    st.none() | st.integers() | st.sampled_from(["a", "cluster", "name", "https://x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner),
    max_leaves=12,
)


@some
@given(st.binary(max_size=300) | CONFIG.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_kubeconfig_or_an_error(tmp_path: Path, content: bytes):
    (tmp_path / "config").write_bytes(content)
    try:
        access = read_access((tmp_path / "config",), None)
    except ClusterError as error:
        assert str(tmp_path) in error.message  # noqa: PT017 - both ways are right
        return
    assert access.cluster["server"]


# --- objects

LABELS = st.sampled_from(
    [
        "nvidia.com/cuda.driver-version.full",
        "nvidia.com/cuda.driver-version.major",
        "nvidia.com/cuda.driver-version.minor",
        "nvidia.com/gpu.count",
        "cgpu",
        "node.kubernetes.io/instance-type",
        "ack.aliyun.com/nvidia-driver-version",
    ]
)
INFO = mappings(kernelVersion=JSON, osImage=JSON, kubeletVersion=JSON, containerRuntimeVersion=JSON)


@some
@given(
    mappings(name=JSON, labels=JSON | st.dictionaries(LABELS, JSON)),
    mappings(nodeInfo=INFO, capacity=JSON, allocatable=JSON),
)
def test_any_node_object_becomes_facts(metadata: object, status: object):
    node = {"metadata": metadata, "status": status}
    assert is_gpu_node(node) in (True, False)
    assert shares_gpus(node) in (True, False)
    facts = facts_of_node(node)
    assert all(facts[name].known or facts[name].how for name in facts)


@some
@given(st.text(), JSON.map(json.dumps) | st.text())
def test_any_annotations_name_gpus_or_none(index: str, allocation: str):
    annotations = {"ALIYUN_COM_GPU_MEM_IDX": index, "scheduler.framework.gpushare.allocation": allocation}
    assert all(gpu.isdecimal() for gpu in gpus_of_pod({"metadata": {"annotations": annotations}}))


# --- a probe's log


@some
@given(st.binary(max_size=2_000), st.lists(st.integers(0, 4_000), max_size=6))
def test_an_archive_comes_back_however_its_log_is_cut(content: bytes, cuts: list[int]):
    text = log(content)
    places = [0, *sorted(cuts), len(text)]
    assert archive_of(text[a:b] for a, b in pairwise(places)) == content


def reason(content: bytes, folder: Path) -> str:
    """Why it can't be unpacked; empty when it was."""
    try:
        unpack(content, folder)
    except ProbeError as error:
        return str(error)
    return ""


@some
@given(st.binary(max_size=500), st.booleans())
def test_any_bytes_are_an_archive_or_a_reason(tmp_path_factory: pytest.TempPathFactory, content: bytes, packed: bool):
    folder = tmp_path_factory.mktemp("unpacked")
    assert reason(gzip.compress(content) if packed else content, folder).isprintable()


@some
@given(st.data())
def test_a_damaged_archive_is_a_reason_and_nothing_leaves_its_folder(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    whole = archive([(tarfile.TarInfo("a/b"), b"content" * 50), (tarfile.TarInfo("c"), b"")])
    plain = bytearray(gzip.decompress(whole))
    for _ in range(data.draw(st.integers(1, 4))):
        plain[data.draw(st.integers(0, 1_200))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("unpacked") / "inner"
    folder.mkdir()
    assert reason(gzip.compress(bytes(plain)), folder).isprintable()
    assert [path.name for path in folder.parent.iterdir()] == ["inner"]

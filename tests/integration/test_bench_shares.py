"""The benchmark of shares: its client, and its fast version, which finds what does not work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lane import Lane
from bench.load import Load, LoadError
from bench.machine import compile_client

ROOT = Path(__file__).parents[2]
KERNEL_NS = 50_000
FAST_SECONDS = 60


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client("load", tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def lane(program: Path) -> Iterator[Lane]:
    with Lane.temporary(program, "t4") as lane:
        yield lane


@pytest.fixture(params=["bare", "tenant"])
def client(lane: Lane, request: pytest.FixtureRequest) -> Load:
    return lane.bare(1)[0] if request.param == "bare" else lane.tenants(1)[0]


def done(lane: Lane, client: Load) -> int:
    status = lane.machine.status().cards[0]
    return next(row.kernels for row in status.processes if row.pid == client.pid)


@pytest.mark.parametrize("sync", [0, 1, 3])
@pytest.mark.parametrize("kind", ["plain", "ex", "cooperative", "graph"])
def test_the_card_has_done_all_launches_when_the_client_has_stopped(lane: Lane, client: Load, kind: str, sync: int):
    before = done(lane, client)
    client.run(kind, KERNEL_NS, sync)
    client.end()
    launches = client.launches()
    assert done(lane, client) - before == launches


@pytest.mark.parametrize("kind", ["memcpy", "memset", "stream-ordered"])
def test_copies_and_fills_take_the_cards_time(lane: Lane, client: Load, kind: str):
    before = lane.look().busy_ns
    client.run(kind, KERNEL_NS, 1)
    client.end()
    launches = client.launches()
    assert lane.look().busy_ns - before >= launches * (KERNEL_NS - 1_000)


@pytest.mark.parametrize("where", ["null", "legacy", "per-thread", "own"])
def test_work_goes_to_any_stream_from_any_number_of_threads(lane: Lane, client: Load, where: str):
    client.streams(where, threads=3)
    before = done(lane, client)
    client.run("plain", KERNEL_NS, 0)
    client.end()
    launches = client.launches()
    client.streams("null")
    assert done(lane, client) - before == launches


def test_threads_work_in_contexts_by_turns(lane: Lane, client: Load):
    client.streams("own", threads=3, contexts=2)
    before = done(lane, client)
    client.run("graph", KERNEL_NS, 0)
    client.end()
    launches = client.launches()
    client.streams("null")
    status = lane.machine.status().cards[0]
    assert next(row.live_contexts for row in status.processes if row.pid == client.pid) == 2
    assert done(lane, client) - before == launches


def test_graphs_are_of_kernels_of_100_us(lane: Lane, client: Load):
    before = done(lane, client)
    client.run("graph", 1_000_000, 1)
    client.end()
    launches = client.launches()
    assert done(lane, client) - before == 10 * launches


def test_first_kernels_are_measured_as_often_as_asked(client: Load):
    assert len(client.first(KERNEL_NS, 3, 100)) == 3


def test_a_client_says_what_it_does_not_understand(client: Load):
    with pytest.raises(LoadError, match="no such kind"):
        client.run("unknown", KERNEL_NS, 0)
    with pytest.raises(LoadError, match="no such stream"):
        client.streams("unknown")


@pytest.mark.timing
def test_the_fast_version_finds_all_within_bounds_in_less_than_a_minute(tmp_path: Path, program: Path):
    command = [sys.executable, "-m", "bench.shares", "--fast"]
    result = subprocess.run(
        [*command, "--json", str(tmp_path / "shares.json"), "--picture", str(tmp_path / "shares.svg")],
        cwd=ROOT, capture_output=True, text=True, timeout=3 * FAST_SECONDS,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads((tmp_path / "shares.json").read_text())
    assert document["simulated"] is True
    assert all(row["ok"] for row in document["rows"])
    assert document["took_seconds"] < FAST_SECONDS
    assert "simulated GPU" in (tmp_path / "shares.svg").read_text()

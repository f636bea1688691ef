"""What the benchmark of a cluster makes of what it has seen."""

from __future__ import annotations

from dataclasses import replace

from bench.kube import order
from bench.kube_figures import Trial, document, table, verdict
from bench.kube_objects import Kind
from bench.memory import Memory
from cgpu.adapters.latencies import Latencies


def metrics(*seconds: float) -> str:
    latencies = Latencies("cgpu_webhook_review_seconds", "path", "x")
    for value in seconds:
        latencies.observe("/pods", value)
    return latencies.text()


ACK = Trial(
    kind=Kind.ACK,
    nodes=10,
    cards=8,
    pods=100,
    created_s=1.0,
    curve=[(0.0, 0), (2.0, 50), (4.0, 100)],
    load=((0.5, 0.4, 0.3), (1.5, 0.4, 0.3)),
    processor_s={"kube-apiserver": 3.0, "webhook-1": 0.5, "webhook-2": 0.5},
    memory={"webhook-1": Memory(40 * 1024, 30 * 1024)},
    metrics=[metrics(*[0.004] * 98), metrics(0.04, 3.0)],
)
CLAIMS = replace(ACK, kind=Kind.CLAIMS, metrics=(), memory={}, processor_s={"kube-apiserver": 3.0})


def test_rates_shares_and_latencies():
    assert ACK.rate == 25.0
    assert ACK.webhook_share == 0.25
    latency = ACK.latencies()["/pods"]
    assert (latency.count, latency.percentile_s(50), latency.percentile_s(99)) == (100, 0.005, 0.05)
    assert latency.percentile_s(100) == 5.0
    assert replace(ACK, metrics=[metrics(60.0)]).latencies()["/pods"].percentile_s(50) == float("inf")


def test_bounds():
    assert verdict([ACK, CLAIMS]) == []
    assert verdict([ACK]) == []
    slow = replace(ACK, curve=[(4.3, 100)])
    assert "at 93.0% of the rate" in verdict([slow, CLAIMS])[0]
    assert verdict([slow, replace(ACK, curve=[(3.8, 100)]), CLAIMS]) == []
    late = replace(ACK, metrics=[metrics(*[0.004] * 97, 0.06, 0.06, 0.06)])
    assert verdict([late, CLAIMS]) == ["1 % of the answers to /pods took longer than 50 ms"]


def test_what_is_written_down():
    text = table([ACK, CLAIMS])
    assert "| ack | 25.0 | 1 s | 40 ms | 25.0% | ≤ 5 ms, ≤ 50 ms |  | 30 MiB | 0.5, 1.5 |" in text
    assert {line.count("|") for line in text.splitlines()} == {10}
    values = document({"cpus": 2}, [ACK, CLAIMS])
    assert values["trials"][0]["latency_s"]["/pods"]["99"] == 0.05
    assert values["missed"] == []


def test_the_order_goes_forth_and_back():
    assert order([Kind.ACK, Kind.CLAIMS], 3) == [Kind.ACK, Kind.CLAIMS, Kind.CLAIMS, Kind.ACK, Kind.ACK, Kind.CLAIMS]

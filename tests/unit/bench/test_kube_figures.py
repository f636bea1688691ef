"""What the benchmark of a cluster makes of what it has seen."""

from __future__ import annotations

import json
from dataclasses import replace

from bench.kube import order
from bench.kube_figures import Batch, Trial, beside, document, table, verdict
from bench.kube_objects import Kind
from bench.memory import Memory
from cgpu.adapters.latencies import Latencies


def metrics(*seconds: float) -> str:
    latencies = Latencies("cgpu_webhook_review_seconds", "path", "x")
    for value in seconds:
        latencies.observe("/pods", value)
    return latencies.text()


def batch(placed_s: float, **processor_s: float) -> Batch:
    return Batch(50, created_s=0.5, placed_s=placed_s, processor_s={"kube-apiserver": 1.5, **processor_s})


OURS = {"webhook-1": 0.25, "webhook-2": 0.25}
ACK = Trial(
    kind=Kind.ACK,
    nodes=10,
    cards=8,
    batches=[batch(1.5, **OURS), batch(2.5, **OURS)],
    load=((0.5, 0.4, 0.3), (1.5, 0.4, 0.3)),
    memory={"webhook-1": Memory(40 * 1024, 30 * 1024)},
    metrics=[metrics(*[0.004] * 98), metrics(0.04, 3.0)],
)
CLAIMS = replace(ACK, kind=Kind.CLAIMS, metrics=(), memory={}, batches=[batch(1.5), batch(2.5)])


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
    slow = replace(ACK, batches=[batch(1.6), batch(2.7)])
    assert "at 93.2% of the rate" in verdict([slow, CLAIMS])[0]
    late = replace(ACK, metrics=[metrics(*[0.004] * 97, 0.06, 0.06, 0.06)])
    assert verdict([late, CLAIMS]) == ["1 % of the answers to /pods took longer than 50 ms"]


def test_what_changes_for_both_kinds_changes_nothing():
    slower = [batch(3.0), batch(25.0)]
    assert beside([replace(ACK, batches=slower), replace(CLAIMS, batches=slower)]) == (1.0, 0.0)
    assert beside([ACK]) is None
    part, error = beside([replace(ACK, batches=[batch(1.5), batch(2.0)]), CLAIMS]) or (0, 0)
    assert (part, error) == (1.125, 0.125)


def test_what_is_written_down():
    text = table([ACK, CLAIMS])
    assert "| ack | 25.0 | 1 s | 40 ms | 25.0% | ≤ 5 ms, ≤ 50 ms |  | 30 MiB | 0.5, 1.5 |" in text
    *rows, blank, last = text.splitlines()
    assert ({line.count("|") for line in rows}, blank) == ({10}, "")
    assert last == "ACK beside claims, batch by batch: 100.0% of the rate, standard error 0.0%"
    values = document({"cpus": 2}, [ACK, CLAIMS])
    assert values["trials"][0]["latency_s"]["/pods"]["99"] == 0.05
    assert values["missed"] == []


def test_what_is_not_known_is_null_and_said():
    late = replace(ACK, batches=ACK.batches[:1], metrics=[metrics(60.0)])
    trials = [late, replace(CLAIMS, batches=CLAIMS.batches[:1])]
    written = json.loads(json.dumps(document({}, trials), allow_nan=False))
    assert written["ack_beside_claims"] == {"mean": 1.0, "standard_error": None}
    assert written["trials"][0]["latency_s"]["/pods"]["50"] is None
    assert table(trials).endswith("batch by batch: 100.0% of the rate, one batch: no error known\n")
    assert "| > 10000 ms, > 10000 ms |" in table(trials)


def test_the_order_goes_forth_and_back():
    assert order([Kind.ACK, Kind.CLAIMS], 3) == [Kind.ACK, Kind.CLAIMS, Kind.CLAIMS, Kind.ACK, Kind.ACK, Kind.CLAIMS]

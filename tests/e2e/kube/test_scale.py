"""The benchmark of a cluster, small: every kind of pods is placed, and the webhook tells how long it took."""

from __future__ import annotations

import pytest

from bench import kube
from bench.kube_figures import Trial
from bench.kube_objects import Kind
from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.kube import programs

SIZE = kube.Size(nodes=20, cards=8, batches=2, batch=50)
PODS = SIZE.batches * SIZE.batch


@pytest.fixture(scope="module")
def trials() -> dict[Kind, Trial]:
    with needed():
        tools.root_with_namespaces()
        for name in ("ip", "nft"):
            tools.program(name)
        programs.kubernetes(programs.DEFAULT)
        programs.etcd()
        programs.kwok()
    return {trial.kind: trial for trial in kube.run(list(Kind), SIZE)}


@pytest.mark.timeout(400)
def test_pods_of_every_kind_are_placed(trials: dict[Kind, Trial]):
    assert {kind: trial.pods for kind, trial in trials.items()} == dict.fromkeys(Kind, PODS)
    assert all(trial.rate > 0 for trial in trials.values())


@pytest.mark.timeout(400)
def test_the_webhook_tells_of_each_pod_and_each_claim(trials: dict[Kind, Trial]):
    latencies = trials[Kind.ACK].latencies()
    assert {path: row.count for path, row in latencies.items()} == {"/pods": PODS, "/claims": PODS}
    assert all(trial.metrics == [] for kind, trial in trials.items() if kind is not Kind.ACK)


@pytest.mark.timing
@pytest.mark.timeout(400)
def test_most_answers_take_milliseconds(trials: dict[Kind, Trial]):
    for row in trials[Kind.ACK].latencies().values():
        assert row.percentile_s(50) <= 0.05

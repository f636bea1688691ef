"""A failed test's report shows the cluster: else what happened on a machine far away stays unknown."""

from __future__ import annotations

import signal

from tests.e2e.host import eventually
from tests.e2e.kube.distress import signs_of
from tests.e2e.kube.installation import Installation


def test_it_shows_the_nodes_and_where_each_agent_stands(installation: Installation):
    before = [installation.agent_pod(worker.name) for worker in installation.cluster.workers]
    signs = signs_of(installation.cluster)
    for worker in installation.cluster.workers:
        assert f"{worker.name} " in signs
        assert f"{worker.folder}/kubelet.log:" in signs
    assert signs.count("Current thread") >= len(before)  # a test before may have asked too
    assert signs.count("agent/main.py") >= len(before)
    assert "has ended" not in signs
    assert [installation.agent_pod(worker.name) for worker in installation.cluster.workers] == before


def test_it_shows_who_has_ended_and_how(installation: Installation):
    worker = installation.cluster.workers[1]
    processes = worker._daemons.processes
    try:
        worker.host.signal(processes["kube-proxy"], signal.SIGKILL)
        eventually(lambda: processes["kube-proxy"].poll() is not None, "it has ended")
        assert "kube-proxy has ended with -9" in signs_of(installation.cluster)
    finally:
        worker.start("kube-proxy")
    installation.wait_for_webhook()

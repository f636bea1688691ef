from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cgpu.compat.verdict import Verdict
from cgpu.doctor.outcome import verdict_of
from cgpu.k8s.allocations import Picture, picture
from cgpu.k8s.installation import Seen, Webhook, check_installation
from cgpu.k8s.offers import parse_slice
from tests.unit.k8s.cluster_objects import slices_of


def seen_picture(*slices: dict[str, Any]) -> Picture:
    return picture([one for item in slices if (one := parse_slice(item)) is not None], ())


def exclusive() -> Picture:
    (item,) = slices_of("node-a", 1)
    del item["spec"]["devices"][0]["allowMultipleAllocations"]
    return seen_picture(item)


WHOLE = Seen(
    kubernetes="v1.37.2",
    device_class=True,
    labelled=("node-a",),
    picture=seen_picture(*slices_of("node-a")),
    webhooks=(Webhook("pods.cgpu.dev", "cgpu-system/cgpu-webhook", 2),),
    versions={"cgpu-system/agent": "0.1.0", "cgpu-system/webhook": "0.1.0"},
    claim_qps=500,
)


def verdicts(seen: Seen) -> dict[str, Verdict]:
    return {check.name.removeprefix("cluster:"): check.verdict for check in check_installation(seen)}


def test_a_whole_installation_is_fine():
    assert set(verdicts(WHOLE).values()) == {Verdict.SUPPORTED}
    assert verdict_of(check_installation(WHOLE)) is Verdict.SUPPORTED


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "words"),
    [
        ({"api": False}, "api", Verdict.UNSUPPORTED, "does not serve resource.k8s.io/v1"),
        ({"picture": exclusive()}, "gate", Verdict.UNSUPPORTED, "each goes to one claim alone"),
        ({"picture": seen_picture()}, "gate", Verdict.NOT_OBSERVED, "no GPU is offered"),
        ({"device_class": False}, "device-class", Verdict.UNSUPPORTED, "no claim can be allocated"),
        ({"labelled": ("node-a", "node-b")}, "driver", Verdict.UNSUPPORTED, "offering no GPU: node-b"),
        ({"picture": seen_picture(slices_of("node-a", 65)[0])}, "driver", Verdict.UNSUPPORTED, "node-a"),
        ({"labelled": tuple(f"n{number}" for number in range(9))}, "driver", Verdict.UNSUPPORTED, "and 4 more"),
        ({"labelled": ()}, "driver", Verdict.UNKNOWN, "no node is labelled"),
        ({"webhooks": ()}, "webhook", Verdict.UNKNOWN, "no webhook of cgpu's is registered"),
        ({"webhooks": (Webhook("w", "ns/s", 0),)}, "webhook", Verdict.UNSUPPORTED, "the Service ns/s has no pod"),
        ({"webhooks": (Webhook("w", "", None),)}, "webhook", Verdict.NOT_OBSERVED, "reached by an URL"),
        ({"versions": {"a": "1", "b": "2"}}, "versions", Verdict.UNKNOWN, "a is 1, b is 2"),
        ({"versions": {}}, "versions", Verdict.NOT_OBSERVED, "no DaemonSet"),
        ({"claim_qps": 20}, "claim-rate", Verdict.SUPPORTED, "about 10 claims a second"),
        ({"claim_qps": None}, "claim-rate", Verdict.NOT_OBSERVED, "cannot be seen"),
        ({"missing": {"device_class": "403"}}, "device-class", Verdict.NOT_OBSERVED, "not known: 403"),
    ],
)
def test_what_is_missing_is_found(changes: dict[str, Any], check: str, verdict: Verdict, words: str):
    found = {one.name: one for one in check_installation(replace(WHOLE, **changes))}[f"cluster:{check}"]
    assert found.verdict is verdict
    assert words in found.rule


def test_what_cannot_be_seen_of_the_claim_rate_does_not_leave_the_cluster_unchecked():
    assert verdict_of(check_installation(replace(WHOLE, claim_qps=None))) is Verdict.SUPPORTED


def test_a_low_claim_rate_is_advised_about():
    found = {one.name: one.advice for one in check_installation(replace(WHOLE, claim_qps=20))}
    assert "--kube-api-qps" in found["cluster:claim-rate"]
    assert not {one.name: one.advice for one in check_installation(WHOLE)}["cluster:claim-rate"]

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cgpu.k8s.template_collector import Round, named_templates, stale_ledgers
from cgpu.k8s.template_collector import decide as decided
from cgpu.k8s.templates import Share, name_of

Named = dict[str, Any]
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
SHARE = Share(8192)
NAME = name_of(SHARE)


def made(since: object = None, namespace: str = "team") -> dict[str, Any]:
    annotations = {} if since is None else {"cgpu.dev/unused-since": str(since)}
    return {
        "metadata": {"namespace": namespace, "name": NAME, "resourceVersion": "7", "annotations": annotations},
    }


def pod(template: str = NAME, phase: str = "Pending", namespace: str = "team", **metadata: Any) -> dict[str, Any]:
    spec = {
        "resourceClaims": [
            {"name": "a", "resourceClaimName": "b"},
            {"name": "c", "resourceClaimTemplateName": template},
        ]
    }
    return {"metadata": {"namespace": namespace, **metadata}, "spec": spec, "status": {"phase": phase}}


def decide(templates: list[Named], pods: list[Named], now: datetime, sizes_mib: tuple[int, ...] = ()) -> Round:
    used = {(pod["metadata"]["namespace"], name) for pod in pods for name in named_templates(pod)}
    return decided(templates, used, now, lambda: sizes_mib)


def ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


def test_an_unused_template_is_marked_and_goes_ten_minutes_later():
    assert decide([made()], [], NOW) == Round(mark=(("team", NAME),))
    assert decide([made(ago(9.9))], [], NOW) == Round()
    assert decide([made(ago(10))], [], NOW) == Round(delete=(("team", NAME, "7"),))


def test_a_used_template_stays_and_loses_its_mark():
    assert decide([made()], [pod()], NOW) == Round()
    assert decide([made(ago(60))], [pod()], NOW) == Round(unmark=(("team", NAME),))


def test_pods_that_have_ended_or_are_elsewhere_do_not_use_it():
    for other in (pod(phase="Succeeded"), pod(phase="Failed"), pod(deletionTimestamp="x")):
        assert decide([made(ago(60))], [other], NOW).delete
    elsewhere = decide([made(ago(60))], [pod(namespace="other")], NOW)
    assert elsewhere == Round(delete=(("team", NAME, "7"),), make=(("other", SHARE),))


def test_what_is_missed_is_made_again_if_its_name_tells_it():
    assert decide([], [pod(), pod("mine")], NOW) == Round(make=(("team", SHARE),))


def test_a_mark_that_is_no_time_or_still_to_come_is_set_anew():
    for since in ("yesterday", (NOW + timedelta(hours=1)).isoformat()):
        assert decide([made(since)], [], NOW) == Round(mark=(("team", NAME),))


def test_ledgers_of_namespaces_that_are_gone_go():
    rows = [{"metadata": {"name": name}} for name in ("cgpu-quota-a", "cgpu-quota-b", "else")]
    assert stale_ledgers(rows, {"b"}) == ["cgpu-quota-a"]


def test_a_missed_template_of_a_proportional_share_is_made_again_while_its_cards_are_there():
    share = Share(3072, card_sizes_mib=(15079, 40536))
    missed = [pod(name_of(share))]
    assert decide([], missed, NOW, (15079, 40536)) == Round(make=(("team", share),))
    assert decide([], missed, NOW, (8192, 15079, 23028, 40536)) == Round(make=(("team", share),))  # others have come
    assert decide([], missed, NOW, (15079,)) == Round()


def test_a_used_template_of_a_proportional_share_stays():
    name = name_of(Share(3072, card_sizes_mib=(15079,)))
    there = made(ago(60))
    there["metadata"]["name"] = name
    assert decide([there], [pod(name)], NOW) == Round(unmark=(("team", name),))


def test_templates_of_others_make_no_work():
    def unasked() -> tuple[int, ...]:
        raise AssertionError("the cards are listed")

    used = {("team", name) for name in named_templates(pod("somebodys-own"))}
    assert decided([], used, NOW, unasked) == Round()

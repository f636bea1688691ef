from __future__ import annotations

import pytest

from cgpu.k8s import pending_event
from cgpu.k8s.pending_event import FRESH_S, SAME_LIMIT_S, Regarding, Told, is_due, told_by
from cgpu.k8s.pending_note import Reason

POD = Regarding("team", "web-0", "uid-1")
MEMORY = Reason(("memory",), "asked 8 GiB, 5 GiB are left")


def test_an_event_names_the_pod_and_the_reason():
    made = pending_event.document(POD, MEMORY, "vm_1")
    assert made["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "team",
        "name": "web-0",
        "uid": "uid-1",
    }
    assert (made["reason"], made["type"], made["note"]) == ("GpuShareUnavailable", "Warning", MEMORY.note)
    assert made["metadata"]["name"].startswith("web-0.")


def test_the_name_is_that_of_the_same_words_to_the_same_pod():
    def name(pod: Regarding, reason: Reason, instance: str = "a") -> str:
        return str(pending_event.document(pod, reason, instance)["metadata"]["name"])

    assert name(POD, MEMORY) == name(POD, MEMORY, "b")
    assert name(POD, MEMORY) != name(POD, Reason(("memory",), "other"))
    assert name(POD, MEMORY) != name(Regarding("team", "web-0", "uid-2"), MEMORY)


@pytest.mark.parametrize("length", [1, 236, 237, 253])
def test_a_long_name_of_a_pod_is_cut_to_a_name_that_the_server_takes(length: int):
    made = pending_event.document(Regarding("team", ("a." * 200)[: length - 1] + "a", "u"), MEMORY, "x" * 300)
    name = made["metadata"]["name"]
    assert len(name) <= 253
    assert ".." not in name
    assert len(made["reportingInstance"]) == 128


@pytest.mark.parametrize(
    ("told", "after", "due"),
    [
        (None, 0, True),
        (Told(MEMORY.note, MEMORY.kinds, 0), FRESH_S - 1, False),
        (Told(MEMORY.note, MEMORY.kinds, 0), FRESH_S, True),
        (Told("asked 8 GiB, 4 GiB are left", MEMORY.kinds, 0), SAME_LIMIT_S - 1, False),
        (Told("asked 8 GiB, 4 GiB are left", MEMORY.kinds, 0), SAME_LIMIT_S, True),
        (Told("20 of 20 tenants", ("shares",), 0), 0, True),
    ],
)
def test_another_limit_is_told_at_once_other_numbers_after_a_while(told: Told | None, after: float, due: bool):
    assert is_due(MEMORY, told, after) is due


def test_what_was_told_is_read_back_from_events_the_newest_of_each_pod():
    old, new = (pending_event.document(POD, Reason(("shares", "memory"), note), "a") for note in ("old", "new"))
    old["eventTime"], new["eventTime"] = "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:01.000000Z"
    other = pending_event.document(Regarding("team", "p", "uid-2"), MEMORY, "a")
    assert told_by([new, old, other], 5.0) == {
        "uid-1": Told("new", ("shares", "memory"), 5.0),
        "uid-2": Told(MEMORY.note, MEMORY.kinds, 5.0),
    }
    old |= pending_event.said_again(old)
    assert old["series"]["count"] == 2
    assert pending_event.said_again(old)["series"]["count"] == 3
    assert told_by([new, old], 5.0)["uid-1"].note == "old"

"""What of a pod a failure may be read from."""

from __future__ import annotations

from typing import Any

from cgpu.doctor.pod_texts import container_logs, event_text, status_text

POD: dict[str, Any] = {
    "status": {
        "phase": "Failed",
        "reason": "UnexpectedAdmissionError",
        "message": "Allocate failed",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "message": "0/3 nodes"}],
        "initContainerStatuses": [{"name": "init", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}],
        "containerStatuses": [
            {
                "name": "main",
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": {"reason": "StartError", "message": "OCI runtime create failed"}},
            },
            {"name": "side", "state": {"running": {"startedAt": "x"}}},
        ],
    }
}


def test_a_status_is_its_messages_a_line_each():
    assert status_text(POD).decode().splitlines() == [
        "Failed UnexpectedAdmissionError Allocate failed",
        "PodScheduled 0/3 nodes",
        "init terminated Completed",
        "main terminated StartError OCI runtime create failed",
        "main waiting CrashLoopBackOff back-off",
    ]


def test_a_container_that_waits_has_only_its_previous_log():
    assert list(container_logs(POD)) == [("init", False), ("main", True), ("side", False)]


def test_a_pod_of_which_nothing_is_known_has_no_logs():
    assert list(container_logs({})) == []
    assert status_text({}) == b"\n"


def test_an_event_has_the_moment_that_its_kind_has():
    event = {"type": "Warning", "reason": "Failed", "message": "a\nb"}
    assert event_text({**event, "lastTimestamp": "1"}) == b"1 Warning Failed a\nb\n"
    assert (
        event_text({**event, "lastTimestamp": None, "series": {"lastObservedTime": "2"}}) == b"2 Warning Failed a\nb\n"
    )
    assert event_text({**event, "eventTime": "3"}) == b"3 Warning Failed a\nb\n"
    assert event_text({}) == b"\n"

"""What of a pod a failure may be read from, as text: its status, its events, and which logs it has. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_STATUSES: Final = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


def container_logs(pod: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The logs that there may be: (container, whether it is of its previous run), the previous run first."""
    for status in _containers(pod):
        if (status.get("lastState") or {}).get("terminated"):
            yield str(status.get("name")), True
        if not (status.get("state") or {}).get("waiting"):
            yield str(status.get("name")), False


def status_text(pod: Mapping[str, Any]) -> bytes:
    """What the kubelet and the scheduler say of the pod, a line each."""
    status = pod.get("status") or {}
    lines = [_line(status.get("phase"), status.get("reason"), status.get("message"))]
    lines += [
        _line(condition.get("type"), condition.get("reason"), condition.get("message"))
        for condition in status.get("conditions") or ()
        if condition.get("message")
    ]
    for container in _containers(pod):
        for key in ("lastState", "state"):
            for kind, state in (container.get(key) or {}).items():
                if isinstance(state, dict) and (state.get("reason") or state.get("message")):
                    lines.append(_line(container.get("name"), kind, state.get("reason"), state.get("message")))
    return "".join(lines).encode()


def event_text(event: Mapping[str, Any]) -> bytes:
    """An event as a line: when, what kind, and its message, which may have several lines itself."""
    series = event.get("series") or {}
    moment = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime")
    return _line(moment, event.get("type"), event.get("reason"), event.get("message")).encode()


def _containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status") or {}
    return (container for key in _STATUSES for container in status.get(key) or ())


def _line(*parts: object) -> str:
    return " ".join(str(part) for part in parts if part) + "\n"

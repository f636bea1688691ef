"""What answers of the Kubernetes API mean, and how long to wait for a better one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from cgpu.adapters.kube_answers import parse_retry_after, refusal, unreachable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        (format_datetime(NOW + timedelta(seconds=12), usegmt=True), 12.0),
        (format_datetime(NOW - timedelta(seconds=12), usegmt=True), 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("Thu, 01 Jan 2026 00:00:05", None),  # of no zone
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None):
    assert parse_retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "said", "remedy"),
    [
        (401, "does not accept who asks", "log in again"),
        (403, "may not do that", "doctor-rbac.yaml"),
        (429, "too many requests", "later"),
        (503, "not ready", "control plane"),
        (404, 'nodes "x" not found', ""),
        (799, 'nodes "x" not found', ""),
    ],
)
def test_a_refusal_names_what_was_asked_why_not_and_the_way_out(status: int, said: str, remedy: str):
    error = refusal(status, {"message": 'nodes "x" not found'}, "list nodes")
    assert "did not list nodes" in error.message
    assert said in error.message
    assert 'nodes "x" not found' in error.message
    assert str(status) in error.message
    assert remedy in error.remedy


def test_an_expired_list_says_where_it_goes_on():
    assert refusal(410, {"metadata": {"continue": "t"}}, "list").continue_token == "t"
    assert refusal(410, {"metadata": {"continue": 5}}, "list").continue_token == ""


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("[Errno 111] Connection refused", "does not answer"),
        ("", "no reason given"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", "not trusted"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "TLS"),
    ],
)
def test_a_server_that_gives_no_answer(reason: str, said: str):
    error = unreachable("https://h:6443", reason)
    assert said in error.message
    assert "https://h:6443" in error.message
    assert error.remedy

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cgpu.adapters.serving_certificates import LIFE, make, valid_until
from cgpu.adapters.webhook_certificates import ANNOUNCED, RENEW_BEFORE, Step, Stored, after, decide

HOSTS = ("cgpu-webhook.cgpu-system.svc", "cgpu-webhook.cgpu-system")
NOW = datetime(2026, 11, 28, tzinfo=UTC)


def fresh(now: datetime = NOW) -> Stored:
    return after(Step.MAKE, Stored({}), make(HOSTS, now), now)


def test_nothing_unreadable_or_ended_is_made_anew():
    assert decide(Stored({}), HOSTS, NOW) is Step.MAKE
    assert decide(Stored({"ca.crt": b"x", "tls.crt": b"x", "tls.key": b"x"}), HOSTS, NOW) is Step.MAKE
    assert decide(fresh(), HOSTS, NOW + LIFE) is Step.MAKE
    assert decide(fresh(), (*HOSTS, "another"), NOW) is Step.MAKE
    other = {**fresh().data, "tls.key": make(HOSTS, NOW).key}
    assert decide(Stored(other), HOSTS, NOW) is Step.MAKE
    assert decide(Stored({**fresh().data, "ca.crt": b""}), HOSTS, NOW) is Step.MAKE


def test_a_certificate_is_kept_until_long_before_its_end():
    stored = fresh()
    early = NOW + LIFE - RENEW_BEFORE
    assert decide(stored, HOSTS, early - timedelta(seconds=1)) is Step.KEEP
    assert decide(stored, HOSTS, early) is Step.ANNOUNCE
    assert after(Step.KEEP, stored, make(HOSTS, NOW), NOW) is stored


def test_a_new_one_is_trusted_before_it_is_served_and_the_old_one_after():
    stored = fresh()
    old = stored.data["ca.crt"]
    early = NOW + LIFE - RENEW_BEFORE
    announced = after(Step.ANNOUNCE, stored, make(HOSTS, early), early)
    assert announced.data["tls.crt"] == stored.data["tls.crt"]
    new = announced.data["next-ca.crt"]
    assert announced.trusted == old + new
    assert decide(announced, HOSTS, early + ANNOUNCED - timedelta(seconds=1)) is Step.KEEP
    assert decide(announced, HOSTS, early + ANNOUNCED) is Step.SERVE
    served = after(Step.SERVE, announced, make(HOSTS, early), early)
    assert served.data["tls.crt"] == announced.data["next.crt"]
    assert served.trusted == new + old
    assert decide(served, HOSTS, early + ANNOUNCED) is Step.KEEP
    assert len(served.data) == 4


def test_an_announcement_without_a_time_is_served():
    early = NOW + LIFE - RENEW_BEFORE
    announced = after(Step.ANNOUNCE, fresh(), make(HOSTS, early), early)
    assert decide(Stored(announced.data), HOSTS, early) is Step.SERVE


def test_a_certificate_ends_when_it_says():
    made = make(HOSTS, NOW)
    assert valid_until(made.certificate, made.key, HOSTS) == NOW + LIFE


@pytest.mark.parametrize("certificate", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_has_no_end(certificate: bytes):
    assert valid_until(certificate, make(HOSTS, NOW).key, HOSTS) is None

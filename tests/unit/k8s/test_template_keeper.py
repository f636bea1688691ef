"""When the keeper of templates asks the API server, and who waits for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from cgpu.errors import ClaimError, ClusterError
from cgpu.k8s.template_keeper import STALE_S, TRUSTED_S, TemplateKeeper
from cgpu.k8s.templates import Share, template

SHARE = Share(8192)


@dataclass
class Api:
    """One template, or none. While it is ``shut`` nobody is answered."""

    stored: dict[str, Any] | None = None
    asked: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    answered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    broken: bool = False

    def get(self, *_: object) -> dict[str, Any] | None:
        self.asked += 1
        assert self.open.wait(5.0)
        self.answered.release()
        if self.broken:
            raise ClusterError("the API server is away")
        return self.stored

    def create(self, kind: object, document: dict[str, Any], namespace: str) -> dict[str, Any]:
        del kind, namespace
        self.stored = document
        return document


@dataclass
class Kept:
    api: Api = field(default_factory=Api)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.keeper = TemplateKeeper(self.api, lambda: self.now)  # type: ignore[arg-type]
        self.api.open.set()

    def ensure(self) -> None:
        self.keeper.ensure(SHARE, "team")

    def ensure_beside(self) -> None:
        """A review that does not wait: the API server is slow, and answers only afterwards."""
        self.api.open.clear()
        self.ensure()
        self.ensure()
        self.api.open.set()
        assert self.api.answered.acquire(timeout=5.0)
        for thread in threading.enumerate():
            if thread.name == "template":
                thread.join(5.0)


@pytest.fixture
def kept() -> Kept:
    made = Kept()
    made.ensure()
    assert made.api.stored is not None
    assert made.api.answered.acquire(timeout=5.0)
    return made


def test_a_template_that_was_there_is_not_asked_for(kept: Kept):
    kept.now += TRUSTED_S - 1
    kept.ensure()
    assert kept.api.asked == 1


def test_it_is_looked_for_again_once_and_no_review_waits(kept: Kept):
    for asked in (2, 3):
        kept.now += TRUSTED_S
        kept.ensure_beside()
        assert kept.api.asked == asked
    kept.now += TRUSTED_S - 1
    kept.ensure()
    assert kept.api.asked == 3


def test_one_that_was_deleted_is_made_again(kept: Kept):
    kept.api.stored = None
    kept.now += TRUSTED_S
    kept.ensure_beside()
    assert kept.api.stored == template(SHARE, "team")


@pytest.mark.parametrize("seconds", [TRUSTED_S, STALE_S])
def test_a_dry_run_makes_nothing(kept: Kept, seconds: float):
    kept.api.stored = None
    kept.now += seconds
    kept.keeper.ensure(SHARE, "team", dry_run=True)
    assert kept.api.stored is None
    assert "template" not in {thread.name for thread in threading.enumerate()}


def test_one_that_was_replaced_is_refused_at_the_next_review(kept: Kept):
    kept.api.stored = template(Share(4096), "team")
    kept.now += TRUSTED_S
    kept.ensure_beside()
    with pytest.raises(ClaimError):
        kept.ensure()


def test_after_a_long_time_a_review_waits_for_the_answer(kept: Kept):
    kept.api.broken = True
    kept.now += TRUSTED_S
    kept.ensure_beside()
    kept.now += STALE_S - TRUSTED_S
    with pytest.raises(ClusterError):
        kept.ensure()

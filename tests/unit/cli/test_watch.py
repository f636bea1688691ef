"""Looking again and again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cgpu.adapters.agent_client import NoAgentError
from cgpu.cli.watch import parse_interval, repeated
from cgpu.errors import AgentError, AmountError, CgpuError


def looks(*answers: str | CgpuError) -> tuple[Iterator[str], list[str]]:
    """The documents of these answers, one look each, and what is told beside them."""
    left, told = list(answers), list[str]()

    def look() -> str:
        answer = left.pop(0)
        if isinstance(answer, CgpuError):
            raise answer
        return answer

    return repeated(look, lambda: bool(left), told.append), told


def test_every_look_is_a_document_until_the_wait_says_that_it_ends():
    documents, told = looks("a", "b", "c")
    assert list(documents) == ["a", "b", "c"]
    assert told == []


def test_an_agent_that_does_not_answer_at_the_first_look_is_an_error():
    documents, told = looks(NoAgentError("no agent answers at x"), "a")
    with pytest.raises(NoAgentError):
        next(documents)
    assert told == []


def test_each_outage_is_told_once_and_survived():
    gone, hanging = NoAgentError("no agent answers at x"), AgentError("the agent at x does not answer")
    documents, told = looks("a", gone, hanging, gone, "b", "c", gone, gone, "d")
    assert list(documents) == ["a", "b", "c", "d"]
    assert told == ["cgpu: no agent answers at x; trying again"] * 2


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("0.1", 0.1), ("2.5", 2.5), ("3600", 3600.0)])
def test_an_interval_is_seconds(text: str, seconds: float):
    assert parse_interval(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "0.09", "3601", "nan", "inf", "1s", "soon"])
def test_any_other_interval_is_refused(text: str):
    with pytest.raises(AmountError, match="not an interval"):
        parse_interval(text)

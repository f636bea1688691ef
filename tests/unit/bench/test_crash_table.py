"""What a storm of crashes is judged by."""

from __future__ import annotations

import pytest

from bench import crash_table
from bench.crash_table import Result

CALM = Result(
    "kill", 3, samples=10, fullest=0.9, gone_ms=[1.0, 2.0], rates=(100.0, 60.0), worst_ms=(1.0, 20.0), named_ms=9
)


def test_what_is_as_it_should_be():
    assert CALM.wrong() == []
    assert "| kill | 3 | 0 | 0 of 10 | 90% | 2 / 2 | 100 / 60 | 1 / 20 | 9 ms | yes |" in crash_table.markdown([CALM])
    assert crash_table.document([CALM], {"cpus": 2})["storms"][0]["wrong"] == []


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (Result("x", hangs=1), "1 calls hung"),
        (Result("x", over=2, samples=9), "over quota in 2 of 9 looks"),
        (Result("x", gone_ms=[1.0, 1001.0]), "gone after 1001 ms"),
        (Result("x", named_ms=1500.0), "named after 1500 ms"),
        (Result("x", rates=(100.0, 49.0)), "kept 49% of its calls"),
        (Result("x", misses=["the agent does not answer"]), "the agent does not answer"),
    ],
)
def test_what_is_not(result: Result, cause: str):
    assert cause in result.wrong()[0]
    assert cause in crash_table.text(result)

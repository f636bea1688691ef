"""Verdicts and exit codes of nodes."""

from __future__ import annotations

from datetime import date

import pytest

from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.outcome import Exit, Report, exit_of
from tests.unit.doctor.nodes import facts_of

UNSUPPORTED, CONFLICT, UNKNOWN = Verdict.UNSUPPORTED, Verdict.CONFLICT, Verdict.UNKNOWN
NOT_OBSERVED, SUPPORTED = Verdict.NOT_OBSERVED, Verdict.SUPPORTED


def report(*checks: tuple[str, Verdict]) -> Report:
    made = tuple(Check(name, verdict, "", "", "") for name, verdict in checks)
    return Report("n", made, facts_of(), None, date(2026, 3, 31))


@pytest.mark.parametrize(
    ("checks", "exit_code"),
    [
        ([("driver", SUPPORTED)], Exit.FINE),
        ([("driver", UNSUPPORTED), ("kernel", UNKNOWN), ("toolkit", NOT_OBSERVED)], Exit.FAILURES),
        ([("kernel", UNKNOWN), ("toolkit", NOT_OBSERVED)], Exit.WARNINGS),
        ([("toolkit", CONFLICT)], Exit.WARNINGS),
        ([("toolkit", NOT_OBSERVED), ("driver", SUPPORTED)], Exit.NOT_CHECKED),
        ([("issue:kernel-panic", NOT_OBSERVED), ("driver", SUPPORTED)], Exit.NOT_CHECKED),
        ([("issue:pod-limit", NOT_OBSERVED), ("driver", SUPPORTED)], Exit.FINE),
        ([("issue:pod-limit", UNSUPPORTED), ("driver", SUPPORTED)], Exit.FAILURES),
        ([("cpu-manager", NOT_OBSERVED), ("labels", NOT_OBSERVED), ("driver", SUPPORTED)], Exit.FINE),
        ([("cpu-manager", NOT_OBSERVED)], Exit.NOT_CHECKED),
        ([], Exit.NOT_CHECKED),
    ],
    ids=str,
)
def test_a_nodes_exit_code(checks: list[tuple[str, Verdict]], exit_code: Exit):
    assert report(*checks).exit_code == exit_code


@pytest.mark.parametrize(
    ("verdicts", "exit_code"),
    [
        ([SUPPORTED, UNSUPPORTED, NOT_OBSERVED], Exit.FAILURES),
        ([SUPPORTED, UNKNOWN, NOT_OBSERVED], Exit.WARNINGS),
        ([SUPPORTED, NOT_OBSERVED], Exit.NOT_CHECKED),
        ([SUPPORTED, SUPPORTED], Exit.FINE),
        ([], Exit.NOT_CHECKED),
    ],
    ids=str,
)
def test_of_several_nodes_the_worst_counts(verdicts: list[Verdict], exit_code: Exit):
    assert exit_of(verdicts) == exit_code

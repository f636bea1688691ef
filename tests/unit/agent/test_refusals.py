"""Refused changes in the agent's log."""

from __future__ import annotations

import logging

import pytest

from cgpu.agent.refusals import LINES_MAX, WINDOW_SECONDS, RefusalLog
from tests.unit.agent.test_api import STRANGER, Call, api, call  # noqa: F401 - fixtures


def test_a_refused_change_is_logged_with_path_and_message_and_a_refused_look_is_not(
    call: Call,  # noqa: F811 - the fixture
    caplog: pytest.LogCaptureFixture,
):
    assert call("PATCH", "/v1/gpus/0", {"max_inst": 99})[0] == 400
    assert call("PATCH", "/v1/gpus/0", {"max_inst": 2}, peer=STRANGER)[0] == 403
    assert call("GET", "/v1/tenants/nobody")[0] == 404
    first, second = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert first == "refused: PATCH /v1/gpus/0: body.max_inst: not from 1 to 20"
    assert "only root" in second


def test_the_same_line_and_a_flood_are_told_once_a_window(caplog: pytest.LogCaptureFixture):
    now = [0.0]
    log = RefusalLog(lambda: now[0])
    for number in range(LINES_MAX + 5):
        log.refused("PATCH", f"/{number}", "no")
    log.refused("PATCH", "/0", "no")
    assert len(caplog.records) == LINES_MAX
    now[0] = WINDOW_SECONDS
    log.refused("PATCH", "/0", "no")
    assert [record.getMessage() for record in caplog.records[LINES_MAX:]] == [
        "refused: 6 more changes, told of no more than once in 10 s",
        "refused: PATCH /0: no",
    ]


def test_a_caller_cannot_begin_a_line(caplog: pytest.LogCaptureFixture):
    RefusalLog().refused("PATCH", "/a\nERROR \x1b[2J", "b\rc")
    assert caplog.records[0].getMessage() == "refused: PATCH /a?ERROR ?[2J: b?c"

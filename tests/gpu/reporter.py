"""Gathers what the checks of this suite have found, and leaves it as a report at the end of the run."""

from __future__ import annotations

import json
import platform
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.gpu.report import About, Check, Findings, check_name, document, markdown, totals, without_names

FINDINGS: Final = pytest.StashKey[Findings]()
ABOUT: Final = pytest.StashKey[About]()
DEFAULT: Final = "gpu-report.json"


class Reporter:
    """A plugin of pytest's."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._checks: list[Check] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A check has gone a step further."""
        report = yield
        if item.get_closest_marker("gpu") and (report.when == "call" or not report.passed):
            area, name = check_name(item.nodeid)
            said = without_names(_cause(call), platform.node()) if call.excinfo else ""
            findings = item.stash.get(FINDINGS, Findings())
            self._checks.append(Check(area, name, report.outcome, round(call.duration, 1), said, findings))
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write it, where there was a card to write about."""
        about = self._config.stash.get(ABOUT, None)
        if about is None:
            return
        target = Path(self._config.getoption("--report", default=None) or self._config.rootpath / DEFAULT)
        checks = sorted(self._checks, key=lambda check: (check.area, check.name))
        text = markdown(about, checks)
        target.write_text(json.dumps(document(about, checks), indent=2) + "\n")
        target.with_suffix(".md").write_text(text)
        terminalreporter.section("report: simulated" if about.simulated else "report")
        terminalreporter.write_line(text.partition("| area |")[0].rstrip())
        found = [f"{check.name}: {figure.text()}" for check in checks for figure in check.findings.figures]
        for line in (*found, "", f"in full: {target} and {target.with_suffix('.md').name}, {totals(checks)}"):
            terminalreporter.write_line(line)


def _cause(call: pytest.CallInfo[None]) -> str:
    assert call.excinfo
    if isinstance(call.excinfo.value, pytest.skip.Exception):
        return str(call.excinfo.value)
    return call.excinfo.exconly()

"""What holds for every test: how long it may take, and that it runs on this source tree."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# A unit test that needs longer waits for something, and then it is none.
UNIT_TIMEOUT_S = 2.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give unit tests their own short limit, unless they name one."""
    for item in items:
        if item.path.is_relative_to(TESTS / "unit") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT_S))

"""What holds for every test: how long it may take, and that it runs on this source tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

TESTS = Path(__file__).parent
# A unit test that needs longer waits for something, and then it is none. Several times what the slowest takes,
# since a test machine may do other things at the same time.
UNIT_TIMEOUT_S = 10.0

# One limit for a test is enough: the time of a single example says what else the machine did.
settings.register_profile("cgpu", settings(), deadline=None)
settings.load_profile("cgpu")


@pytest.fixture(scope="session", autouse=True)
def unicode_table() -> None:
    """Let hypothesis make its table of Unicode now: two seconds in a fresh clone, which no test should answer for."""
    st.text().validate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give unit tests their own short limit, unless they name one."""
    for item in items:
        if item.path.is_relative_to(TESTS / "unit") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT_S))

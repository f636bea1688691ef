from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.errors import AmountError
from cgpu.model.units import format_memory, parse_memory, parse_percent, parse_weight


@given(st.integers(min_value=1, max_value=1 << 60))
def test_what_is_formatted_parses_back_exactly(amount: int) -> None:
    assert parse_memory(format_memory(amount)) == amount


@given(st.integers(1, 10_000), st.sampled_from(["KiB", "MiB", "GiB"]))
def test_a_fraction_is_exact_or_refused(thousandths: int, suffix: str) -> None:
    """2.048KiB is not a whole number of bytes, 0.125KiB is; never a rounded amount."""
    scale = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[suffix]
    text = f"{thousandths // 1000}.{thousandths % 1000:03d}{suffix}"
    if thousandths * scale % 1000:
        with pytest.raises(AmountError):
            parse_memory(text)
    else:
        assert parse_memory(text) == thousandths * scale // 1000


@given(st.text(max_size=12))
def test_nonsense_is_refused_and_never_crashes(text: str) -> None:
    for parse, pattern in (
        (parse_memory, r"\d+(\.\d+)?([KMGT]i?)?B|\d+(\.\d+)?[KMGT]"),
        (parse_percent, r"\d+%?"),
        (parse_weight, r"\d+"),
    ):
        value = 0
        with contextlib.suppress(AmountError):
            value = parse(text)
        assert value >= 0
        assert not value or re.fullmatch(pattern, text.strip(), re.ASCII)

from __future__ import annotations

import contextlib
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.errors import AmountError
from cgpu.k8s.quantity import parse_quantity

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@given(st.integers(0, 10**12), st.sampled_from(sorted(SUFFIXES)))
def test_whole_numbers_with_a_suffix(number: int, suffix: str):
    assert parse_quantity(f"{number}{suffix}") == number * SUFFIXES[suffix]


@given(st.decimals(min_value=0, max_value=10**6, places=3), st.sampled_from(sorted(SUFFIXES)))
def test_a_fraction_counts_when_the_amount_is_whole(number: Decimal, suffix: str):
    exact = Fraction(number) * SUFFIXES[suffix]
    if exact.denominator == 1:
        assert parse_quantity(f"{number}{suffix}") == exact
    else:
        with pytest.raises(AmountError, match="not a whole number"):
            parse_quantity(f"{number}{suffix}")


@pytest.mark.parametrize(
    ("text", "value"), [("8Gi", 8 << 30), ("1e3", 1000), ("1E3", 1000), ("2E", 2 * 10**18), ("3000m", 3), ("5.", 5)]
)
def test_other_forms(text: str, value: int):
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " 8Gi", "8 Gi", "8gi", "GiB", "8GiB", "-1", "0.5", "1e999999", "500m", "Infinity", "9" * 100],
)
def test_what_is_none_is_refused(text: str):
    with pytest.raises(AmountError):
        parse_quantity(text)


@given(st.text(alphabet="0123456789.+-eEiKMGTPkmunN ", max_size=12))
def test_any_text_is_a_number_or_refused(text: str):
    with contextlib.suppress(AmountError):
        assert parse_quantity(text) >= 0

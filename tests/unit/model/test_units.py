from __future__ import annotations

import pytest

from cgpu.errors import AmountError
from cgpu.model.units import parse_memory, parse_percent, parse_weight


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("6GiB", 6 << 30),
        ("512MiB", 512 << 20),
        ("6G", 6 * 10**9),
        ("1.5GiB", 3 << 29),
        (" 1KiB ", 1024),
        ("256B", 256),
        ("2TiB", 2 << 40),
    ],
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_memory(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", "6", "0GiB", "-1GiB", "+1GiB", "6 GiB", "6gib", "6GiB/s", "1e3MiB", "1.GiB", ".5GiB", "0.1B", "GiB", "٦GiB"],
)
def test_malformed_amounts_of_memory_name_themselves(text: str) -> None:
    with pytest.raises(AmountError) as caught:
        parse_memory(text)
    assert repr(text) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "percent"), [("30", 30), ("30%", 30), ("1", 1), ("100%", 100)])
def test_percentages(text: str, percent: int) -> None:
    assert parse_percent(text) == percent


@pytest.mark.parametrize("text", ["0", "101", "-5", "30 %%", "3.5", "%", "", "1000000000000"])
def test_malformed_percentages(text: str) -> None:
    with pytest.raises(AmountError):
        parse_percent(text)


@pytest.mark.parametrize("text", ["0", "-1", "1001", "1.5", "two", ""])
def test_malformed_weights(text: str) -> None:
    with pytest.raises(AmountError):
        parse_weight(text)

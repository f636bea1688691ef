"""Shares of a card's time, by the card's own clock."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.gpu.busy import BusyTenant, Division, divide, measure
from tests.gpu.conftest import Card
from tests.gpu.report import Findings

SECONDS = 10.0
MILLISECOND = 1_000_000
FED = Path(__file__).with_name("fed_client.py")


@pytest.mark.gpu
@pytest.mark.timing
@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 4)], ids=str)
@pytest.mark.parametrize("kernel_ns", [MILLISECOND // 10, 5 * MILLISECOND])
def test_backlogged_tenants_get_their_weights_within_two_points(
    card: Card, weights: tuple[int, ...], kernel_ns: int, findings: Findings
):
    tenants = [BusyTenant(card, f"weight-{number}", weight, kernel_ns) for number, weight in enumerate(weights)]
    result = measure(card, tenants, SECONDS)
    asked = [100 * weight / sum(weights) for weight in weights]
    worst = max(abs(got - wanted) for got, wanted in zip(result.shares, asked, strict=True))
    findings.add("worst error", worst, "points", asked="2")
    findings.add("card busy", result.busy, "%", asked="at least 95")
    assert result.shares == pytest.approx(asked, abs=2.0)
    assert result.busy >= 95.0


@pytest.mark.gpu
@pytest.mark.timing
def test_beside_an_idle_neighbour_a_tenant_has_the_whole_card(card: Card, findings: Findings):
    card.tenant("idle", "2GiB")
    result = measure(card, [BusyTenant(card, "alone", 1, 2 * MILLISECOND)], SECONDS)
    findings.add("card busy", result.busy, "%", asked="at least 99")
    assert result.busy >= 99.0


@pytest.mark.gpu
@pytest.mark.timing
def test_graph_launches_are_charged_by_their_time(card: Card, findings: Findings):
    tenants = [BusyTenant(card, how, 1, 2 * MILLISECOND, how) for how in ("graphs", "launches")]
    shares = measure(card, tenants, SECONDS).shares
    findings.add("share of the one with graphs", shares[0], "%", asked="50")
    assert shares == pytest.approx([50.0, 50.0], abs=2.0)


@pytest.mark.gpu
def test_a_persistent_kernel_that_copies_feed_ends_beside_a_busy_neighbour(card: Card):
    neighbour = BusyTenant(card, "neighbour", 1, 2 * MILLISECOND)
    neighbour.wait_until_busy()
    fed = card.start("fed", sys.executable, str(FED), "50", memory="2GiB")
    assert fed.communicate(timeout=60)[0] == '"done"\n'
    neighbour.end()


def test_intervals_are_divided_as_they_overlap():
    first, second = [(0, 10), (20, 30), (40, 50)], [(8, 14), (30, 34), (48, 60)]
    # Both have work from 8 to 50: 22 and 12 of it, together 30 without what they overlap.
    assert divide([first, second], 0) == Division([100 * 22 / 34, 100 * 12 / 34], 100 * 30 / 42)
    with pytest.raises(AssertionError, match="did not compete"):
        divide([[(0, 10)], [(20, 30)]], 0)

"""What a planned upgrade breaks and mends."""

from __future__ import annotations

from typing import Any

import pytest

from cgpu.compat.dataset import shipped
from cgpu.doctor.checks import examine
from cgpu.doctor.upgrade import Upgrade, compare, parse_planned, planned_facts
from cgpu.errors import FactError
from tests.unit.doctor.nodes import FINE, facts_of


def planned(text: str, **changes: Any) -> Upgrade:
    facts = facts_of(FINE, **changes)
    to = parse_planned(text)
    return compare(to, examine(shipped(), facts), examine(shipped(), planned_facts(facts, to)))


def names(upgrade: Upgrade) -> tuple[list[str], list[str]]:
    return [step.name for step in upgrade.broken], [step.name for step in upgrade.mended]


def test_an_upgrade_of_cgpu_mends_the_panic():
    upgrade = planned("cgpu=1.5.20", cgpu="1.5.7")
    assert names(upgrade) == ([], ["issue:kernel-panic"])
    assert (upgrade.before.exit_code, upgrade.after.exit_code) == (2, 0)


def test_a_driver_that_the_installed_cgpu_does_not_know_is_newly_broken():
    upgrade = planned("driver=535.129.03", cgpu="1.5.2", driver="525.89.02", kernel="4.19.91")
    assert "driver" in names(upgrade)[0]
    assert upgrade.after.exit_code == 2


def test_the_same_driver_with_a_newer_cgpu_is_not():
    upgrade = planned("cgpu=1.5.20,driver=535.129.03", cgpu="1.5.2", driver="525.89.02", kernel="4.19.91")
    assert names(upgrade)[0] == []
    assert upgrade.after.exit_code == 0


def test_a_kernel_beyond_every_row_is_newly_broken_though_only_unknown():
    upgrade = planned("kernel=6.6.30")
    assert names(upgrade) == (["kernel"], [])
    assert upgrade.after.exit_code == 1


def test_nothing_planned_that_is_not_there_already_changes_nothing():
    upgrade = planned("cgpu=1.5.20, driver=570.86.15")
    assert names(upgrade) == ([], [])
    assert len(upgrade.unchanged) == len(upgrade.after.checks)


def test_removing_cgpu_from_a_labelled_node_breaks_its_isolation():
    upgrade = planned("cgpu=none")
    assert "isolation" in names(upgrade)[0]


def test_every_check_is_in_exactly_one_list():
    upgrade = planned("cgpu=1.0.3,container_os=true", installer="1.12.6")
    listed = [step.name for step in (*upgrade.broken, *upgrade.mended, *upgrade.unchanged)]
    both = {check.name for check in (*upgrade.before.checks, *upgrade.after.checks)}
    assert sorted(listed) == sorted(both)


def test_values_are_read_by_their_kind():
    text = "cgpu=v1.5.20,container_os=TRUE,cgroup=2,instance=gn7i"
    assert parse_planned(text) == {"cgpu": "v1.5.20", "container_os": True, "cgroup": 2, "instance": "gn7i"}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "to"),
        ("cgpu", "to"),
        ("cgpu=", "to"),
        ("cgpu=1.5.20,", "to"),
        ("cgpu=1.5.x", "cgpu"),
        ("cgpu=1.5.20,cgpu=1.5.19", "cgpu"),
        ("drivr=570.1", "drivr"),
        ("labels=a", "labels"),
        ("node=other", "node"),
        ("container_os=perhaps", "container_os"),
        ("cgroup=two", "cgroup"),
        ("instance=-", "instance"),
    ],
)
def test_a_malformed_plan_names_its_field(text: str, field: str):
    with pytest.raises(FactError) as caught:
        parse_planned(text)
    assert caught.value.field == field
    assert caught.value.remedy

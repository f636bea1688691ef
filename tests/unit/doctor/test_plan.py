"""The upgrade plan: its order, its commands, and what it says when there is none."""

from __future__ import annotations

import shlex
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.compat.advice import Advice, Change
from cgpu.compat.dataset import shipped
from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.checks import examine
from cgpu.doctor.outcome import Report
from cgpu.doctor.plan import Plan, Step, Where, plans_of
from cgpu.doctor.report.text import write_plans
from cgpu.doctor.report.totals import Totals
from tests.unit.doctor.nodes import FINE, facts_of


def change(fact: str, current: str, to: str) -> Change:
    return Change(fact=fact, current=current, to=to, why="a test")


def report(advice: Advice | None, *checks: Check, **facts: Any) -> Report:
    given_facts = facts_of({"node": "worker-1", **facts})
    return Report(given_facts.value("node") or "x", checks, given_facts, advice, date(2026, 3, 31))


def upgrade(*changes: Change, possible: bool = True) -> Advice:
    return Advice(possible=possible, text="do it", changes=changes)


ALL_CHANGES = (
    change("cgpu", "1.5.7", "1.5.20"),
    change("driver", "580.65.06", "570.86.15"),
    change("kernel", "6.6.1", "5.15"),
    change("toolkit", "1.18.0-1", "1.17.4-1"),
)


def commands(steps: tuple[Step, ...]) -> list[str]:
    return [command for step in steps for command in step.commands]


def position(steps: tuple[Step, ...], part: str) -> int:
    (found,) = [number for number, step in enumerate(steps) if part in step.what or part in " ".join(step.commands)]
    return found


def test_the_component_comes_first_and_only_the_console_can():
    (plan,) = plans_of([examine(shipped(), facts_of(FINE, cgpu="1.5.7"))])
    assert [step.where for step in plan.before] == [Where.CONSOLE, Where.CONSOLE]
    assert "ack-ai-installer" in plan.before[0].what
    assert "system disk" in plan.before[1].what


def test_a_node_is_emptied_before_and_filled_after():
    (plan,) = plans_of([examine(shipped(), facts_of(FINE, cgpu="1.5.7"))])
    order = (
        "kubectl get pods",
        "kubectl cordon",
        "kubectl drain",
        "uninstall.sh",
        "reboot",
        "/proc/cgpu_km/version",
        "uncordon",
    )
    places = [position(plan.first, part) for part in order]
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    assert "kubectl drain --ignore-daemonsets --delete-emptydir-data worker-1" in commands(plan.first)
    assert "cgpu doctor" in commands(plan.first)
    assert plan.rest == ()


def test_on_a_node_the_kernel_comes_before_the_driver_and_cgpu_last():
    (plan,) = plans_of([report(upgrade(*ALL_CHANGES), os="Ubuntu 22.04.4 LTS", kubernetes="1.30.1")])
    order = (
        "uninstall.sh",
        "replace the system disk",
        "NVIDIA-Linux-x86_64-570.86.15.run",
        "apt-get install",
        "reboot",
    )
    places = [position(plan.first, part) for part in order]
    assert places == sorted(places)
    assert "apt-get install --allow-downgrades nvidia-container-toolkit=1.17.4-1" in commands(plan.first)
    assert plan.first[position(plan.first, "replace the system disk")].where is Where.CONSOLE


def test_the_package_manager_is_that_of_the_distribution():
    advice = upgrade(change("toolkit", "1.18.0-1", "1.17.4-1"))
    (plan,) = plans_of([report(advice, os="Alibaba Cloud Linux 3 (Soaring Falcon)")])
    assert "yum install nvidia-container-toolkit-1.17.4-1" in commands(plan.first)


def test_a_rule_instead_of_a_version_gives_no_command():
    (plan,) = plans_of([report(upgrade(change("driver", "580.65.06", "one of 470, 535")))])
    assert not any("NVIDIA-Linux" in command for command in commands(plan.first))


def test_one_node_first_then_the_others():
    (plan,) = plans_of([report(upgrade(ALL_CHANGES[0]), node=f"worker-{number}") for number in range(3)])
    assert (plan.nodes, plan.count) == (("worker-0", "worker-1", "worker-2"), 3)
    assert "kubectl cordon worker-0" in commands(plan.first)
    assert 'kubectl cordon "$node"' in commands(plan.rest)
    text = "".join(write_plans([plan], Totals(shipped())))
    assert (
        text.index("worker-0, worker-1, worker-2")
        < text.index("kubectl cordon worker-0")
        < text.index('cordon "$node"')
    )
    assert "one at a time, as $node: worker-1, worker-2" in text
    assert "nothing was changed" in text


def test_nodes_are_grouped_by_equal_plans_and_those_in_need_come_first():
    fine = [report(Advice(possible=True, text="fine", changes=()), node=f"f{n}") for n in range(5)]
    bad = [report(upgrade(ALL_CHANGES[0]), node=f"b{n}") for n in range(2)]
    hopeless = [report(upgrade(possible=False), node="h")]
    plans = plans_of([*fine, *hopeless, *bad])
    assert [plan.nodes for plan in plans] == [("b0", "b1"), ("h",), ("f0", "f1", "f2", "f3", "f4")]


def test_where_nothing_can_be_done_the_plan_says_so_and_has_no_steps():
    (plan,) = plans_of([examine(shipped(), facts_of(FINE, kernel="6.6.30", cgpu="1.5.20"))])
    if plan.recipe.possible:  # the advice may be another kernel; then it is a step
        assert any("system disk" in step.what for step in (*plan.before, *plan.first))
    (plan,) = plans_of([report(Advice(possible=False, text="nothing helps", changes=()))])
    assert (plan.before, plan.first, plan.rest) == ((), (), ())
    text = "".join(write_plans([plan], Totals(shipped())))
    assert "nothing helps" in text
    assert "there is no plan" in text


def test_a_node_without_alibabas_cgpu_has_nothing_to_upgrade():
    (plan,) = plans_of([report(None)])
    assert (plan.before, plan.first) == ((), ())
    assert "nothing to upgrade" in plan.recipe.text


def test_a_node_whose_cgpu_is_not_known_gets_no_plan_and_is_told_why():
    (plan,) = plans_of([examine(shipped(), facts_of(FINE, cgpu=None, modules=None))])
    assert (plan.before, plan.first) == ((), ())
    assert "--probe" in plan.recipe.text


def test_an_instance_that_does_not_fit_needs_other_nodes():
    (plan,) = plans_of([report(upgrade(change("instance", "gn5", "gn7i")))])
    assert [step.where for step in plan.before] == [Where.CONSOLE]
    assert plan.first == ()


def test_a_node_outside_a_cluster_has_no_kubectl():
    (plan,) = plans_of([report(upgrade(ALL_CHANGES[0]), kubernetes="none", docker="24.0.7")])
    assert not any("kubectl" in command for command in commands(plan.first))
    assert "./install.sh" in commands(plan.first)
    assert "systemctl stop docker" in commands(plan.first)
    assert not any("ack-ai-installer" in step.what for step in plan.before)


def test_a_node_without_a_name_is_left_for_the_reader_to_fill_in():
    (plan,) = plans_of([report(upgrade(ALL_CHANGES[0]), node=None)])
    assert 'kubectl cordon "$node"' in commands(plan.first)


def test_what_no_upgrade_mends_stands_beside_the_plan():
    contradiction = Check("labels", Verdict.CONFLICT, "x", "y", "z", "remove one")
    (plan,) = plans_of([report(None, contradiction, Check("driver", Verdict.UNSUPPORTED, "x", "y", "z", "no"))])
    assert plan.recipe.also == ("labels: remove one",)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], max_codepoint=0x24F), min_size=1, max_size=30))
def test_a_nodes_name_is_one_word_of_every_command(name: str):
    if not name.isprintable():
        return
    (plan,) = plans_of([report(upgrade(ALL_CHANGES[0]), node=name, kubernetes="1.30.1")])
    for command in commands(plan.first):
        if command.startswith("kubectl"):
            words = shlex.split(command)
            assert words[-1] in (name, f"spec.nodeName={name}")
            assert not words[-1].startswith("-") or words[-2] == "--"


@pytest.mark.parametrize("count", [1, 2])
def test_the_json_of_a_plan_is_complete(count: int):
    reports = [report(upgrade(ALL_CHANGES[0]), node=f"n{number}") for number in range(count)]
    (plan,) = plans_of(reports)
    assert isinstance(plan, Plan)
    document = plan.as_json()
    assert document["changes"] == [{"fact": "cgpu", "from": "1.5.7", "to": "1.5.20", "why": "a test"}]
    assert len(document["other_nodes"]) == (0 if count == 1 else len(document["first_node"]))
    assert document["before"][0]["where"] == "console only"

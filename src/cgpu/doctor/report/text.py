"""Reports for people: the worst first, a line per check, then what to do."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.outcome import Report
from cgpu.doctor.plan import Plan, Step
from cgpu.doctor.report.totals import Totals, counted
from cgpu.doctor.upgrade import Step as Changed
from cgpu.doctor.upgrade import Upgrade

_WIDEST: Final = 40


def printable(text: str) -> str:
    """On one line, and without what a terminal would obey: control characters are written out."""
    return "".join(
        character if character == " " or unicodedata.category(character)[0] not in "CZ" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii") if character != "\xa0" else " "


def write_reports(reports: Iterable[Report], totals: Totals) -> Iterator[str]:
    """The nodes in the order given: one with all its checks, several with those that are not supported."""
    if totals.count != 1:
        yield f"{totals.count} nodes: {counted(totals.nodes) or 'none that has a GPU was found'}\n\n"
    for report in reports:
        yield from _node(report, brief=totals.count != 1)
        yield "\n"
    yield f"data: {totals.data}\n"


def write_upgrades(upgrades: Iterable[Upgrade], totals: Totals) -> Iterator[str]:
    """What a planned upgrade changes."""
    if totals.count != 1:
        yield f"{totals.count} nodes afterwards: {counted(totals.nodes) or 'none that has a GPU was found'}\n\n"
    for upgrade in upgrades:
        planned = ", ".join(f"{name}={value}" for name, value in upgrade.planned.items())
        before, after = upgrade.before.verdict.value, upgrade.after.verdict.value
        yield printable(f"{upgrade.after.node}: {before} now, {after} with {planned}") + "\n"
        yield from _changed("newly broken", upgrade.broken)
        yield from _changed("mended", upgrade.mended)
        yield from _unchanged(upgrade.unchanged)
        yield "\n"
    yield f"data: {totals.data}\n"


def write_plans(plans: Sequence[Plan], totals: Totals) -> Iterator[str]:
    """Plans, one after the other; nothing of them is run."""
    for plan in plans:
        yield from _plan(plan)
        yield "\n"
    yield f"data: {totals.data}\nnothing was changed: these are commands for you to run\n"


def _node(report: Report, *, brief: bool) -> Iterator[str]:
    shown = [check for check in report.checks if not brief or check.verdict is not Verdict.SUPPORTED]
    left = len(report.checks) - len(shown)
    fine = f" ({left} checks supported)" if left else ""
    yield printable(f"{report.node}: {report.verdict.value}{fine}") + "\n"
    columns = [(check.verdict.value, check.name, check.value) for check in shown]
    widths = [max((min(len(printable(row[i])), _WIDEST) for row in columns), default=0) for i in range(3)]
    for check, row in zip(shown, columns, strict=True):
        cells = "  ".join(printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {cells}  {printable(check.rule)} [{printable(check.source)}]\n"
    yield from _advice(report, shown)


def _advice(report: Report, shown: Sequence[Check]) -> Iterator[str]:
    advice = report.advice
    lines = [] if advice is None else [advice.text]
    if advice is not None and advice.possible:
        lines += [f"{change.fact}: {_from(change.current)}{change.to}: {change.why}" for change in advice.changes]
    for check in shown:
        if check.advice and check.verdict is not Verdict.SUPPORTED:
            lines.append(f"{check.name}: {check.advice}")
    if lines:
        yield "  advice:\n"
        yield from (f"    {printable(line)}\n" for line in dict.fromkeys(lines))


def _from(current: str) -> str:
    return f"{current} -> " if current else ""


def _changed(title: str, steps: Sequence[Changed]) -> Iterator[str]:
    yield f"  {title}: {len(steps) or 'nothing'}\n"
    for step in steps:
        check = step.after or step.before
        assert check is not None
        before = "does not apply" if step.before is None else step.before.verdict.value
        after = "no longer applies" if step.after is None else step.after.verdict.value
        yield f"    {printable(step.name)}: {before} -> {after}: {printable(check.rule)} [{printable(check.source)}]\n"


def _unchanged(steps: Sequence[Changed]) -> Iterator[str]:
    counts: dict[Verdict, int] = {}
    for step in steps:
        if step.after is not None:
            counts[step.after.verdict] = counts.get(step.after.verdict, 0) + 1
    yield f"  unchanged: {counted(counts) or 'nothing'}\n"
    for step in steps:
        if step.after is not None and step.after.verdict is not Verdict.SUPPORTED:
            yield f"    {printable(step.name)}: {step.after.verdict.value}: {printable(step.after.rule)}\n"


def _plan(plan: Plan) -> Iterator[str]:
    recipe = plan.recipe
    names = ", ".join(plan.nodes) or "the node, whose name is not known: write it for $node"
    yield printable(f"{plan.count} node{'s' if plan.count > 1 else ''}: {names}") + "\n"
    yield f"  {printable(recipe.text)}\n"
    for fact, current, to, why in recipe.changes:
        yield f"  {printable(f'{fact}: {_from(current)}{to}: {why}')}\n"
    if not recipe.possible:
        yield "  no upgrade of this node can do it: there is no plan\n"
    numbers = itertools.count(1)
    others = ", ".join(plan.nodes[1:])
    parts = (
        ("once", plan.before),
        ("then on the first node, alone" if plan.rest else "then on the node", plan.first),
        (f"then, when that node works, on each of the others, one at a time, as $node: {others}", plan.rest),
    )
    for title, steps in parts:
        if steps:
            yield f"  {printable(title)}:\n"
        for step in steps:
            yield from _step(next(numbers), step)
    if recipe.also:
        yield "  beside that:\n"
        yield from (f"    {printable(line)}\n" for line in recipe.also)


def _step(number: int, step: Step) -> Iterator[str]:
    yield f"  {number:3}. [{step.where.value}] {printable(step.what)}\n"
    yield from (f"         {printable(command)}\n" for command in step.commands)

"""``cgpu doctor``: what fits on a node or a cluster, what is known to fail, and what to upgrade."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgpu.cli import doctor_options
from cgpu.cli.parsers import Subparsers
from cgpu.errors import UsageError
from cgpu.settings import Settings

if TYPE_CHECKING:  # the other verbs start faster without these
    from cgpu.cli.doctor_spool import Spool
    from cgpu.compat.dataset import Dataset
    from cgpu.doctor.outcome import Report
    from cgpu.doctor.report.totals import Totals
    from cgpu.doctor.upgrade import Upgrade


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    doctor_options.add_parser(subparsers, run)


def run(options: argparse.Namespace, _settings: Settings) -> int:
    """Examine and report. Returns one of ``cgpu.doctor.outcome.Exit``."""
    from cgpu.cli.small_files import dataset_of

    doctor_options.check_options(options)
    dataset = dataset_of(options)
    if options.fix_plan:
        return _plans(options, dataset)
    if options.to is not None:
        return _upgrades(options, dataset)
    return _reports(options, dataset)


def _examined(options: argparse.Namespace, dataset: Dataset) -> Generator[Report, None, None]:
    from cgpu.cli.doctor_sources import facts_of
    from cgpu.doctor.checks import examine

    with closing(facts_of(options)) as found:
        for name, facts in found:
            report = examine(dataset, facts, ours=options.ours, name=name)
            if options.bundle is not None:
                _bundle(options, report)
            yield report


def _reports(options: argparse.Namespace, dataset: Dataset) -> int:
    from cgpu.cli.doctor_spool import Spool, rank_of
    from cgpu.doctor.report.totals import Totals

    totals = Totals(dataset)
    with Spool["Report"]() as spool, closing(_examined(options, dataset)) as examined:
        for report in examined:
            totals.add(report)
            spool.add(rank_of(report), report)
        installed = _installation(options, dataset) if options.cluster else None
        if installed is not None:
            totals.add(installed)
            spool.add(rank_of(installed), installed)
        _write(options, _formatted(options, spool, totals))
    return totals.exit_code


def _installation(options: argparse.Namespace, dataset: Dataset) -> Report | None:
    """Of cgpu in the cluster; None where nothing of it is there and nobody asks."""
    from cgpu.adapters import kube
    from cgpu.doctor.facts import Facts
    from cgpu.doctor.outcome import Report
    from cgpu.k8s.installation import REPORT, check_installation
    from cgpu.k8s.installation_reader import read_installation

    with kube.connect(options.kubeconfig, options.context) as cluster:
        seen = read_installation(cluster)
    if not seen.installed and not options.ours:
        return None
    return Report(REPORT, check_installation(seen), Facts({}), None, dataset.date, of_node=False)


def _formatted(options: argparse.Namespace, reports: Iterable[Report], totals: Totals) -> Iterator[str]:
    from cgpu.doctor.report import junit, markdown, sarif, text

    if options.json:
        return _documents(options, (report.as_json() for report in reports), totals)
    writers = {
        "junit": junit.write_junit,
        "sarif": sarif.write_sarif,
        "markdown": markdown.write_markdown,
        None: text.write_reports,
    }
    return writers[options.format](reports, totals)


def _documents(options: argparse.Namespace, documents: Iterator[dict[str, Any]], totals: Totals) -> Iterator[str]:
    """As JSON. Where one node is asked for it is an object of its own."""
    from cgpu.doctor.report import json_report

    if not options.cluster and len(options.facts or ["/"]) == 1:
        return json_report.write_one(next(documents), totals)
    return json_report.write_many(documents, totals)


def _upgrades(options: argparse.Namespace, dataset: Dataset) -> int:
    from cgpu.cli.doctor_spool import Spool, rank_of
    from cgpu.doctor.checks import examine
    from cgpu.doctor.report.totals import Totals
    from cgpu.doctor.upgrade import compare, parse_planned, planned_facts

    planned = parse_planned(options.to)
    totals = Totals(dataset)
    with Spool["Upgrade"]() as spool, closing(_examined(options, dataset)) as examined:
        for before in examined:
            after = examine(dataset, planned_facts(before.facts, planned), ours=options.ours, name=before.node)
            totals.add(after)
            spool.add(rank_of(after), compare(planned, before, after))
        _write(options, _formatted_upgrades(options, spool, totals))
    return totals.exit_code


def _formatted_upgrades(options: argparse.Namespace, upgrades: Spool[Upgrade], totals: Totals) -> Iterator[str]:
    from cgpu.doctor.report.text import write_upgrades

    if options.json:
        return _documents(options, (upgrade.as_json() for upgrade in upgrades), totals)
    if options.format is not None:
        return _formatted(options, (upgrade.after for upgrade in upgrades), totals)
    return write_upgrades(upgrades, totals)


def _plans(options: argparse.Namespace, dataset: Dataset) -> int:
    from cgpu.doctor.plan import Plans
    from cgpu.doctor.report import json_report
    from cgpu.doctor.report.text import write_plans
    from cgpu.doctor.report.totals import Totals

    totals, plans = Totals(dataset), Plans()
    with closing(_examined(options, dataset)) as examined:
        for report in examined:
            totals.add(report)
            plans.add(report)
    if options.json:
        _write(options, json_report.write_many((plan.as_json() for plan in plans.all()), totals, name="plans"))
    else:
        _write(options, write_plans(plans.all(), totals))
    return totals.exit_code


def _bundle(options: argparse.Namespace, report: Report) -> None:
    from cgpu.doctor.bundle import write_bundle

    checks = [check.as_json() for check in report.checks]
    write_bundle(report.facts, checks, options.root or Path("/"), options.bundle)
    print(f"packed {options.bundle}", file=sys.stderr)


def _write(options: argparse.Namespace, parts: Iterable[str]) -> None:
    """To stdout, or to a file that is there as a whole or not at all."""
    if options.output is None:
        for part in parts:
            sys.stdout.write(part)
        sys.stdout.flush()
        return
    _replace(options.output, parts)


def _replace(target: Path, parts: Iterable[str]) -> None:
    """Write a file beside it and rename that: whoever reads it sees the old one or the new one."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.writelines(parts)
        beside.replace(target)
    except OSError as error:
        message = f"--output {target}: {error.strerror}"
        raise UsageError(message, "name a file in a folder that you may write") from error
    finally:
        with suppress(OSError):
            beside.unlink()

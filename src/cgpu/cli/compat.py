"""``cgpu compat``: whether versions fit Alibaba's cGPU, or ours, and what to change."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_json, add_verb
from cgpu.cli.small_files import add_data, dataset_of
from cgpu.compat import EXPORT_FORMATS
from cgpu.errors import UsageError
from cgpu.settings import Settings

if TYPE_CHECKING:  # the other verbs start faster without these
    from cgpu.compat.advice import Advice
    from cgpu.compat.dataset import Dataset
    from cgpu.compat.verdict import Check

EXAMPLES = """\
examples:
  cgpu compat --cgpu 1.5.7 --driver 535.129.03 --kernel 5.10.134 --toolkit 1.13.5 --instance ecs.gn7i-c8g1.2xlarge
  cgpu compat --cgpu 1.5.18 --container-os
  cgpu compat --driver 570.86.15 --kernel 5.15.0-91      which versions of cGPU fit
  cgpu compat --ours --kernel 5.4 --glibc 2.17 --docker 24.0.7
  cgpu compat --export markdown

exit codes: 0 supported, 1 unknown or the source contradicts itself, 2 unsupported (or a malformed request).
"""
_FACTS: Final = (
    ("cgpu", "VERSION", "Alibaba's cGPU: 1.5.7; without it the versions that fit are listed"),
    ("driver", "VERSION", "NVIDIA driver: 535.129.03"),
    ("kernel", "VERSION", "Linux kernel, as `uname -r` prints it: 5.10.134-16.3.al8.x86_64"),
    ("toolkit", "VERSION", "nvidia-container-toolkit: 1.13.5-1"),
    ("instance", "TYPE", "ECS instance type or family: ecs.gn7i-c8g1.2xlarge, gn7i"),
    ("installer", "VERSION", "the component ack-ai-installer: 1.12.6"),
    ("kubernetes", "VERSION", "Kubernetes: 1.28.3"),
    ("docker", "VERSION", "Docker Engine: 24.0.7"),
)
_OURS: Final = (
    ("containerd", "VERSION", "with --ours: containerd"),
    ("podman", "VERSION", "with --ours: Podman"),
    ("runc", "VERSION", "with --ours: runc"),
    ("glibc", "VERSION", "with --ours: glibc of an image"),
)
_EXIT: Final = {"unsupported": 2, "conflict": 1, "unknown": 1, "supported": 0}  # by verdict


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "compat", run, "check whether versions fit Alibaba's cGPU, or ours", EXAMPLES)
    for name, metavar, meaning in (*_FACTS, *_OURS):
        parser.add_argument(f"--{name}", metavar=metavar, help=meaning)
    parser.add_argument("--cgroup", metavar="1|2", type=int, choices=(1, 2), help="with --ours: version of the cgroups")
    parser.add_argument("--container-os", action="store_true", help="Alibaba Cloud's container-optimized OS")
    parser.add_argument("--label", metavar="NAME=VALUE", action="append", default=[], help="a label of the node")
    parser.add_argument("--pods-per-gpu", metavar="N", type=int, help="pods on the fullest GPU")
    parser.add_argument("--ours", action="store_true", help="check against this cgpu instead")
    add_data(parser)
    parser.add_argument(
        "--export", metavar="FORM", choices=EXPORT_FORMATS, help="print all the data: json, csv or markdown"
    )
    add_json(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - no agent is asked
    """Print the checks, the worst first."""
    from cgpu.compat.export import export

    dataset = dataset_of(options)
    if options.export:
        print(export(dataset, options.export), end="")
        return 0
    given = _given(options)
    if not given:
        raise UsageError("nothing to check", "give at least one of --cgpu, --driver, --kernel, --toolkit, --instance")
    if options.ours:
        return _print_ours(given, options)
    given["container_os"] = options.container_os
    if options.cgpu is None:
        return _print_fitting(dataset, given, options)
    return _print_checks(dataset, given, options)


def _print_checks(dataset: Dataset, given: dict[str, Any], options: argparse.Namespace) -> int:
    from cgpu.compat.advice import advise
    from cgpu.compat.alibaba import check, not_checked
    from cgpu.compat.export import date_line
    from cgpu.compat.verdict import worst

    checks = check(dataset, given)
    advice = advise(dataset, given)
    if options.json:
        print(render.as_json(document(dataset, checks, advice, not_checked(dataset, given))))
    else:
        print(listing(checks))
        print(f"advice: {advice.text}")
        print(date_line(dataset))
    return _EXIT[worst(checks)]


def document(dataset: Dataset, checks: Sequence[Check], advice: Advice, unchecked: dict[str, str]) -> dict[str, Any]:
    """The machine-readable answer."""
    from cgpu.compat.export import about
    from cgpu.compat.verdict import worst

    return {
        "checks": [one.as_json() for one in checks],
        "verdict": worst(checks).value,
        "advice": advice.text,
        "possible": advice.possible,
        "changes": [change.as_json() for change in advice.changes],
        "not_checked": unchecked,
        "data": about(dataset),
    }


def listing(checks: Sequence[Check]) -> str:
    """One line per check."""
    rows = [(one.verdict.value, one.name, one.value, one.rule) for one in checks]
    return render.table(("VERDICT", "CHECK", "VALUE", "RULE"), rows)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    names = [name for name, _, _ in (*_FACTS, *_OURS)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not options.ours:
        only = [name for name, _, _ in _OURS if name in given] + (["cgroup"] if options.cgroup else [])
        if only:
            raise UsageError(f"--{only[0]} is checked with --ours only")
    elif options.cgroup is not None:
        given["cgroup"] = options.cgroup
    if options.label:
        given["labels"] = dict(_label(text) for text in options.label)
    if options.pods_per_gpu is not None:
        if options.pods_per_gpu < 0:
            raise UsageError(f"--pods-per-gpu {options.pods_per_gpu} is negative")
        given["pods_per_gpu"] = {"": options.pods_per_gpu}
    return given


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"not a label: {text!r}", "write --label ack.node.gpu.schedule=cgpu")
    return name, value


def _print_ours(given: dict[str, Any], options: argparse.Namespace) -> int:
    from cgpu.compat.ours import about_ours, check_ours
    from cgpu.compat.verdict import worst

    checks, about = check_ours(given), about_ours()
    done = {one.name.removeprefix("ours:") for one in checks}
    unchecked = [name for name in given if name not in done and not (name == "cgpu" and "alibaba" in done)]
    if options.json:
        rows = [one.as_json() for one in checks]
        verdict = worst(checks).value
        print(render.as_json({"checks": rows, "verdict": verdict, "not_checked": unchecked, "data": about}))
    else:
        print(listing(checks))
        if unchecked:
            print(f"not checked, since this cgpu needs nothing of it: {', '.join(unchecked)}")
        for one in checks:
            if one.advice:
                print(f"{one.name}: {one.advice}")
        print(f"data of {about['date']}: {about['source']}")
    return _EXIT[worst(checks)]


def _print_fitting(dataset: Dataset, given: dict[str, Any], options: argparse.Namespace) -> int:
    """Without a version: which ones fit."""
    from cgpu.compat.advice import advise, fitting_versions
    from cgpu.compat.export import about, date_line
    from cgpu.compat.verdict import Verdict

    versions = fitting_versions(dataset, given)
    fitting = [version.text for version, verdict in versions if verdict is Verdict.SUPPORTED]
    advice = advise(dataset, given)
    if options.json:
        rows = [{"cgpu": version.text, "verdict": verdict.value} for version, verdict in versions]
        print(
            render.as_json(
                {
                    "fitting": fitting,
                    "versions": rows,
                    "advice": advice.text,
                    "possible": advice.possible,
                    "changes": [change.as_json() for change in advice.changes],
                    "data": about(dataset),
                }
            )
        )
    else:
        print(render.table(("CGPU", "VERDICT"), [(version.text, verdict.value) for version, verdict in versions]))
        print(f"fitting: {', '.join(fitting) or 'none'}")
        print(f"advice: {advice.text}")
        print(date_line(dataset))
    best = min((verdict for _, verdict in versions), key=lambda verdict: -verdict.rank)
    return _EXIT[best]

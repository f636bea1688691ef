"""The options of ``cgpu doctor``: which there are, and which exclude each other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from cgpu.cli.parsers import Subparsers, Verb, add_verb
from cgpu.cli.small_files import add_data
from cgpu.errors import UsageError

EXAMPLES = """\
examples:
  cgpu doctor                                       this node
  cgpu doctor --facts node.yaml                     a node described in a file; - reads stdin
  cgpu doctor --to cgpu=1.5.20,driver=570.86.15     what a planned upgrade would break
  cgpu doctor --fix-plan                            the upgrade, step by step; it changes nothing
  cgpu doctor --cluster --selector pool=gpu         all GPU nodes of a cluster, the worst first
  cgpu doctor --cluster --probe --format junit --output doctor.xml

exit codes:
  0 fine
  1 warnings: a check is unknown, or the source contradicts itself
  2 failures: a check is unsupported (a malformed request is 2 too, as of all commands)
  3 could not check: a fact that matters is not observed and nothing is worse, no GPU, or no answer of the cluster
  Of several nodes the worst counts: 2, then 1, then 3.
"""
FORMATS: Final = ("junit", "sarif", "markdown")
_OF_CLUSTER: Final = ("kubeconfig", "context", "selector", "probe", "probe_image")


def add_parser(subparsers: Subparsers[argparse.ArgumentParser], run: Verb) -> None:
    """Declare the verb."""
    parser = add_verb(
        subparsers, "doctor", run, "check nodes: what fits, what is known to fail, what to upgrade", EXAMPLES
    )
    source = parser.add_argument_group("which nodes")
    source.add_argument(
        "--facts", metavar="FILE", action="append", help="a node described in YAML or JSON; several times"
    )
    source.add_argument("--root", metavar="DIR", type=Path, help="look at the node's files below DIR instead of /")
    source.add_argument(
        "--metadata", action="store_true", help="ask the cloud's metadata service for the instance type"
    )
    source.add_argument("--cluster", action="store_true", help="all GPU nodes of a Kubernetes cluster")
    source.add_argument("--kubeconfig", metavar="FILE", type=Path, help="with --cluster: how to reach it")
    source.add_argument("--context", metavar="NAME", help="with --cluster: the kubeconfig's context")
    source.add_argument("--selector", metavar="LABELS", help="with --cluster: only nodes of these labels")
    source.add_argument(
        "--probe",
        action="store_true",
        help="with --cluster: run a short read-only pod on each node for what its object lacks",
    )
    source.add_argument(
        "--probe-image", metavar="IMAGE", help="with --probe: the pod's image, which needs a shell and tar"
    )
    what = parser.add_argument_group("what is checked")
    what.add_argument("--to", metavar="FACT=VALUE,...", help="what these changes would break and mend")
    what.add_argument("--ours", action="store_true", help="whether our own agent would work there, too")
    add_data(what)
    form = parser.add_argument_group("how it is printed")
    form.add_argument(
        "--json", action="store_true", help="print JSON; --facts reads the facts of one node back from it"
    )
    form.add_argument("--format", choices=FORMATS, help="print a report for other programs")
    form.add_argument(
        "--fix-plan", action="store_true", help="print the upgrade as ordered steps with commands; run none"
    )
    form.add_argument("--output", metavar="FILE", type=Path, help="write it to FILE instead of stdout")
    form.add_argument(
        "--bundle", metavar="FILE", type=Path, help="also pack what a helper needs, secrets redacted (tar.gz)"
    )


def check_options(options: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go together."""
    _at_most_one(options, ("facts", "root", "cluster"))
    _at_most_one(options, ("json", "format"))
    _at_most_one(options, ("fix_plan", "format"))
    _at_most_one(options, ("fix_plan", "to"))
    _at_most_one(options, ("bundle", "cluster"))
    _at_most_one(options, ("bundle", "facts"))
    _at_most_one(options, ("metadata", "cluster"))
    _at_most_one(options, ("metadata", "facts"))
    for name in _OF_CLUSTER:
        if getattr(options, name) and not options.cluster:
            raise UsageError(f"{_option(name)} is about a cluster", "add --cluster")
    if options.probe_image and not options.probe:
        raise UsageError("--probe-image is about the pod of --probe", "add --probe")
    if options.facts and options.facts.count("-") > 1:
        raise UsageError("--facts - is there twice", "stdin can be read once")
    if options.root is not None and not options.root.is_dir():
        raise UsageError(
            f"--root {options.root} is no folder", "name the folder that holds the node's proc, sys and etc"
        )


def _at_most_one(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    given = [_option(name) for name in names if getattr(options, name)]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other", f"leave one of {', '.join(given)} out")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

"""``cgpu explain``: known failures and error codes, recognised in a text, a log, a pipe or a pod."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from cgpu.cli import render
from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.cli.small_files import STDIN, add_data, called, dataset_of, read_text
from cgpu.errors import UsageError
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.compat.dataset import Dataset
    from cgpu.doctor.codes import Code
    from cgpu.doctor.explain import Finding
    from cgpu.doctor.facts import Facts
    from cgpu.doctor.judge import Judged

EXAMPLES: Final = """\
examples:
  cgpu explain "Failed to initialize NVML: GPU access blocked by operating system"
  cgpu explain CGPU-CAPACITY                        an error code of cgpu's own
  cgpu explain -f /var/log/messages --node          and whether the causes apply to this node
  journalctl -k -o short-iso | cgpu explain
  cgpu explain --pod default/train --facts node.yaml

Exit code 0: something was recognised; 1: nothing was.
"""
_CHUNK_BYTES: Final = 256 << 10
_MIB: Final = 1 << 20
_PROGRESS_SECONDS: Final = 0.5
_NOTHING: Final = 1

Text = tuple[str, Iterable[bytes], int | None]
"""A text to look at: what it is (empty where there is one only), its pieces, its length where known."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = add_verb(subparsers, "explain", run, "recognise known failures in a log and say what mends them", EXAMPLES)
    parser.add_argument("text", metavar="TEXT|CODE", nargs="?", help="a message, or an error code of cgpu's")
    parser.add_argument("-f", "--file", metavar="LOG", help="a log of any length; - is stdin, as when nothing is named")
    parser.add_argument("--pod", metavar="NAMESPACE/NAME", help="the events and the logs of a pod")
    parser.add_argument("--kubeconfig", metavar="FILE", type=Path, help="of the cluster; with --pod")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig; with --pod")
    parser.add_argument("--facts", metavar="FILE", help="facts of the node where it happened, as YAML or JSON")
    parser.add_argument("--node", action="store_true", help="it happened on this node: look at its versions")
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - every verb is called so
    """Explain what is named."""
    from cgpu.doctor.codes import code_of

    _check(options)
    dataset = dataset_of(options)
    code = None if options.text is None else code_of(options.text)
    if code is not None:
        return _explain_code(code, dataset, as_json=options.json)
    facts = _facts(options)
    return _explain(_texts(options), facts, dataset, as_json=options.json)


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError for options that exclude one another."""
    sources = [
        name
        for name, value in (("TEXT", options.text), ("--file", options.file), ("--pod", options.pod))
        if value is not None
    ]
    if len(sources) > 1:
        raise UsageError(f"{' and '.join(sources)} exclude one another", "explain one thing at a time")
    if not sources and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "nothing to explain", 'name a text, a code, -f LOG or --pod, or pipe a log: cgpu explain "TEXT"'
        )
    for name in ("kubeconfig", "context"):
        if getattr(options, name) is not None and options.pod is None:
            raise UsageError(f"--{name} goes with --pod only")
    if options.facts is not None and options.node:
        raise UsageError("--facts and --node exclude one another", "the facts are of one node")
    from_stdin = options.file == STDIN or not sources
    if options.facts == STDIN and from_stdin:
        raise UsageError("the log and the facts cannot both come from stdin", "put one of them into a file")


def _facts(options: argparse.Namespace) -> Facts | None:
    if options.facts is not None:
        text = read_text(options.facts)
        from cgpu.doctor.facts_file import parse_facts

        return parse_facts(text, called(options.facts))
    if options.node:
        from cgpu.doctor.probes import HostCommands, probe_node

        return probe_node(Path("/"), runner=HostCommands())
    return None


def _texts(options: argparse.Namespace) -> Iterator[Text]:
    if options.text is not None:
        yield "", [os.fsencode(options.text)], None
    elif options.pod is not None:
        yield from _of_pod(options)
    elif options.file in (None, STDIN):
        yield "", _pieces(sys.stdin.buffer, "stdin"), _length(sys.stdin.buffer)
    else:
        try:
            file = Path(options.file).open("rb")  # noqa: SIM115 - closed below
        except OSError as error:
            raise UsageError(f"{options.file}: {error.strerror}") from error
        with file:
            yield "", _pieces(file, options.file), _length(file)


def _of_pod(options: argparse.Namespace) -> Iterator[Text]:
    from cgpu.adapters import kube

    namespace, slash, name = options.pod.partition("/")
    if not (slash and namespace and name) or "/" in name:
        raise UsageError(f"not a pod: {options.pod!r}", "write --pod NAMESPACE/NAME, such as --pod default/train")
    cluster = kube.connect(options.kubeconfig, options.context)
    for what, pieces in cluster.pod_texts(namespace, name):
        yield what, pieces, None


def _pieces(file: IO[bytes], name: str) -> Iterator[bytes]:
    read = getattr(file, "read1", file.read)  # what is there, rather than waiting for a whole piece
    try:
        while piece := read(_CHUNK_BYTES):
            yield piece
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error


def _length(file: IO[bytes]) -> int | None:
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _explain(texts: Iterable[Text], facts: Facts | None, dataset: Dataset, *, as_json: bool) -> int:
    from cgpu.compat.export import about
    from cgpu.doctor.explain import Recogniser
    from cgpu.doctor.failures import catalogue
    from cgpu.doctor.judge import judge

    known = catalogue(dataset)
    documents: list[dict[str, Any]] = []
    teller = _Teller(facts, dataset, silent=as_json)
    for what, pieces, length in texts:
        recogniser = Recogniser(known)
        progress = _Progress(length)
        for piece in pieces:
            teller.tell(what, recogniser.feed(piece), progress)
            progress.add(len(piece))
        teller.tell(what, recogniser.finish(), progress)
        progress.clear()
        found = judge(recogniser.findings, facts, dataset)
        teller.tell_counts(what, [judged.finding for judged in found])
        documents += ({**judged.as_json(), "where": what} for judged in found)
    if as_json:
        documents.sort(key=lambda document: str(document["confidence"]))  # certain, then possible
        print(render.as_json({"findings": documents, "data": about(dataset)}))
    elif not documents:
        print(f"nothing known was recognised (data of {dataset.date})")
    else:
        print(f"data of {dataset.date}: {dataset.name}")
    return 0 if documents else _NOTHING


def _explain_code(name: str, dataset: Dataset, *, as_json: bool) -> int:
    from cgpu.compat.export import about
    from cgpu.doctor.codes import codes
    from cgpu.doctor.explain import Confidence, Finding
    from cgpu.doctor.failures import catalogue

    code = codes().get(name)
    if as_json:
        findings = []
        if code is not None:
            failure = catalogue(dataset).failures[name]
            findings = [{**Finding(failure, Confidence.CERTAIN, 1, name).as_json(), "causes": list(code.causes)}]
        print(render.as_json({"findings": findings, "data": about(dataset)}))
    elif code is None:
        print(f"{name} is no code of cgpu's; docs/explain.md lists them")
    else:
        print(code_text(code))
    return _NOTHING if code is None else 0


def code_text(code: Code) -> str:
    """A code for people."""
    causes = "\n".join(f"    - {cause}" for cause in code.causes)
    return f"{code.code}: {code.meaning}\n  usual causes\n{causes}\n  what to do\n    {code.fix}"


def finding_text(what: str, judged: Judged, *, with_facts: bool) -> str:
    """A finding for people: a head line, and below it a line per part."""
    finding, failure = judged.finding, judged.finding.failure
    where = f"{what}, line {finding.line}" if what else f"line {finding.line}"
    parts = [
        ("seen", finding.text),
        ("cause", failure.cause),
        ("affected", failure.affected),
        ("fix", failure.fix),
        ("confirm", failure.confirm),
    ]
    if with_facts:
        parts.append(("here", f"{judged.applies}: {judged.why}"))
    return "\n".join(
        [
            f"{failure.id} ({finding.confidence.value}), {where}: {failure.title}",
            *(f"  {name:9} {text}".replace("\n", "\n" + " " * 12) for name, text in parts if text),
        ]
    )


class _Teller:
    """Prints findings as they come, and once more what has become certain."""

    def __init__(self, facts: Facts | None, dataset: Dataset, *, silent: bool) -> None:
        self._facts = facts
        self._dataset = dataset
        self._silent = silent

    def tell(self, what: str, findings: Sequence[Finding], progress: _Progress) -> None:
        """Print these."""
        from cgpu.doctor.judge import judge

        if self._silent or not findings:
            return
        progress.clear()
        for judged in judge(findings, self._facts, self._dataset):
            print(finding_text(what, judged, with_facts=self._facts is not None), end="\n\n", flush=True)

    def tell_counts(self, what: str, findings: Sequence[Finding]) -> None:
        """Print how often each was seen, where it was more than once."""
        often = [f"{finding.id} {finding.count} times" for finding in findings if finding.count > 1]
        if often and not self._silent:
            print(f"seen{f' in {what}' if what else ''}: {', '.join(often)}", flush=True)


class _Progress:
    """How far a long text has been read, on a terminal."""

    def __init__(self, length: int | None) -> None:
        self._length = length
        self._done = 0
        self._shown = False
        self._on = sys.stderr.isatty()
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def add(self, count: int) -> None:
        """So many bytes more."""
        self._done += count
        if self._on and time.monotonic() >= self._next:
            of = "" if self._length is None else f" of {self._length // _MIB}"
            sys.stderr.write(f"\r{self._done // _MIB}{of} MiB read\x1b[K")
            sys.stderr.flush()
            self._shown = True
            self._next = time.monotonic() + _PROGRESS_SECONDS

    def clear(self) -> None:
        """Make place for a finding."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

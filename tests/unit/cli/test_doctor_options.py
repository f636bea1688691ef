"""Options of the doctor that do not go together, and what it reads."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cgpu.cli.doctor_options import check_options
from cgpu.cli.main import build_parser
from cgpu.cli.small_files import read_text
from cgpu.errors import UsageError


def options(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(["doctor", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--facts", "a.yaml", "--cluster"),
        ("--facts", "a.yaml", "--root", "/"),
        ("--root", "/", "--cluster"),
        ("--json", "--format", "junit"),
        ("--fix-plan", "--format", "sarif"),
        ("--fix-plan", "--to", "cgpu=1.5.20"),
        ("--bundle", "b.tgz", "--cluster"),
        ("--bundle", "b.tgz", "--facts", "a.yaml"),
        ("--metadata", "--cluster"),
        ("--metadata", "--facts", "a.yaml"),
        ("--kubeconfig", "k"),
        ("--context", "c"),
        ("--selector", "a=b"),
        ("--probe",),
        ("--probe-image", "busybox"),
        ("--cluster", "--probe-image", "busybox"),
        ("--facts", "-", "--facts", "-"),
        ("--root", "/nowhere/at/all"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_refused_with_the_way_out(arguments: tuple[str, ...]):
    with pytest.raises(UsageError) as caught:
        check_options(options(*arguments))
    assert "--" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--facts", "a.yaml", "--facts", "-", "--json", "--ours"),
        ("--cluster", "--kubeconfig", "k", "--context", "c", "--selector", "a=b", "--probe", "--probe-image", "i"),
        ("--root", "/", "--metadata", "--bundle", "b.tgz"),
        ("--to", "cgpu=1.5.20", "--format", "junit", "--output", "o.xml"),
        ("--fix-plan", "--json"),
    ],
    ids=" ".join,
)
def test_what_goes_together_is_accepted(arguments: tuple[str, ...]):
    check_options(options(*arguments))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not UTF-8"), (b"x" * ((1 << 20) + 1), "is larger than")],
    ids=["binary", "huge"],
)
def test_a_file_that_is_no_small_text_is_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "facts.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_text(str(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="nothing-here: No such file"):
        read_text(str(tmp_path / "nothing-here"))
    with pytest.raises(UsageError, match="Is a directory"):
        read_text(str(tmp_path))

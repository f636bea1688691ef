"""``cgpu doctor`` as a process, over constructed trees of nodes and files of facts."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import cgpu
from cgpu.doctor.facts import KINDS
from cgpu.readable import readable
from tests.integration.conftest import CGPU, SECONDS
from tests.unit.doctor import trees
from tests.unit.doctor.nodes import FINE

DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"


def doctor(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
    environment["PYTHONPATH"] = str(Path(cgpu.__file__).parents[1])
    return subprocess.run(
        [*CGPU, "doctor", *arguments], env=environment, text=True, capture_output=True, timeout=SECONDS, **options
    )


def checks(*arguments: str) -> tuple[int, dict[str, str]]:
    result = doctor(*arguments, "--json")
    document = json.loads(result.stdout)
    assert result.returncode == document["exit_code"], result.stderr
    return result.returncode, {check["name"]: check["verdict"] for check in document["checks"]}


@pytest.fixture
def fine(tmp_path: Path) -> Path:
    """A file of facts of a node that is fine."""
    path = tmp_path / "fine.json"
    path.write_text(json.dumps(FINE))
    return path


def changed(path: Path, name: str, **changes: Any) -> Path:
    facts = {key: value for key, value in {**json.loads(path.read_text()), **changes}.items() if value is not None}
    other = path.with_name(name)
    other.write_text(json.dumps(facts))
    return other


# --- Trees


def test_a_t4_with_cgpu_1_5_7_passes_every_matrix_and_still_panics(tmp_path: Path):
    code, found = checks("--root", str(trees.build(trees.T4_PANIC, tmp_path)))
    assert code == 2
    assert [name for name, verdict in found.items() if verdict == "unsupported"] == ["issue:kernel-panic"]
    assert {found[name] for name in ("driver", "kernel", "toolkit")} == {"supported"}
    assert found["instance"] == "not observed"


def test_an_a10_with_driver_535_and_cgpu_1_5_2_does_not_fit(tmp_path: Path):
    code, found = checks("--root", str(trees.build(trees.A10_OLD, tmp_path)))
    assert code == 2
    bad = {name for name, verdict in found.items() if verdict == "unsupported"}
    assert {"driver", "issue:nvml-init", "issue:kernel-panic", "cpu-manager"} <= bad


def test_container_os_with_1_5_18_has_its_hook_issue(tmp_path: Path):
    code, found = checks("--root", str(trees.build(trees.CONTAINER_OS, tmp_path)))
    assert code == 2
    assert [name for name, verdict in found.items() if verdict == "unsupported"] == ["issue:container-os-hook"]


def test_ubuntu_without_cgpu_is_fine(tmp_path: Path):
    code, found = checks("--root", str(trees.build(trees.UBUNTU, tmp_path)))
    assert code == 0
    assert found["cgpu"] == "supported"
    assert any(name.startswith("ours:") for name in found)
    assert not {"instance", "toolkit", "issue:kernel-panic"} & set(found)


def test_no_gpu_at_all_cannot_be_checked(tmp_path: Path):
    root = str(trees.build(trees.NO_GPU, tmp_path))
    code, found = checks("--root", root)
    assert (code, found["gpu"]) == (3, "not observed")
    assert "there is no NVIDIA GPU on this node" in doctor("--root", root).stdout


def test_this_very_node_can_be_looked_at():
    result = doctor("--json")
    document = json.loads(result.stdout)
    assert document["facts"]["kernel"]["value"] == os.uname().release
    assert result.returncode == document["exit_code"]
    assert result.stderr == ""


# --- Facts in files


def test_a_node_described_in_a_file_is_fine(fine: Path):
    result = doctor("--facts", str(fine))
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("worker-1: supported\n")
    assert result.stdout.endswith("data: Alibaba Cloud cGPU, 2026-03-31\n")


def test_its_own_json_can_be_read_back(fine: Path, tmp_path: Path):
    first = doctor("--facts", str(changed(fine, "bad.json", cgpu="1.5.7")), "--json")
    again = doctor("--facts", "-", "--json", input=first.stdout)
    assert first.returncode == again.returncode == 2
    assert json.loads(first.stdout)["checks"] == json.loads(again.stdout)["checks"]


def test_of_several_files_the_worst_comes_first_and_counts(fine: Path):
    bad = changed(fine, "bad.json", node="bad", cgpu="1.5.7")
    odd = changed(fine, "odd.json", node="odd", kernel="6.6.1")
    result = doctor("--facts", str(fine), "--facts", str(odd), "--facts", str(bad), "--json")
    document = json.loads(result.stdout)
    assert result.returncode == document["exit_code"] == 2
    assert [node["node"] for node in document["nodes"]] == ["bad", "odd", "worker-1"]
    assert document["counts"] == {"unsupported": 1, "unknown": 1, "supported": 1}


def test_a_file_without_a_name_in_it_gives_the_node_its_own(fine: Path):
    assert doctor("--facts", str(changed(fine, "nameless.json", node=None))).stdout.startswith("nameless.json: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"cgpu": "1.5.x"}', ("cgpu", "not a version")),
        ("kernel: 5.10\n", ("kernel", "quotes")),
        ("drivr: '1'\n", ("drivr", "no such fact")),
        ("[1, 2]", ("facts.yaml",)),
    ],
)
def test_a_malformed_file_is_named_with_its_field_and_exits_2(tmp_path: Path, content: str, words: tuple[str, ...]):
    path = tmp_path / "facts.yaml"
    path.write_text(content)
    result = doctor("--facts", str(path))
    assert result.returncode == 2
    assert result.stdout == ""
    assert all(word in result.stderr for word in words), result.stderr


def test_a_mistake_in_the_last_file_is_told_before_anything_is_printed(fine: Path, tmp_path: Path):
    (tmp_path / "last.yaml").write_text("cgpu: [")
    result = doctor("--facts", str(fine), "--facts", str(tmp_path / "last.yaml"))
    assert (result.returncode, result.stdout) == (2, "")


# --- What is asked


def test_a_planned_upgrade_says_what_breaks_and_exits_by_what_will_be(fine: Path):
    bad = str(changed(fine, "bad.json", cgpu="1.5.7"))
    good = doctor("--facts", bad, "--to", "cgpu=1.5.20,driver=570.86.15")
    assert good.returncode == 0
    assert "mended: 1\n    issue:kernel-panic: unsupported -> supported" in good.stdout
    worse = doctor("--facts", bad, "--to", "cgpu=1.5.2", "--json")
    assert worse.returncode == 2
    document = json.loads(worse.stdout)
    assert "driver" in [step["name"] for step in document["broken"]]
    assert document["to"] == {"cgpu": "1.5.2"}
    malformed = doctor("--facts", bad, "--to", "cgpu=latest")
    assert (malformed.returncode, "cgpu: not a version: 'latest'" in malformed.stderr) == (2, True)


def test_a_plan_changes_nothing_and_quotes_names(fine: Path):
    bad = changed(fine, "bad.json", cgpu="1.5.7", node="a'b c")
    result = doctor("--facts", str(bad), "--fix-plan")
    assert result.returncode == 2
    assert "[console only] upgrade the component ack-ai-installer" in result.stdout
    assert """kubectl cordon 'a'"'"'b c'\n""" in result.stdout
    assert "nothing was changed" in result.stdout
    (plan,) = json.loads(doctor("--facts", str(bad), "--fix-plan", "--json").stdout)["plans"]
    assert plan["changes"][0]["fact"] == "cgpu"


def test_formats_are_what_they_say(fine: Path, tmp_path: Path):
    bad = str(changed(fine, "bad.json", cgpu="1.5.7"))
    target = tmp_path / "out.xml"
    result = doctor("--facts", bad, "--facts", str(fine), "--format", "junit", "--output", str(target))
    assert (result.returncode, result.stdout) == (2, "")
    assert [suite.get("failures") for suite in ET.parse(target).getroot()] == ["1", "0"]
    sarif = json.loads(doctor("--facts", bad, "--format", "sarif").stdout)
    assert sarif["version"] == "2.1.0"
    assert "| unsupported | issue:kernel-panic |" in doctor("--facts", bad, "--format", "markdown").stdout
    planned = doctor("--facts", bad, "--to", "cgpu=1.5.20", "--format", "junit")
    assert ET.fromstring(planned.stdout).get("failures") == "0"


def test_an_output_that_cannot_be_written_leaves_what_was_there(fine: Path, tmp_path: Path):
    result = doctor("--facts", str(fine), "--output", str(tmp_path / "missing" / "out"))
    assert result.returncode == 2
    assert "--output" in result.stderr
    old = tmp_path / "old"
    old.write_text("old")
    assert doctor("--facts", str(tmp_path / "none"), "--output", str(old)).returncode == 2
    assert old.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fine.json", "old"]


def test_options_that_exclude_each_other_exit_2(fine: Path):
    result = doctor("--facts", str(fine), "--cluster")
    assert result.returncode == 2
    assert "--facts and --cluster exclude each other" in result.stderr


def test_data_of_ones_own_overrides_a_row_and_malformed_data_is_named(fine: Path, tmp_path: Path):
    own = tmp_path / "own.toml"
    own.write_text(
        '[[kernel]]\ncgpu = ["1.5.9", "1.5.20"]\nsupported = ["6"]\n'
        'unsupported = ["3", "4", "5"]\nsource = "we tried"\n'
    )
    result = doctor("--facts", str(fine), "--data", str(own))
    assert result.returncode == 2
    assert "we tried" in result.stdout
    own.write_text("[[kernel]\n")
    malformed = doctor("--facts", str(fine), "--data", str(own))
    assert (malformed.returncode, "own.toml" in malformed.stderr) == (2, True)


def test_a_bundle_is_packed_beside_the_report(tmp_path: Path):
    root, bundle = trees.build(trees.T4_PANIC, tmp_path), tmp_path / "bundle.tar.gz"
    result = doctor("--root", str(root), "--bundle", str(bundle))
    assert result.returncode == 2
    assert "issue:kernel-panic" in result.stdout
    with tarfile.open(bundle) as packed:
        names = packed.getnames()
    assert any("facts" in name for name in names)
    assert any("checks" in name for name in names)
    again = doctor("--root", str(root), "--bundle", str(bundle))
    assert again.returncode != 0
    assert str(bundle) in again.stderr


def test_a_reader_that_goes_ends_it_quietly(fine: Path):
    files = [argument for number in range(200) for argument in ("--facts", str(changed(fine, f"{number}.json")))]
    environment = {**os.environ, "PYTHONPATH": str(Path(cgpu.__file__).parents[1])}
    with subprocess.Popen(
        [*CGPU, "doctor", "--json", *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(SECONDS) == 1


def test_progress_is_for_a_terminal_only():
    from cgpu.cli import doctor_sources

    code = (
        "from cgpu.cli.doctor_sources import _progress\n"
        "with _progress() as tell:\n    tell(1, 5000)\n    tell(2, 5000)\n"
    )
    assert doctor_sources.__file__
    environment = {**os.environ, "PYTHONPATH": str(Path(cgpu.__file__).parents[1])}
    quiet = subprocess.run([CGPU[0], "-c", code], capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert quiet.stderr == ""
    reader, terminal = pty.openpty()
    try:
        subprocess.run([CGPU[0], "-c", code], stderr=terminal, env=environment, timeout=SECONDS, check=True)
        assert readable(reader, 5)
        assert os.read(reader, 4096).decode() == "\r\x1b[Kcgpu doctor: 1 of 5000 nodes\r\x1b[K"
    finally:
        os.close(reader)
        os.close(terminal)


# --- The page of docs


def test_what_the_page_shows_is_what_happens(tmp_path: Path):
    text = DOCS.read_text()
    for name, content in re.findall(r"^`([\w.-]+)`:\n\n```yaml\n(.*?)```", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    shown = re.findall(r"```console\n\$ cgpu doctor (.*?)\n(.*?)```", text, re.DOTALL)
    assert len(shown) >= 3
    for command, output in shown:
        result = doctor(*command.split(), cwd=tmp_path)
        assert (result.stdout + result.stderr).rstrip() == output.rstrip(), command


def test_the_page_lists_every_fact():
    text = DOCS.read_text()
    for kind in KINDS.values():
        assert f"| `{kind.name}` | {kind.type} | {kind.meaning} |" in text

"""A bundle holds what a helper needs, tells no secrets, is private, and replaces nothing."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from cgpu.doctor.bundle import FOLDER, write_bundle
from cgpu.doctor.facts import Fact, Facts
from cgpu.doctor.facts_file import parse_facts
from cgpu.doctor.probes import probe_node
from cgpu.errors import UsageError
from tests.unit.doctor import trees
from tests.unit.doctor.trees import T4_PANIC, UBUNTU, build, put

CHECKS = {"checks": [{"name": "driver", "verdict": "supported", "value": "535.129.03", "source": "FAQ"}]}


def unpacked(bundle: Path, folder: Path) -> Path:
    with tarfile.open(bundle) as archive:
        archive.extractall(folder, filter="data")
    return folder / FOLDER


@pytest.mark.parametrize("name", trees.names())
def test_the_facts_and_files_in_a_bundle_give_the_nodes_facts(name: str, tmp_path: Path):
    root = build(name, tmp_path)
    facts = probe_node(root)
    write_bundle(facts, CHECKS, root, tmp_path / "b.tar.gz")
    found = unpacked(tmp_path / "b.tar.gz", tmp_path / "out")
    assert parse_facts((found / "facts.json").read_text(), "f") == facts
    assert json.loads((found / "checks.json").read_text()) == CHECKS
    again = probe_node(found / "node")
    same = [fact for fact in facts.given if again.value(fact) == facts.value(fact)]
    assert set(facts.given) - set(same) <= {"glibc"}  # its file is no text; the package tells it less exactly
    assert again["glibc"].known


def test_no_secret_of_the_node_is_in_it(tmp_path: Path):
    root = build(UBUNTU, tmp_path)
    put(root, "run/cgpu/agent.log", "INFO started\nERROR token=S3cret-agent 8.8.8.8 10.0.0.1\n" * 3)
    put(root, "var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\nbootstrapToken: S3cret-kubelet\n")
    put(root, "etc/shadow", "S3cret-shadow")
    put(root, ".cgpu-probe/docker", "Docker version 28.1.1, build x\nDOCKER_AUTH=S3cret-docker\n")
    labels = Fact({"example.com/api-token": "S3cret-label", "cgpu": "true"}, "https://a:S3cret-how@host")
    facts = probe_node(root).merged({"labels": labels})
    checks = {"checks": [{"name": "x", "advice": "use --password S3cret-check"}]}
    names = write_bundle(facts, checks, root, tmp_path / "b.tar.gz")
    found = unpacked(tmp_path / "b.tar.gz", tmp_path / "out")
    texts = {path: path.read_text() for path in found.rglob("*") if path.is_file()}
    assert not any("S3cret" in text for text in texts.values())
    log = texts[found / "node/run/cgpu/agent.log"]
    assert "INFO started" in log
    assert "10.0.0.1" in log
    assert "8.8.8.8" not in log
    assert "10.0.0.1" not in texts[found / "README"]
    assert "were kept" in texts[found / "README"]
    assert not any("shadow" in name or "libc" in name for name in names)
    assert "other" not in texts[found / "node/var/lib/dpkg/status"]
    assert json.loads(texts[found / "facts.json"])["facts"]["labels"]["value"]["cgpu"] == "true"


def test_only_the_end_of_a_long_log_is_packed_from_a_lines_beginning(tmp_path: Path):
    root = build(T4_PANIC, tmp_path)
    put(root, "run/cgpu/agent.log", "".join(f"line {number:>10}\n" for number in range(100_000)))
    write_bundle(Facts(), {}, root, tmp_path / "b.tar.gz")
    log = (unpacked(tmp_path / "b.tar.gz", tmp_path / "out") / "node/run/cgpu/agent.log").read_text().splitlines()
    assert log[-1].split() == ["line", "99999"]
    assert all(line.startswith("line ") for line in log)
    assert 50_000 < len(log) < 70_000


def test_it_is_private_and_the_same_node_gives_the_same_bytes(tmp_path: Path):
    root = build(T4_PANIC, tmp_path)
    facts = probe_node(root)
    for name in ("a", "b"):
        write_bundle(facts, CHECKS, root, tmp_path / name)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("existing", ["file", "link"])
def test_what_exists_is_not_replaced(existing: str, tmp_path: Path):
    root = build(T4_PANIC, tmp_path)
    target = tmp_path / "b.tar.gz"
    if existing == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    with pytest.raises(UsageError, match="exists already"):
        write_bundle(Facts(), {}, root, target)
    assert target.is_symlink() or target.read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    root = build(T4_PANIC, tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(TypeError):
        write_bundle(Facts(), {"checks": object()}, root, folder / "b.tar.gz")
    assert list(folder.iterdir()) == []
    with pytest.raises(UsageError, match="No such file"):
        write_bundle(Facts(), {}, root, tmp_path / "none" / "b.tar.gz")


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = build(T4_PANIC, tmp_path)
    target = tmp_path / "b.tar.gz"
    target.write_text("mine")
    monkeypatch.setattr("cgpu.doctor.bundle.os.path.lexists", lambda _: False)
    with pytest.raises(UsageError, match="exists already"):
        write_bundle(Facts(), {}, root, target)
    assert target.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

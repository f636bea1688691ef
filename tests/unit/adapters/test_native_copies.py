from __future__ import annotations

from pathlib import Path

from cgpu.adapters.native import content_named_folder


def test_a_folder_is_copied_once_for_each_content(tmp_path: Path):
    source = tmp_path / "sim"
    source.mkdir()
    (source / "libcuda.so.1").write_bytes(b"one")
    first = content_named_folder(source, tmp_path / "lib")
    assert (first / "libcuda.so.1").read_bytes() == b"one"
    assert content_named_folder(source, tmp_path / "lib") == first
    (source / "libcuda.so.1").write_bytes(b"two")
    second = content_named_folder(source, tmp_path / "lib")
    assert (first / "libcuda.so.1").read_bytes() == b"one"  # what maps it keeps it
    assert (second / "libcuda.so.1").read_bytes() == b"two"
    assert sorted(path.name for path in (tmp_path / "lib").iterdir()) == sorted([first.name, second.name])


def test_where_nothing_can_be_written_it_is_used_from_its_place(tmp_path: Path):
    source = tmp_path / "sim"
    source.mkdir()
    (tmp_path / "file").write_text("no folder")
    assert content_named_folder(source, tmp_path / "file") == source

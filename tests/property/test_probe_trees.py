"""Whatever bytes and links a tree has, probing it raises nothing and reads nothing from outside."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cgpu.doctor.probes import PROBE_FILES, probe_node
from cgpu.doctor.probes.system import cgroup_version, os_release_values
from cgpu.doctor.probes.tree import Tree, UnknownError
from tests.unit.doctor import trees

_PATHS = [path.rstrip("/").replace("*", "x") for path in PROBE_FILES]
_TEXTS = st.sampled_from(sorted({text for name in trees.names() for text in trees.texts(name)}))
_BYTES = (
    st.binary(max_size=60)
    | _TEXTS.map(str.encode)
    | st.builds(lambda text, cut: text.encode()[: cut % (len(text) + 1)], _TEXTS, st.integers(0, 10_000))
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(_PATHS), _BYTES, max_size=12))
def test_probing_any_bytes_raises_nothing(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path, data in files.items():
            file = Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_dir():
                file.write_bytes(data)
        for fact in probe_node(Path(folder)).given.values():
            assert fact.how.isprintable()


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join),
        st.lists(st.sampled_from(["a", "b", "c", "..", ".", "", "/"]), max_size=6).map("/".join),
        max_size=6,
    ),
    st.lists(st.sampled_from(["a", "b", "c", "..", "secret"]), min_size=1, max_size=6).map("/".join),
)
def test_no_link_leads_out_of_the_root(links: dict[str, str], path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outside = Path(folder) / "secret"
        outside.write_bytes(b"outside")
        root = Path(folder) / "root"
        root.mkdir()
        (root / "inside").write_bytes(b"inside")
        for name, target in links.items():
            link = root / name
            with contextlib.suppress(OSError, RuntimeError):  # another link or file is in the way
                if link.parent.resolve().is_relative_to(root.resolve()):
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(target or ".")
        for asked in (path, path.replace("secret", "inside")):
            with contextlib.suppress(UnknownError):
                assert Tree(root).read(asked, 100) == b"inside"


@given(st.text(max_size=200))
def test_any_text_can_be_read_as_mounts_and_as_os_release(text: str) -> None:
    assert cgroup_version(text) in (None, 1, 2)
    assert all(name.isidentifier() for name in os_release_values(text))

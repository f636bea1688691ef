"""The edit of a config.json: nothing else changes, and doing it again changes nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.container_view import ViewMount
from cgpu.errors import BundleError
from cgpu.oci.bundle import Bundle
from cgpu.oci.command_line import CommandLine, parse
from cgpu.oci.conf import Conf
from cgpu.oci.rootfs import Rootfs
from cgpu.oci.spec import Edit, covers, edited, place

VIEW, ROOT = Path("/b/cgpu"), Path("/b/rootfs")
EDIT = Edit(
    mounts=(
        ViewMount(VIEW, "/.cgpu", writable=False, executable=True),
        ViewMount(Path("/run/cgpu/tenants/t/usage"), "/.cgpu/tenant/usage", writable=True, executable=False),
        ViewMount(VIEW / "ld.so.preload", "/etc/ld.so.preload", writable=False, executable=False),
        ViewMount(Path("/run/cgpu/lib/cgpu-inside-1"), "/usr/local/bin/cgpu", writable=False, executable=True),
    ),
    rootfs=ROOT,
    pins_etc=True,
    environment={"CGPU_SIM_STATE": "/.cgpu/machine"},
    library_folder="/.cgpu/lib/sim",
    annotations={"cgpu.dev/tenant": "oci-t"},
    hook=("/opt/cgpu-runtime", "hook", "attach", "/run/cgpu/agent.sock", "oci-t"),
)
DESTINATIONS = ["/etc", "/etc/hosts", "/data", "/.cgpu", "/usr/local/bin/cgpu", "/etc/ld.so.preload", "etc/../x", ""]
MOUNTS = st.lists(
    st.fixed_dictionaries(
        {"destination": st.sampled_from(DESTINATIONS), "source": st.sampled_from(["/a", "tmpfs"])},
        optional={"options": st.lists(st.sampled_from(["ro", "rprivate"]))},
    ),
    max_size=4,
)
HOOKS = st.fixed_dictionaries({}, optional={"createRuntime": st.just([{"path": "/x"}]), "poststop": st.just([])})
CONFIGS = st.fixed_dictionaries(
    {"ociVersion": st.just("1.0.2")},
    optional={
        "mounts": MOUNTS | st.none(),
        "process": st.fixed_dictionaries(
            {"args": st.just(["a"])},
            optional={"env": st.lists(st.sampled_from(["A=b", "LD_LIBRARY_PATH=/x:/y", "CGPU_SIM_STATE=/z", "bare"]))},
        ),
        "annotations": st.dictionaries(st.sampled_from(["a", "cgpu.dev/tenant"]), st.text()) | st.none(),
        "hooks": HOOKS | st.none(),
        "root": st.fixed_dictionaries({"path": st.just("rootfs"), "readonly": st.booleans()}),
        "linux": st.just({"resources": {"x": 1}}),
    },
)


@given(CONFIGS)
def test_an_edit_adds_and_is_the_same_when_it_is_made_again(config: dict[str, Any]):
    before = copy.deepcopy(config)
    after = edited(config, EDIT)
    assert config == before
    assert edited(after, EDIT) == after
    for name in set(config) - {"mounts", "process", "annotations", "hooks"}:
        assert after[name] == config[name]
    foreign = [mount for mount in config.get("mounts") or [] if mount["destination"] != "/.cgpu"]
    assert after["mounts"][1 : -len(EDIT.mounts)] == foreign
    assert after["hooks"]["createRuntime"][0]["args"] == list(EDIT.hook)
    for kind, hooks in (config.get("hooks") or {}).items():
        assert after["hooks"][kind][-len(hooks) :] == hooks


def test_a_read_only_root_keeps_a_read_only_etc():
    def pin(*, readonly: bool) -> list[str]:
        options: list[str] = edited({"root": {"readonly": readonly}}, EDIT)["mounts"][0]["options"]
        return options

    assert "ro" in pin(readonly=True)
    assert "rw" in pin(readonly=False)


def test_libraries_come_first_and_the_rest_stays():
    (entry,) = [
        entry
        for entry in edited({"process": {"env": ["LD_LIBRARY_PATH=/x:/y"]}}, EDIT)["process"]["env"]
        if entry.startswith("LD_LIBRARY_PATH")
    ]
    assert entry == "LD_LIBRARY_PATH=/.cgpu/lib/sim:/x:/y"


def test_places():
    assert place({"destination": "a/../../etc/./x"}) == PurePosixPath("/etc/x")
    assert covers([{"destination": "/usr"}], PurePosixPath("/usr/local"))
    assert not covers([{"destination": "/"}, {"destination": "/us"}], PurePosixPath("/usr/local"))


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    folder = tmp_path / "rootfs"
    (folder / "etc").mkdir(parents=True)
    return Rootfs(folder)


def test_no_link_of_an_image_leads_out(rootfs: Rootfs, tmp_path: Path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "ld.so.preload").write_text("/secret.so")
    (rootfs.folder / "usr").symlink_to(tmp_path / "host")
    assert rootfs.preloads(PurePosixPath("/usr/ld.so.preload")) == ()
    assert not rootfs.make_place(PurePosixPath("/usr/new"), folder=False)
    assert not rootfs.is_folder(PurePosixPath("/usr"))
    (rootfs.folder / "etc" / "ld.so.preload").symlink_to(tmp_path / "host" / "ld.so.preload")
    assert rootfs.preloads(PurePosixPath("/etc/ld.so.preload")) == ()
    assert list((tmp_path / "host").iterdir()) == [tmp_path / "host" / "ld.so.preload"]


def test_an_images_preload_file_is_read_as_the_loader_reads_it(rootfs: Rootfs):
    (rootfs.folder / "etc" / "ld.so.preload").write_text("# ours\n/a.so:/b.so  c.so\n\nd.so # last")
    assert rootfs.preloads(PurePosixPath("/etc/ld.so.preload")) == ("/a.so", "/b.so", "c.so", "d.so")


def test_only_a_free_name_or_an_empty_file_is_covered(rootfs: Rootfs):
    assert rootfs.may_cover(PurePosixPath("/etc/new"))
    assert rootfs.may_cover(PurePosixPath("/etc/new"))
    (rootfs.folder / "etc" / "full").write_text("x")
    assert not rootfs.may_cover(PurePosixPath("/etc/full"))
    assert not rootfs.may_cover(PurePosixPath("/nowhere/new"))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"process": []}', '{"process": {"env": [1]}}', '{"mounts": [1]}', '{"annotations": {"a": 1}}',
     '{"root": {"path": 1}}', '{"hooks": {"createRuntime": 1}}', "\ud800"],
)  # fmt: skip
def test_a_malformed_config_is_told(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(BundleError, match=re_escaped(tmp_path / "config.json")):
        Bundle(tmp_path)


def re_escaped(path: Path) -> str:
    return str(path).replace(".", r"\.")


KEYS = st.sampled_from(["process", "env", "mounts", "root", "path", "hooks", "createRuntime", "annotations", "args"])


def nested(depth: int) -> st.SearchStrategy[object]:
    leaves = st.none() | st.integers() | st.text(max_size=8)
    if depth == 0:
        return leaves
    inner = nested(depth - 1)
    return leaves | st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)


@given(nested(4))
def test_any_json_is_read_or_told(tmp_path_factory: pytest.TempPathFactory, value: object):
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_text(json.dumps(value))
    try:
        bundle = Bundle(folder)
    except BundleError:
        return
    assert all(isinstance(entry, str) for entry in (*bundle.environment, *bundle.annotations.values()))
    edited(bundle.config, EDIT)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["create", "--bundle", "/b", "c"], CommandLine("/b", "c", "", False)),
        (["--root", "/r", "--log", "/l", "--log-format", "json", "create", "c", "--bundle=/b"],
         CommandLine("/b", "c", "/l", True)),
        (["--log=/l", "--debug", "run", "-b", "/b", "--pid-file", "p", "--", "c"], CommandLine("/b", "c", "/l", False)),
        (["run", "-b/b", "c"], CommandLine("/b", "c", "", False)),
        (["run", "c"], CommandLine(".", "c", "", False)),
        (["create"], CommandLine(".", "", "", False)),
    ],
)  # fmt: skip
def test_command_lines(arguments: list[str], line: CommandLine):
    assert parse(arguments) == line


REQUIRED = "runtime = /usr/sbin/runc\npython=/p\nsocket = /s\ntenants = /t\n"


def test_a_conf_is_read(tmp_path: Path):
    path = tmp_path / "cgpu-runtime.conf"
    path.write_text(f"# ours\n\n{REQUIRED}later = 1\n")
    assert Conf.read(path) == Conf(tmp_path / "cgpu-runtime", Path("/usr/sbin/runc"), Path("/s"), None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "does not say `runtime`"),
        ("runtime", "line 1 is not"),
        ("\nruntime = runc", "line 2: `runtime` is not"),
        (REQUIRED + "python=/q", "line 5 says `python` a second time"),
    ],
)
def test_a_malformed_conf_is_told(tmp_path: Path, text: str, told: str):
    (tmp_path / "c").write_text(text)
    with pytest.raises(BundleError, match=told):
        Conf.read(tmp_path / "c")

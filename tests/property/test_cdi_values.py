"""The file of a CDI device: valid, no newer than it has to be, read again as it was written; and mountinfo."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.cdi import spec
from cgpu.adapters.cdi.driver_files import DeviceNode
from cgpu.adapters.container_view import ViewMount
from cgpu.adapters.mounts import HostFile, Mount, parse_mountinfo
from cgpu.errors import UsageError
from cgpu.model.container import cdi_name_of, cdi_tenant_id
from tests.property.cdi_schema import VALIDATORS

REGION = Path("/run/cgpu/tenants/cdi-web")
VIEW = ViewMount(Path("/run/cgpu/cdi/web"), "/.cgpu", writable=False, executable=True)
GRANTS = ViewMount(REGION / "grants", "/.cgpu/tenant/grants", writable=False, executable=False)
PROGRAM = Path("/run/cgpu/lib/cgpu-runtime-0123456789abcdef")
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,57}[A-Za-z0-9])?", fullmatch=True)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(lambda text: "/" + text)
MOUNTS = st.lists(st.builds(ViewMount, PATHS.map(Path), PATHS, st.booleans(), st.booleans()), max_size=4)
VARIABLES = st.dictionaries(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), st.text(max_size=9), max_size=3)


@given(NAMES, MOUNTS, VARIABLES)
def test_every_file_is_valid_under_the_lowest_version_that_takes_its_name(
    name: str, mounts: list[ViewMount], variables: dict[str, str]
):
    content = spec.content(name, [VIEW, GRANTS, *mounts], PROGRAM, variables)
    document = json.loads(content)
    version = document["cdiVersion"]
    assert version == ("0.5.0" if name[0].isdigit() else "0.3.0")
    VALIDATORS[version].validate(document)
    said = spec.written(name, content)
    places = {mount.destination: mount.source for mount in (VIEW, GRANTS, *mounts)}
    assert said.files == (*places.values(), PROGRAM)
    assert spec.device_of_file(spec.file_name(name)) == name
    assert cdi_name_of(cdi_tenant_id(name), "cdi") == name


def test_a_digit_is_refused_by_the_versions_before():
    document = json.loads(spec.content("0d", [VIEW, GRANTS], PROGRAM, {}))
    with pytest.raises(jsonschema.ValidationError):
        VALIDATORS["0.3.0"].validate({**document, "cdiVersion": "0.3.0"})


NODES = st.lists(st.builds(DeviceNode, PATHS, PATHS.map(Path)), max_size=3)
CLAIMS = st.none() | st.just(()) | st.just(("/run/cgpu/agent.sock", "k8s-1-0"))


@given(NAMES, NODES, CLAIMS, VARIABLES)
def test_a_claims_devices_are_valid_under_the_lowest_version_that_takes_them(
    name: str, nodes: list[DeviceNode], claim: tuple[str, ...] | None, variables: dict[str, str]
):
    made = spec.edits([VIEW], PROGRAM, variables, claim, nodes)
    document = json.loads(spec.document("cgpu.dev/claim", {name: made}))
    elsewhere = any(str(node.on_host) != node.path for node in nodes)
    assert document["cdiVersion"] == ("0.5.0" if elsewhere or name[0].isdigit() else "0.3.0")
    VALIDATORS[document["cdiVersion"]].validate(document)
    told = [hook["args"][1:] for hook in made["hooks"] if hook["hookName"] == "createRuntime"]
    assert told == [["hook", "device"] if claim is None else ["hook", "claim", *claim]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_file_of_ours_is_told(content: bytes):
    with pytest.raises(ValueError, match="specification of that device"):
        spec.written("web", content)


@given(st.sampled_from(["kind", "devices", "name", "containerEdits", "mounts", "hostPath", "hooks", "path"]), JSON)
def test_a_changed_file_is_read_or_told(field: str, value: object):
    def changed(part: object) -> object:
        if isinstance(part, dict):
            return {key: value if key == field else changed(item) for key, item in part.items()}
        return [changed(item) for item in part] if isinstance(part, list) else part

    content = json.dumps(changed(json.loads(spec.content("web", [VIEW, GRANTS], PROGRAM, {"A": "1"})))).encode()
    try:
        spec.written("web", content)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "-a", "a-", "a b", "a:b", "a\n", "ä", "x" * 60])
def test_what_cannot_be_a_name_is_refused(name: str):
    with pytest.raises(UsageError, match="not the name of a CDI device"):
        cdi_tenant_id(name)


@pytest.mark.parametrize(
    ("tenant_id", "container", "device"),
    [("cdi-web", "cdi", "web"), ("cdi-web", "", ""), ("oci-cdi", "cdi", ""), ("web", "", "")],
)
def test_only_a_tenant_made_for_a_device_is_one(tenant_id: str, container: str, device: str):
    assert cdi_name_of(tenant_id, container) == device


@given(st.text())
def test_any_text_is_read(text: str):
    assert all(mount.file.device.count("\n") == 0 for mount in parse_mountinfo(text))


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="/"), min_size=1, max_size=9))
def test_a_place_is_read_as_the_kernel_writes_it(name: str):
    written = name.replace("\\", r"\134").replace(" ", r"\040")
    (mount,) = parse_mountinfo(f"36 35 98:0 /mnt{written} /a/{written} rw - ext3 /dev/root rw")
    assert mount == Mount(HostFile("98:0", f"/mnt{name}"), PurePosixPath("/a", name))

"""cgpu-runtime: what it hands on, what it gives to cgpu.oci, and what it tells the agent."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgpu.model.container import tenant_id_of
from tests.integration.attempts import Watch, until_right
from tests.native.runtime_call import TIMEOUT_S, Node, agent

CALLS = 200
MEDIAN_MS = 2.0
GIVEN = ("--root", "/r", "--log=/l", "--log-format", "json", "create", "--bundle", "{bundle}", "--pid-file", "/p", "id")


@pytest.fixture
def node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="cgpu-") as folder:  # a socket's path must be short
        yield Node.make(Path(folder))


def recorded(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 7, result.stderr
    call: dict[str, Any] = json.loads(result.stdout)
    return call


def test_the_runtime_gets_the_call_as_it_was(node: Node):
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [node.program, "state", "--", "a b", ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(read_end,),
            env={"ONE": "1", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        output, _ = process.communicate("in")
    finally:
        os.close(read_end)
        os.close(write_end)
    call = json.loads(output)
    assert process.returncode == 7
    assert call["argv"] == [str(node.folder / "real"), "state", "--", "a b", ""]
    assert (call["program"], call["pid"], call["stdin"]) == ("real", process.pid, "in")
    assert call["environment"] == {"ONE": "1", "LC_ALL": "C.UTF-8"}
    assert call["fds"] == [0, 1, 2, read_end]


@pytest.mark.parametrize(
    ("environment", "annotations", "program"),
    [
        (("A=B", "MY_CGPU_X=1"), {}, "real"),
        (("CGPU_MEMORY=1GiB",), {}, "python"),
        (("ALIYUN_COM_GPU_MEM_CONTAINER=3",), {}, "python"),
        ((), {"cgpu.dev/memory": "1GiB"}, "python"),
        ((), {"other.dev/memory": "1GiB"}, "real"),
    ],
)
def test_only_a_container_that_asks_goes_to_cgpu(
    node: Node, environment: tuple[str, ...], annotations: dict[str, str], program: str
):
    node.config(*environment, annotations=annotations)
    arguments = [word.format(bundle=node.bundle) for word in GIVEN]
    call = recorded(node.call(*arguments))
    assert call["program"] == program
    prefix = ["-I", "-m", "cgpu.oci", "--config", str(node.conf), "--"] if program == "python" else []
    assert call["argv"][1:] == [*prefix, *arguments]


@pytest.mark.parametrize("form", ["--bundle {}", "--bundle={}", "-b {}", "-b={}", "-bundle {}", "-b{}"])
@pytest.mark.parametrize("verb", ["create", "run"])
def test_every_form_of_naming_the_bundle(node: Node, verb: str, form: str):
    node.config("CGPU_MEMORY=1GiB")
    assert recorded(node.call(verb, *form.format(node.bundle).split(), "id"))["program"] == "python"


def test_the_bundle_is_the_working_folder_where_none_is_named(node: Node):
    (node.folder / "config.json").write_text('{"CGPU_MEMORY')
    assert recorded(node.call("run", "id"))["program"] == "python"
    assert recorded(node.call("start", "id"))["program"] == "real"


def test_a_bundle_without_config_is_for_the_runtime_to_refuse(node: Node):
    assert recorded(node.call("create", "-b", str(node.bundle), "id"))["program"] == "real"
    os.mkfifo(node.bundle / "config.json")
    assert recorded(node.call("create", "-b", str(node.bundle), "id"))["program"] == "real"


def test_a_config_too_long_to_look_through_goes_to_cgpu(node: Node):
    with (node.bundle / "config.json").open("wb") as file:
        file.truncate((16 << 20) + 1)
    assert recorded(node.call("create", "-b", str(node.bundle), "id"))["program"] == "python"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("runtime /usr/bin/runc\n", "line 1 is not `key = value`"),
        ("python = /p\nsocket = /s\ntenants = /t\n", "it does not say `runtime`"),
        ("runtime = runc\n", "line 1: `runtime` is not an absolute path"),
        ("runtime = /r\nruntime = /r\n", "line 2 says `runtime` a second time"),
        ("#" * 20000, "it is too long"),
        ("runtime = /r\0\n", "it holds a NUL byte"),
        ("runtime = /nowhere\npython = /p\nsocket = /s\ntenants = /t\n", "cannot run /nowhere: No such file"),
        ("runtime = {program}\npython = /p\nsocket = /s\ntenants = /t\n", "names cgpu-runtime itself"),
    ],
)
def test_a_conf_that_is_no_use_is_said_in_one_line(node: Node, text: str | None, complaint: str):
    node.conf.unlink()
    if text is not None:
        node.conf.write_text(text.format(program=node.program))
    result = node.call("list")
    assert (result.returncode, result.stdout) == (1, "")
    assert complaint in result.stderr
    assert str(node.conf) in result.stderr
    assert result.stderr.count("\n") == 1


# ---- delete ----


def test_the_agent_hears_that_a_tenant_ends_and_the_runtime_deletes_it(node: Node):
    (node.tenants / "oci-web").mkdir()
    with agent(node.socket) as asked:
        call = recorded(node.call("--root", "/r", "delete", "--force", "web"))
        assert recorded(node.call("delete", "other"))["program"] == "real"
    assert call["argv"][1:] == ["--root", "/r", "delete", "--force", "web"]
    (request,) = asked.requests
    assert request.startswith(b"POST /v1/tenants/oci-web/ending HTTP/1.1\r\n")


def test_an_agent_that_is_gone_refuses_or_sleeps_does_not_keep_a_container(node: Node):
    (node.tenants / "oci-web").mkdir()
    assert recorded(node.call("delete", "web"))["program"] == "real"
    with agent(node.socket, "500 Broken", b"{}"):
        assert recorded(node.call("delete", "web"))["program"] == "real"
    with agent(node.socket, None):
        assert recorded(node.call("delete", "web"))["program"] == "real"


ARGUMENTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=80),
    st.binary(min_size=1, max_size=80).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"x"))),
    st.from_regex(r"[a-z0-9._-]{50,70}", fullmatch=True),
)


@settings(max_examples=60, deadline=None)
@given(containers=st.lists(ARGUMENTS, min_size=1, max_size=4))
def test_the_tenant_of_a_container_is_the_same_in_both_languages(containers: list[str]):
    with tempfile.TemporaryDirectory(prefix="cgpu-") as folder:
        node = Node.make(Path(folder))
        node.conf.write_text(node.conf.read_text().replace(f"{node.folder}/real", "/bin/true"))
        with agent(node.socket) as asked:
            for container in containers:
                (node.tenants / tenant_id_of(container)).mkdir(exist_ok=True)
                node.call("delete", "--", container)
        paths = [request.split(b" ")[1].decode() for request in asked.requests]
    assert paths == [f"/v1/tenants/{tenant_id_of(container)}/ending" for container in containers]


# ---- the hook ----


def state(node: Node, root: str = "/") -> str:
    """Of a container whose image is this machine's own root, with the C library that is there."""
    (node.bundle / "config.json").write_text(json.dumps({"process": {"args": ["true"]}, "root": {"path": root}}))
    fields = {"ociVersion": "1.0.2", "id": "web", "pid": os.getpid(), "bundle": str(node.bundle)}
    return json.dumps({**fields, "annotations": {"x": "y" * 200_000}})


@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="only root may enter a container's root"
)
def test_the_hook_gives_the_agent_the_state_as_it_is(node: Node):
    told = state(node)
    with agent(node.socket, "200 OK", b'{"id": "oci-web"}') as asked:
        result = node.call("hook", "attach", str(node.socket), "oci-web", stdin=told)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    head, _, body = asked.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/tenants/oci-web/attach HTTP/1.1\r\n")
    assert body.decode() == told


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b'{"code": "driver", "message": "limit \\"refused\\"", "remedy": ""}',
            'cgpu: limit "refused" [CGPU-DRIVER]\n',
        ),
        (b'{"code": "no_such_tenant", "message": "no", "remedy": "wait"}', "cgpu: no (wait) [CGPU-NO-SUCH-TENANT]\n"),
        (b'{"message": "no", "remedy": "wait"}', "cgpu: no (wait)\n"),
        (b"plain", "cgpu: the agent answers 409: plain\n"),
    ],
)
def test_a_refusal_keeps_the_container_from_starting_and_says_why(node: Node, body: bytes, said: str):
    with agent(node.socket, "409 Conflict", body):
        result = node.call("hook", "attach", str(node.socket), "oci-web", stdin=state(node))
    assert (result.returncode, result.stderr) == (1, said)


def test_the_hook_waits_ten_seconds_for_an_agent_and_no_longer(node: Node):
    with agent(node.socket, None):
        result = node.call("hook", "attach", str(node.socket), "oci-web", stdin=state(node))
    assert result.returncode == 1
    assert "does not answer in time" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("attach",), "", "usage: "),
        (("detach", "/s", "oci-web"), "", "usage: "),
        (("attach", "/s", "../x"), "", "../x is not the id of a tenant"),
        (("attach", "/s", "oci-web"), "x" * ((1 << 20) + 1), "longer than 1048576 bytes"),
        (("attach", "/s", "oci-web"), "{}", "the container's state names no bundle"),
        (("attach", "/nowhere", "oci-web"), None, "/nowhere gives no answer: No such file"),
        (("attach", "/" + "s" * 200, "oci-web"), None, "the socket's path is too long"),
    ],
)
def test_a_hook_that_cannot_be_run_says_so(node: Node, arguments: tuple[str, ...], stdin: str | None, said: str):
    result = node.call("hook", *arguments, stdin=state(node) if stdin is None else stdin)
    assert result.returncode == 1
    assert said in result.stderr


# ---- the cost ----


@pytest.mark.timing
def test_a_container_that_asks_nothing_pays_next_to_nothing(node: Node):
    node.config(*(f"VARIABLE_{number}={'x' * 40}" for number in range(400)))
    node.conf.write_text(node.conf.read_text().replace(f"{node.folder}/real", "/bin/true"))
    create = ("create", "--bundle", str(node.bundle), "id")

    def milliseconds(program: str) -> float:
        begin = time.perf_counter()
        subprocess.run([program, *create], check=True)
        return (time.perf_counter() - begin) * 1000

    def attempt(_: int, watch: Watch) -> str:
        with watch():
            pairs = [(milliseconds(str(node.program)), milliseconds("/bin/true")) for _ in range(CALLS)]
        added = statistics.median(through for through, _ in pairs) - statistics.median(direct for _, direct in pairs)
        print(f"cgpu-runtime adds {added:.2f} ms to a call (mean {statistics.fmean(a - b for a, b in pairs):.2f} ms)")
        return "" if added < MEDIAN_MS else f"{added:.2f} ms added"

    until_right(attempt)


# ---- the hook that pins /etc ----


def pinned(node: Node, config: str, *, root: Path) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the hook in a mount namespace of its own; what it says, and what is mounted below that root then."""
    needs_a_mount_namespace()
    (node.bundle / "config.json").write_text(config)
    state = json.dumps({"id": "web", "bundle": str(node.bundle), "annotations": {"root": "{"}})
    script = 'mount --bind "$1/etc/below" "$1/etc/below"; "$2" hook pin-etc && cat /proc/self/mountinfo'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(root), str(node.program)]
    result = subprocess.run(command, input=state, capture_output=True, text=True, timeout=TIMEOUT_S)
    places = [line.split()[4] for line in result.stdout.splitlines()]
    return result, " ".join(place.removeprefix(str(root)) for place in places if place.startswith(f"{root}/etc"))


def needs_a_mount_namespace() -> None:
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    if probe.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip(f"no mount namespace can be made here: {probe.stderr.strip()}")
    assert probe.returncode == 0, probe.stderr


@pytest.mark.parametrize(
    ("root", "mounted"),
    [
        ({"path": "rootfs"}, "/etc/below /etc /etc/below"),
        ({"path": "{bundle}/rootfs", "readonly": False}, "/etc/below /etc /etc/below"),
        ({"readonly": True, "path": "rootfs"}, "/etc/below"),
        ({"path": 'rootfs/a "}\\', "readonly": True}, "/etc/below"),
    ],
)
def test_the_hook_makes_etc_a_mount_point_with_what_is_below_it(node: Node, root: dict[str, Any], mounted: str):
    rootfs = node.bundle / "rootfs"
    (rootfs / "etc" / "below").mkdir(parents=True)
    path = root["path"].replace("{bundle}", str(node.bundle))
    config = {"process": {"env": ['"root": {"path": "/"}']}, "root": {**root, "path": path}}
    result, places = pinned(node, json.dumps(config), root=rootfs)
    assert (result.returncode, result.stderr, places) == (0, "", mounted)


def test_an_etc_that_leads_elsewhere_is_left_alone(node: Node):
    other, rootfs = node.folder / "other", node.bundle / "rootfs"
    (other / "below").mkdir(parents=True)
    rootfs.mkdir()
    (rootfs / "etc").symlink_to(other)
    result, _ = pinned(node, json.dumps({"root": {"path": "rootfs"}}), root=rootfs)
    assert (result.returncode, result.stderr) == (0, "")
    assert f" {other} " not in result.stdout


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{}", "config.json names no root"),
        ('{"root": {"path": "no/such"}}', "no/such: No such file"),
        ('{"root": {"path": "' + "x" * 5000, "root"),
        ('{"root": {"readonly": true', "names no root"),
        (None, "cannot read"),
    ],
)
def test_a_root_that_cannot_be_found_keeps_the_container_from_starting(node: Node, config: str | None, said: str):
    if config is not None:
        (node.bundle / "config.json").write_text(config)
    result = node.call("hook", "pin-etc", stdin=json.dumps({"bundle": str(node.bundle)}))
    assert result.returncode == 1
    assert said in result.stderr


def test_a_state_without_a_bundle_is_told(node: Node):
    result = node.call("hook", "pin-etc", stdin="{}")
    assert (result.returncode, result.stderr) == (1, "cgpu: the container's state names no bundle\n")

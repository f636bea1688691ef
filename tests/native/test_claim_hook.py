"""What the hooks of cgpu-runtime say of an image, and what they tell the agent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.native.c_compiler import compile_c
from tests.native.runtime_call import Node, agent

GLIBC = Path("/lib64/ld-linux-x86-64.so.2")
MUSL = "lib/ld-musl-x86_64.so.1"
ANSWER = b'{"id": "k8s-1"}'
AARCH64 = 183
SECONDS = 0.5

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="only root may enter a container's root"
)


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """Small programs: `dynamic` with the machine's loader, `static`, `musl` and `aarch64`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "main.c"
        source.write_text("int main(void) { return 0; }\n")
        compile_c(folder / "dynamic", [source])
        compile_c(folder / "static", [source], libraries=["-static"])
        compile_c(folder / "musl", [source], libraries=[f"-Wl,--dynamic-linker=/{MUSL}"])
        foreign = bytearray((folder / "dynamic").read_bytes())
        foreign[18:20] = AARCH64.to_bytes(2, "little")
        (folder / "aarch64").write_bytes(foreign)
        yield folder


@pytest.fixture
def node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="cgpu-") as folder:
        yield Node.make(Path(folder))


def make_image(node: Node, program: Path, *libraries: str, script: bool = False) -> None:
    """The bundle of a container that starts that program, in an image with these loaders."""
    root = node.bundle / "rootfs"
    for folder in ("usr/bin", "lib64", "lib"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / "usr/bin/real")
    (root / "usr/bin/real").chmod(0o755)
    (root / "usr/bin/main").unlink(missing_ok=True)
    if script:
        (root / "usr/bin/main").write_text("#! /usr/bin/real -x\n")
        (root / "usr/bin/main").chmod(0o755)
    else:
        (root / "usr/bin/main").symlink_to("/usr/bin/real")
    for library in libraries:
        (root / library).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GLIBC.resolve() if "linux" in library else program, root / library)
    process = {"args": ["main", "--flag"], "env": ["A=PATH=/no", "PATH=/no", 'PATH=/bin"s:/usr/bin'], "cwd": "/"}
    config = {"process": process, "root": {"path": "rootfs"}, "hooks": {"prestart": [{"args": ["other"]}]}}
    (node.bundle / "config.json").write_text(json.dumps(config))


def state(node: Node, **fields: Any) -> str:
    return json.dumps({"ociVersion": "1.0.2", "id": "c", "pid": os.getpid(), "bundle": str(node.bundle), **fields})


def refusal(node: Node, hook: str = "claim") -> str:
    """What the hook says of the bundle; empty when the container may start."""
    result = node.call("hook", hook, stdin=state(node))
    assert (result.returncode == 0) == (result.stderr == "")
    assert result.stderr.count("\n") <= 1
    return result.stderr


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("program", ["dynamic", "static", "musl"])
def test_an_image_with_glibc_may_start(node: Node, programs: Path, program: str, script: bool):
    """Whatever it starts first: a static init may start a program that uses the GPU."""
    make_image(node, programs / program, "lib64/ld-linux-x86-64.so.2", script=script)
    assert refusal(node) == ""
    assert refusal(node, "device") == ""


@pytest.mark.parametrize(
    ("program", "libraries", "said"),
    [
        ("dynamic", (), "it has no glibc: /lib64/ld-linux-x86-64.so.2 is not there"),
        ("static", (), "it has no glibc"),
        ("static", (MUSL,), "its C library is musl"),
        ("musl", (MUSL,), "its C library is musl"),
        ("aarch64", ("lib64/ld-linux-x86-64.so.2",), "/usr/bin/main is of another architecture than x86_64"),
    ],
)
def test_an_image_that_cannot_load_the_shim_is_refused(
    node: Node, programs: Path, program: str, libraries: tuple[str, ...], said: str
):
    make_image(node, programs / program, *libraries)
    assert said in refusal(node)
    assert refusal(node).endswith("(use an image with glibc, or a node with driver r615 or later) [CGPU-LAYER]\n")
    assert said in refusal(node, "device")
    assert "use an image with glibc, or cgpu-runtime on driver r615 or later" in refusal(node, "device")


def test_a_loader_in_another_place_that_the_program_names_will_do(node: Node, programs: Path):
    own = node.folder / "elsewhere"
    (node.folder / "main.c").write_text("int main(void) { return 0; }\n")
    compile_c(own, [node.folder / "main.c"], libraries=["-Wl,--dynamic-linker=/nix/ld-linux-x86-64.so.2"])
    make_image(node, own)
    assert "no glibc" in refusal(node)
    make_image(node, own, "nix/ld-linux-x86-64.so.2")
    assert refusal(node) == ""


def test_links_of_the_image_do_not_lead_to_the_hosts_loader(node: Node, programs: Path):
    make_image(node, programs / "dynamic")
    loader = node.bundle / "rootfs" / "lib64" / "ld-linux-x86-64.so.2"
    for target in (GLIBC.resolve(), Path("../../../../../..") / GLIBC.resolve().relative_to("/"), loader):
        loader.symlink_to(target)
        assert "no glibc" in refusal(node)
        loader.unlink()
    loader.symlink_to("/usr/lib/ld.so")
    (node.bundle / "rootfs/usr/lib").mkdir()
    shutil.copy(GLIBC.resolve(), node.bundle / "rootfs/usr/lib/ld.so")
    assert refusal(node) == ""


@pytest.mark.parametrize("content", [b"\x7fELF", b"\x7fELF" + bytes(200), b"#!", b"", b"#!/usr/bin/main"])
def test_whatever_the_program_is_the_hook_answers(node: Node, content: bytes):
    broken = node.folder / "broken"
    broken.write_bytes(content)
    make_image(node, broken)
    assert refusal(node) != ""


def test_a_container_that_cannot_be_looked_at_is_refused(node: Node):
    assert "cannot read" in refusal(node)
    (node.bundle / "config.json").write_text('{"root": {"path": "/no/such"}}')
    assert "/no/such cannot be entered" in refusal(node)
    (node.bundle / "config.json").write_text("{}")
    assert "names no root" in refusal(node)


@pytest.mark.parametrize("hook", ["attach", "claim"])
@pytest.mark.parametrize("program", ["dynamic", "musl"])
def test_the_agent_is_told_of_the_container_and_whether_it_loads_the_shim(
    node: Node, programs: Path, program: str, hook: str
):
    make_image(node, programs / program, *(["lib64/ld-linux-x86-64.so.2"] if program == "dynamic" else []))
    with agent(node.socket, "200 OK", ANSWER) as asked:
        result = node.call("hook", hook, str(node.socket), "k8s-1", stdin=state(node))
    assert (result.returncode, result.stderr) == (0, "")
    head, _, body = asked.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/tenants/k8s-1/attach ")
    told = json.loads(body)
    if program == "musl":
        assert told.pop("loads_shim") is False
        assert told.pop("shim_problem") == "its C library is musl, and /lib64/ld-linux-x86-64.so.2 is not there"
    assert told == json.loads(state(node))


def test_whatever_a_program_is_called_the_agent_gets_json(node: Node, programs: Path):
    make_image(node, programs / "aarch64", script=True)
    root = node.bundle / "rootfs"
    shutil.move(root / "usr/bin/real", root / "usr/bin" / os.fsdecode(b'a"\\\xff'))
    (root / "usr/bin/main").write_bytes(b'#!/usr/bin/a"\\\xff\n')
    with agent(node.socket, "200 OK", ANSWER) as asked:
        assert node.call("hook", "attach", str(node.socket), "oci-1", stdin=state(node)).returncode == 0
    told = json.loads(asked.requests[0].partition(b"\r\n\r\n")[2])
    assert told["shim_problem"].startswith('its program /usr/bin/a"\\? is of another architecture')


def test_the_agents_refusal_is_the_hooks(node: Node, programs: Path):
    make_image(node, programs / "dynamic", "lib64/ld-linux-x86-64.so.2")
    with agent(node.socket, "409 Conflict", b'{"message": "no", "remedy": "wait"}'):
        result = node.call("hook", "claim", str(node.socket), "k8s-1", stdin=state(node))
    assert (result.returncode, result.stderr) == (1, "cgpu: no (wait)\n")


def test_an_agent_that_is_being_replaced_is_waited_for(node: Node, programs: Path):
    make_image(node, programs / "dynamic", "lib64/ld-linux-x86-64.so.2")
    command = [str(node.program), "hook", "claim", str(node.socket), "k8s-1"]
    hook = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    talk = threading.Thread(target=lambda: said.append(hook.communicate(state(node))[1]))
    talk.start()
    time.sleep(SECONDS)  # it is to find nobody
    assert hook.poll() is None
    with agent(node.socket, "200 OK", ANSWER):
        talk.join()
    assert (hook.returncode, said) == (0, [""])


@pytest.mark.parametrize("arguments", [("claim", "/s"), ("claim", "/s", "../x"), ("claim", "/s", "x", "y")])
def test_a_hook_that_is_called_wrongly_says_so(node: Node, arguments: tuple[str, ...]):
    result = node.call("hook", *arguments, stdin="{}")
    assert result.returncode == 1
    assert result.stderr.startswith("cgpu: ")

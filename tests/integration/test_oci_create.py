"""``cgpu.oci`` between an engine and a real runtime, on a simulated card."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cgpu
from cgpu.adapters.native import RUNTIME, native_library
from cgpu.model.container import tenant_id_of
from cgpu.model.units import GIB, MIB
from tests.integration.conftest import SECONDS, Node, eventually
from tests.native.zig_programs import compile_for

SOURCE = Path(cgpu.__file__).parents[1]
RECORDER = """\
#!/bin/sh
printf '%s\\n' "$0" "$@" > {record}
cat {tenants}/*/grants > {record}.grants 2>/dev/null
exit 7
"""


class Container:
    """A bundle made by hand, and a cgpu-runtime of its own in front of a real runtime."""

    def __init__(self, node: Node, folder: Path, runtime: Path) -> None:
        self.node = node
        self.id = f"cgpu-test-{os.getpid()}-{folder.name}".replace("_", "-")[:60]
        self.bundle = folder / "bundle"
        (self.bundle / "rootfs" / "etc").mkdir(parents=True)
        self.program = folder / "bin" / "cgpu-runtime"
        self.program.parent.mkdir()
        shutil.copy(native_library(RUNTIME), self.program)
        python = folder / "bin" / "python"
        # The sources that are tested here, which -I would hide where another tree is installed.
        python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={SOURCE} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        self.conf = folder / "bin" / "cgpu-runtime.conf"
        self.conf.write_text(
            f"runtime = {runtime}\npython = {python}\nsocket = {node.settings.agent_socket}\n"
            f"tenants = {node.settings.tenants_dir}\nsim_state = {node.machine.folder}\n"
        )

    def configure(self, *environment: str, **config: Any) -> None:
        """Write config.json."""
        document = {
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": False},
            "process": {"cwd": "/", "args": ["/bin/true"], "env": list(environment)},
            **config,
        }
        (self.bundle / "config.json").write_text(json.dumps(document))

    @property
    def config(self) -> dict[str, Any]:
        """What is in config.json now."""
        document: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        return document

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call cgpu-runtime."""
        return subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )

    def create(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Create the container."""
        return self.call(*options, "create", "--bundle", str(self.bundle), self.id)


@pytest.fixture
def container(node: Node, tmp_path: Path) -> Container:
    """A container whose real runtime writes down how it was called, and exits with 7."""
    recorder = tmp_path / "recorder"
    recorder.write_text(RECORDER.format(record=tmp_path / "record", tenants=node.settings.tenants_dir))
    recorder.chmod(0o755)
    return Container(node, tmp_path, recorder)


def tenants(node: Node) -> list[str]:
    return [row["id"] for row in node.client.get("/v1/tenants")]


def test_the_real_runtime_gets_its_arguments_and_a_bundle_with_a_tenant(container: Container, tmp_path: Path):
    container.node.start_agent()
    container.configure("ALIYUN_COM_GPU_MEM_CONTAINER=3", "ALIYUN_COM_GPU_MEM_DEV=15", "A=b")
    before = container.config
    (container.bundle / "config.json").chmod(0o640)
    result = container.create("--log", str(tmp_path / "log"))
    assert result.returncode == 7, result.stderr
    called = (tmp_path / "record").read_text().splitlines()
    assert called[1:] == ["--log", str(tmp_path / "log"), "create", "--bundle", str(container.bundle), container.id]
    assert (tmp_path / "record.grants").stat().st_size > 0  # the tenant was there before the runtime
    after = container.config
    assert (container.bundle / "config.json").stat().st_mode & 0o777 == 0o640
    assert after["process"]["env"][:3] == before["process"]["env"]
    assert after["root"] == before["root"]
    assert after["annotations"]["cgpu.dev/tenant"] == tenant_id_of(container.id)
    assert after["annotations"]["cgpu.dev/memory-layer"] in ("shim", "driver")
    assert after["hooks"]["createRuntime"][0]["args"][1:3] == ["hook", "attach"]
    assert after["mounts"][0]["destination"] == "/etc"
    eventually(lambda: not tenants(container.node))  # the runtime ended without a container
    assert container.create().returncode == 7
    assert container.config == after


def test_a_container_that_asks_for_nothing_is_as_it_was(container: Container):
    container.configure("CGPU_DISABLE=1", "ALIYUN_COM_GPU_MEM_CONTAINER=3")  # no agent runs, none is needed
    content = (container.bundle / "config.json").read_bytes()
    assert container.create().returncode == 7
    assert (container.bundle / "config.json").read_bytes() == content


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ("CGPU_MEMORY=6", r"CGPU_MEMORY: not an amount of memory: '6'.*\[CGPU-VARIABLE\]"),
        ("CGPU_MEMORY=600GiB", r"\[CGPU-CAPACITY\]"),
        ("ALIYUN_COM_GPU_MEM_CONTAINER=three", r"ALIYUN_COM_GPU_MEM_CONTAINER: 'three' is not a whole number above 0"),
    ],
)
def test_what_is_wrong_is_told_where_engines_look_and_nothing_is_left(
    container: Container, tmp_path: Path, environment: str, told: str
):
    container.node.start_agent()
    container.configure(environment)
    content = (container.bundle / "config.json").read_bytes()
    result = container.create("--log", str(tmp_path / "log"), "--log-format", "json")
    assert result.returncode == 1
    assert re.search(told, result.stderr)
    logged = json.loads((tmp_path / "log").read_text())
    assert logged["level"] == "error"
    assert logged["msg"] == result.stderr.strip()
    assert (container.bundle / "config.json").read_bytes() == content
    assert not (tmp_path / "record").exists()
    assert not tenants(container.node)


def test_a_container_with_a_cdi_device_of_ours_cannot_ask_for_a_share_too(container: Container):
    container.node.start_agent()
    device = {"destination": "/.cgpu", "source": "/run/cgpu/cdi/web", "options": ["bind", "ro"]}
    container.configure("CGPU_MEMORY=1GiB", mounts=[device])
    content = (container.bundle / "config.json").read_bytes()
    result = container.create()
    assert result.returncode == 1
    assert "has a CDI device cgpu.dev/gpu, and asks for a share of its own" in result.stderr
    assert (tenants(container.node), (container.bundle / "config.json").read_bytes()) == ([], content)
    container.configure("CGPU_SIM_STATE=/.cgpu/machine", mounts=[device])  # the device by itself
    assert container.create().returncode == 7


def test_without_an_agent_the_container_does_not_start(container: Container):
    container.configure("CGPU_MEMORY=1GiB")
    result = container.create()
    assert result.returncode == 1
    assert "no agent answers" in result.stderr


def test_a_runtime_that_is_not_there_leaves_no_tenant(container: Container, tmp_path: Path):
    container.node.start_agent()
    container.configure("CGPU_MEMORY=1GiB")
    content = (container.bundle / "config.json").read_bytes()
    (tmp_path / "recorder").unlink()
    result = container.create()
    assert (result.returncode, "cannot execute" in result.stderr) == (1, True)
    assert (container.bundle / "config.json").read_bytes() == content
    assert not tenants(container.node)


def runc() -> Path:
    found = shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None or os.geteuid() != 0:
        reason = "needs runc, and root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)


CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT"]


def configure_host_files(container: Container, *arguments: str, env: tuple[str, ...]) -> None:
    """A container over the host's own programs."""
    python = Path(sys.executable).resolve()
    folders = {"/usr", "/lib", "/lib64", "/bin", "/sbin", str(SOURCE), sys.base_prefix}
    mounts: list[dict[str, Any]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    mounts += [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}]
    for folder in sorted(folders):
        if Path(folder).is_dir():
            mounts.append({"destination": folder, "type": "bind", "source": folder, "options": ["rbind", "ro"]})
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    process = {
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "args": [str(python) if argument == "python" else argument for argument in arguments],
        "env": [path, f"PYTHONPATH={SOURCE}", "PYTHONDONTWRITEBYTECODE=1", *env],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
    }
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    container.configure(process=process, mounts=mounts, linux={"namespaces": namespaces})


LOOK = """
import json, os, pathlib
from cgpu.sim import demo_client
def refused(action):
    try:
        action()
    except OSError as error:
        return error.strerror
    return "done"
preload = pathlib.Path("/etc/ld.so.preload")
print(json.dumps({
    "preload": preload.read_text().split(),
    "write preload": refused(lambda: preload.write_text("")),
    "unlink preload": refused(preload.unlink),
    "rename etc": refused(lambda: os.rename("/etc", "/etc2")),
    "rename view": refused(lambda: os.rename("/.cgpu", "/x")),
    "unlink library": refused(lambda: os.unlink(preload.read_text().split()[0])),
    "write grants": refused(lambda: open("/.cgpu/tenant/grants", "r+b")),
    "tenant": sorted(os.listdir("/.cgpu/tenant")),
}), flush=True)
os.environ.clear()  # what it does to its environment changes nothing
os.environ.update(LD_LIBRARY_PATH="/.cgpu/lib/sim", CGPU_SIM_STATE="/.cgpu/machine", PYTHONPATH=SOURCE)
os.execv(PYTHON, [PYTHON, "-m", "cgpu.sim.demo_client", "fill"])
"""


def test_a_real_container_sees_its_share_and_cannot_talk_its_way_out(node: Node, tmp_path: Path):
    container = Container(node, tmp_path, runc())
    node.start_agent()
    script = LOOK.replace("SOURCE", repr(str(SOURCE))).replace("PYTHON,", f"{str(Path(sys.executable).resolve())!r},")
    script = script.replace("[PYTHON", f"[{str(Path(sys.executable).resolve())!r}")
    configure_host_files(container, "python", "-c", script, env=("ALIYUN_COM_GPU_MEM_CONTAINER=3",))
    (container.bundle / "rootfs" / "etc" / "ld.so.preload").write_text("")
    root = ("--root", str(tmp_path / "runc"))
    result = container.call(*root, "run", "--bundle", str(container.bundle), container.id)
    assert result.returncode == 0, result.stderr
    seen, ready, refused = map(json.loads, result.stdout.splitlines())
    total = node.client.get("/v1/gpus")[0]["total_bytes"] // MIB
    quota = total * 3 // (total // 1024) * MIB
    assert ready["total_bytes"] == quota
    assert refused["error"] == "CUDA_ERROR_OUT_OF_MEMORY"
    assert quota - GIB < refused["held_bytes"] <= quota
    assert seen["preload"][0].startswith("/.cgpu/lib/libcgpu-")
    assert seen["tenant"] == ["grants", "locks", "usage"]
    assert [name for name, answer in seen.items() if answer == "done"] == []
    eventually(lambda: not tenants(node) and not list(node.settings.tenants_dir.iterdir()))


MACHINE = os.uname().machine


def foreign_image(container: Container, folder: Path) -> None:
    """A container of an image of musl: a program that says that it ran, and musl's loader."""
    source = folder / "hello.c"
    source.write_text('int puts(const char *);\nint main(void) { return puts("it ran") < 0; }\n')
    root = container.bundle / "rootfs"
    program = compile_for(f"{MACHINE}-linux-musl", source)
    for place in ("bin/hello", f"lib/ld-musl-{MACHINE}.so.1"):
        (root / place).parent.mkdir()
        shutil.copy(program, root / place)
    (root / "proc").mkdir()
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    process = {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["/bin/hello"], "env": ["CGPU_MEMORY=2GiB"]}
    container.configure(process=process, mounts=[proc], linux={"namespaces": namespaces})


def test_an_image_of_musl_does_not_start_without_limits_and_leaves_nothing(node: Node, tmp_path: Path):
    container = Container(node, tmp_path, runc())
    node.start_agent()
    foreign_image(container, tmp_path)
    root = ("--root", str(tmp_path / "runc"))
    bare = subprocess.run([runc(), *root, "run", "--bundle", container.bundle, f"{container.id}-bare"],
        capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)  # fmt: skip
    assert bare.stdout == "it ran\n", bare.stderr
    result = container.call(*root, "run", "--bundle", str(container.bundle), container.id)
    assert (result.returncode != 0, result.stdout) == (True, "")
    assert "its C library is musl" in result.stderr
    assert "use an image with glibc" in result.stderr
    assert "[CGPU-LAYER]" in result.stderr
    eventually(lambda: not tenants(node))
    assert not list(node.settings.tenants_dir.iterdir())
    assert container.call(*root, "list", "--quiet").stdout == ""


def test_the_tenant_is_tied_to_the_container_between_create_and_delete(node: Node, tmp_path: Path):
    container = Container(node, tmp_path, runc())
    node.start_agent()
    configure_host_files(container, "/.cgpu/bin/cgpu", "smi", env=("CGPU_MEMORY=2GiB", "CGPU_NAME=web"))
    root = ("--root", str(tmp_path / "runc"))
    log = tmp_path / "out"
    with log.open("w") as out:
        created = subprocess.run(
            [container.program, *root, "create", "--bundle", container.bundle, container.id],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=SECONDS,
        )  # fmt: skip
    assert created.returncode == 0, log.read_text()
    try:
        state = json.loads(container.call(*root, "state", container.id).stdout)
        (tenant,) = node.client.get("/v1/tenants")
        assert (tenant["name"], tenant["container"]) == ("web", container.id)
        assert state["annotations"]["cgpu.dev/tenant"] == tenant["id"]
        assert container.call(*root, "start", container.id).returncode == 0
        eventually(lambda: json.loads(container.call(*root, "state", container.id).stdout)["status"] == "stopped")
        assert "2048MiB" in log.read_text().replace(" ", "")
    finally:
        container.call(*root, "delete", "--force", container.id)
    eventually(lambda: not tenants(node))

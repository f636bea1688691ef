"""The probe pod's manifest, its script on constructed nodes, and what may be in its log."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cgpu.doctor.probe_pod import (
    ProbeError,
    ProbeList,
    ProbeOptions,
    archive_of,
    has_ended,
    is_leftover,
    manifest,
    pod_name,
    script,
    unpack,
)

SHELLS = [shell for shell in (["sh"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
pytestmark = pytest.mark.timeout(20)  # shells and hypothesis


# --- the manifest


def pod() -> dict[str, Any]:
    wanted = ProbeList({"etc/os-release": 10, ".cgpu-probe/*": 5}, {"runc": ("runc", "--version")})
    return manifest("node-1", "0a1b2c3d", "owner", ProbeOptions(image="mirror/busybox:1"), wanted)


def test_the_pod_can_change_nothing_and_has_no_rights():
    spec = pod()["spec"]
    [container] = spec["containers"]
    context = container["securityContext"]
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["SYS_CHROOT"]}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostPID", "hostNetwork", "hostIPC", "serviceAccountName"} & spec.keys()
    [node] = [mount for mount in container["volumeMounts"] if mount["name"] == "node"]
    assert node["readOnly"] is True
    assert [volume["name"] for volume in spec["volumes"] if "hostPath" in volume] == ["node"]


def test_the_pod_runs_once_on_its_node_whatever_its_taints_and_ends_by_itself():
    spec = pod()["spec"]
    assert spec["nodeName"] == "node-1"
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == ProbeOptions().seconds
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["containers"][0]["image"] == "mirror/busybox:1"


def test_what_the_probe_itself_fills_is_not_copied():
    assert pod()["spec"]["containers"][0]["args"][2:] == ["10\tetc/os-release", "runc\trunc\t--version"]


def test_names_and_labels_are_valid_and_of_one_node_and_run():
    metadata = pod()["metadata"]
    assert len(metadata["name"]) <= 63
    assert metadata["name"] == pod_name("0a1b2c3d", "node-1")
    assert len({pod_name(run, node) for run in ("a", "b") for node in ("a", "b")}) == 4
    assert all(len(value) <= 63 for value in metadata["labels"].values())


# --- what becomes of it


def status(**status: Any) -> dict[str, Any]:
    return {"status": status}


@pytest.mark.parametrize(
    "given",
    [{}, status(phase="Pending"), status(phase="Running"),
     status(phase="Pending", containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}]),
     status(phase="Pending", containerStatuses=[{"state": {"waiting": {"reason": "ErrImagePull"}}}])],
)  # fmt: skip
def test_a_pod_that_may_still_do_its_work_is_waited_for(given: dict[str, Any]):
    assert has_ended(given) is False


def test_a_pod_that_did_its_work_has_ended():
    assert has_ended(status(phase="Succeeded")) is True


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (status(phase="Failed", reason="DeadlineExceeded", message="too\nlong"), "DeadlineExceeded too long"),
        (status(phase="Failed", containerStatuses=[{"state": {"terminated": {"reason": "OOMKilled"}}}]), "OOMKilled"),
        (status(phase="Failed"), "no reason"),
        (
            status(containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "m" * 999}}}]),
            "ImagePullBackOff",
        ),
    ],
)
def test_a_pod_that_failed_says_why(given: dict[str, Any], said: str):
    with pytest.raises(ProbeError, match=said) as caught:
        has_ended(given)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("age", "leftover"), [(0, False), (240, False), (241, True), (-99, False)])
def test_a_pod_of_another_run_is_a_leftover_when_it_is_old(age: int, leftover: bool):
    created = (NOW - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
    given = {"metadata": {"creationTimestamp": created}}
    assert is_leftover(given, NOW, 120, ended_owner=False) is leftover
    assert is_leftover(given, NOW, 120, ended_owner=True)
    assert not is_leftover({"metadata": {"creationTimestamp": "soon"}}, NOW, 120, ended_owner=False)


# --- the script


def run(
    shell: Sequence[str], root: Path, folder: Path, files: Mapping[str, int], commands: str = "", text: str = script()
) -> Path:
    """What a probe of ``root`` brings, unpacked."""
    listed = "\n".join(f"{limit}\t{path}" for path, limit in files.items())
    (folder / "work").mkdir()
    arguments = [*shell, "-c", text, "probe.sh", str(root), str(folder / "work"), listed, commands]
    ended = subprocess.run(arguments, capture_output=True, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0
    assert ended.stderr == b""
    (folder / "got").mkdir()
    unpack(archive_of([ended.stdout]), folder / "got")
    return folder / "got"


def found(folder: Path) -> dict[str, bytes | None]:
    """Its files' bytes; a folder's are None. Folders that only lead to something are left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "node"
    for path, text in {
        "etc/hostname": "n\n",
        "usr/lib/os-release": "ID=x\n",
        "proc/1/mountinfo": "mounts\n",
        "sys/devices/pci0/vendor": "0x10de\n",
        "proc/gpus/0000:00:07.0/information": "Model: T4\n",
        "proc/gpus/with space/information": "Model: A10\n",
        "usr/lib/x86_64/libc.so.6": "GNU\n",
        "big": "x" * 5_000,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for folder in ("run/cdi", "sys/bus", "proc/42"):
        (root / folder).mkdir(parents=True)
    for path, target in {
        "etc/os-release": "/usr/lib/os-release",
        "var": "/real-var",
        "real-var/run": "../run",
        "sys/bus/dev0": "../devices/pci0",
        "lib": "usr/lib",
        "loop": "loop",
        "outside": "../../../../../../../../etc/passwd",
        "proc/self": "42",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    return root


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def shell(request: pytest.FixtureRequest) -> Sequence[str]:
    chosen: Sequence[str] = request.param
    return chosen


def test_the_script_copies_files_through_links_and_patterns_and_nothing_from_outside(
    shell: Sequence[str], root: Path, tmp_path: Path
):
    files = {
        "etc/hostname": 100, "etc/os-release": 100, "proc/self/mountinfo": 100, "sys/bus/*/vendor": 100,
        "proc/gpus/*/information": 100, "big": 4_000, "var/run/cdi/": 0, "etc/cdi/": 0, "lib/*/libc.so.6": 100,
        "usr/lib/*/libc.so.6": 100, "loop": 100, "outside": 100, "missing": 100, "missing/*": 100, "usr/lib": 100,
        "usr/lib/os-release": 0,
    }  # fmt: skip
    assert found(run(shell, root, tmp_path, files)) == {
        ".cgpu-probe": None,
        "etc/hostname": b"n\n",
        "etc/os-release": b"ID=x\n",
        "proc/self/mountinfo": b"mounts\n",
        "sys/bus/dev0/vendor": b"0x10de\n",
        "proc/gpus/0000:00:07.0/information": b"Model: T4\n",
        "proc/gpus/with space/information": b"Model: A10\n",
        "big": b"x" * 4_001,
        "var/run/cdi": None,
        "lib/x86_64/libc.so.6": b"GNU\n",
        "usr/lib/os-release": b"",
    }


def test_of_what_is_no_file_only_that_it_is_there_is_told(shell: Sequence[str], root: Path, tmp_path: Path):
    os.mkfifo(root / "run" / "agent.sock")
    assert found(run(shell, root, tmp_path, {"run/agent.sock": 0, "run/*": 9}))["run/agent.sock"] == b""


def test_a_file_that_may_not_be_read_is_left_out(root: Path, tmp_path: Path):
    (root / "etc" / "hostname").unlink()
    # A file of /proc whose reading fails, whoever reads it.
    (root / "etc" / "hostname").symlink_to("/nowhere")
    assert "etc/hostname" not in found(run(["sh"], root, tmp_path, {"etc/hostname": 9}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root folder")
def test_programs_of_the_node_tell_their_versions(shell: Sequence[str], tmp_path: Path):
    # This machine is the node, and a second is long enough.
    hasty = script().replace("longest=5", "longest=1")
    assert hasty != script()
    commands = "\n".join(
        "\t".join(words)
        for words in (
            ("uname", "uname", "-r"),
            ("printf", "printf", "%s %s|", "a b", "c\\n"),
            ("none", "no-such-program", "--version"),
            ("slow", "sleep", "60"),
            ("wrong", "ls", "--no-such-option"),
        )
    )
    got = found(
        run(
            shell,
            Path("/"),
            tmp_path,
            {"proc/sys/kernel/osrelease": 99, "proc/self/mountinfo": 1 << 20},
            commands,
            hasty,
        )
    )
    assert got.pop("proc/sys/kernel/osrelease") == f"{os.uname().release}\n".encode()
    assert got.pop("proc/self/mountinfo")
    assert got.pop(".cgpu-probe/wrong")
    assert got == {".cgpu-probe/uname": f"{os.uname().release}\n".encode(), ".cgpu-probe/printf": b"a b c\\n|"}


# --- its log


def archive(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def log(content: bytes, checksum: str | None = None) -> bytes:
    text = base64.encodebytes(content)
    end = checksum or hashlib.sha256(content).hexdigest()
    return b"noise\n-----BEGIN CGPU PROBE-----\n" + text + f"-----END CGPU PROBE {end}-----\n".encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no archive"),
        (b"sh: base64: not found\n", "busybox"),
        (log(b"x" * 500)[:200], "cut off"),
        (log(b"x", checksum="0" * 64), "checksum"),
        (log(b"x").replace(b"eA==", b"e\xff=="), "damaged"),
    ],
)
def test_a_log_that_holds_no_archive_says_why(text: bytes, said: str):
    with pytest.raises(ProbeError, match=said):
        archive_of([text])


def test_a_log_without_end_is_refused():
    read = 0

    def endless() -> Iterable[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * (1 << 20)

    with pytest.raises(ProbeError, match="larger than 48 MiB"):
        archive_of(endless())
    assert read == 49


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "entries",
    [
        [(entry("/etc/passwd"), b"x")],
        [(entry("../x"), b"x")],
        [(entry("a/../../x"), b"x")],
        [(entry("a", tarfile.SYMTYPE, "/etc"), b""), (entry("a/x"), b"x")],
        [(entry("a", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        [(entry("a", tarfile.CHRTYPE), b"")],
        [(entry("a", tarfile.FIFOTYPE), b"")],
        [(entry("a"), b"x"), (entry("a/b"), b"x")],
        [(entry("n" * 300), b"x")],
    ],
)
def test_no_entry_leaves_the_folder(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]):
    folder = tmp_path / "inner"
    folder.mkdir()
    with pytest.raises(ProbeError):
        unpack(archive(entries), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_an_archive_that_grows_without_end_is_refused(tmp_path: Path):
    bomb = archive([(entry("zeros"), bytes(65 << 20))])
    assert len(bomb) < 1 << 17
    with pytest.raises(ProbeError, match="too large"):
        unpack(bomb, tmp_path)


def test_an_archive_of_very_many_entries_is_refused(tmp_path: Path):
    with pytest.raises(ProbeError, match="10000 entries"):
        unpack(archive((entry("d", tarfile.DIRTYPE), b"") for _ in range(10_001)), tmp_path)

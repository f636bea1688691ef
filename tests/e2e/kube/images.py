"""Container images as OCI layouts in a tar, made from folders; no registry and no builder is asked."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.e2e.tools import program
from tests.native.c_compiler import compile_c

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_ELF_MACHINE: Final = slice(18, 20)
# The process of a pod's sandbox: it waits for a signal, and takes in what its children leave.
_PAUSE: Final = """
#include <signal.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) {
  signal(SIGTERM, end);
  signal(SIGINT, end);
  signal(SIGCHLD, SIG_IGN);
  for (;;) pause();
}
"""


def archive(
    rootfs: Path, name: str, target: Path, *, environment: Mapping[str, str], entrypoint: Sequence[str] = ()
) -> Path:
    """An image of one layer. ``name`` is whole ("docker.io/local/x:1"): a shorter one would be pulled."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w") as files:
        files.add(rootfs, arcname=".")
    with layer.open("rb") as stream:
        layer_digest = hashlib.file_digest(stream, "sha256").hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [f"{key}={value}" for key, value in environment.items()], "Entrypoint": list(entrypoint)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    }
    with tarfile.open(target, "w") as out:
        out.add(layer, f"blobs/sha256/{layer_digest}")
        layers = [_descriptor(_LAYER, layer_digest, layer.stat().st_size)]
        document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _blob(out, _CONFIG, config), "layers": layers}
        manifest = _blob(out, _MANIFEST, document) | {"annotations": {"io.containerd.image.name": name}}
        _file(out, "index.json", {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [manifest]})
        _file(out, "oci-layout", {"imageLayoutVersion": "1.0.0"})
    layer.unlink()
    return target


def pause(folder: Path, name: str) -> Path:
    """The image of a pod's sandbox."""
    rootfs = folder / "pause"
    rootfs.mkdir(parents=True)
    source = folder / "pause.c"
    source.write_text(_PAUSE)
    compile_c(rootfs / "pause", [source], libraries=["-static"])
    return archive(rootfs, name, folder / "pause.tar", environment={}, entrypoint=["/pause"])


def without_glibc(folder: Path, name: str, *, architecture: int | None = None) -> Path:
    """An image as one with musl looks: a static busybox and musl's loader. ``architecture``: another one, as in ELF."""
    rootfs = folder / "without-glibc"
    for part in ("bin", "etc", "lib", "tmp", "proc", "dev", "sys"):
        (rootfs / part).mkdir(parents=True)
    content = bytearray(Path(program("busybox")).read_bytes())
    if architecture is not None:
        content[_ELF_MACHINE] = architecture.to_bytes(2, "little")
    for file in ("bin/busybox", "lib/ld-musl-x86_64.so.1"):
        (rootfs / file).write_bytes(content)
        (rootfs / file).chmod(0o755)
    for applet in ("sh", "echo", "sleep"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    return archive(rootfs, name, folder / "without-glibc.tar", environment={"PATH": "/bin"})


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def _blob(out: tarfile.TarFile, kind: str, document: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    return _descriptor(kind, digest, _file(out, f"blobs/sha256/{digest}", document))


def _file(out: tarfile.TarFile, path: str, document: dict[str, Any]) -> int:
    content = json.dumps(document).encode()
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    out.addfile(entry, io.BytesIO(content))
    return len(content)

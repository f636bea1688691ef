"""cgpu-runtime as an engine calls it: beside its conf, with a real runtime that records, and an agent that does."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cgpu.adapters.native import RUNTIME, native_library

RECORDER = """\
#!{python} -I
import json, os, sys
fds = [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)]
call = {{"program": "{name}", "argv": open("/proc/self/cmdline").read().split("\\0")[2:-1], "pid": os.getpid(),
        "environment": dict(os.environ), "fds": sorted(fds), "stdin": sys.stdin.read()}}
print(json.dumps(call))
sys.exit(7)
"""
TIMEOUT_S = 30


@dataclass(frozen=True)
class Node:
    """A folder with the runtime program, its conf, two recording programs and a bundle."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Node:
        """Lay it out; the agent's socket is not there."""
        node = cls(folder)
        shutil.copy2(native_library(RUNTIME), node.program)
        for name in ("real", "python"):
            (folder / name).write_text(RECORDER.format(python=sys.executable, name=name))
            (folder / name).chmod(0o755)
        node.conf.write_text(
            f"# cgpu\nruntime = {folder / 'real'}\npython = {folder / 'python'}\n"
            f"socket = {node.socket}\ntenants = {node.tenants}\n"
        )
        node.bundle.mkdir()
        node.tenants.mkdir()
        return node

    @property
    def program(self) -> Path:
        """The program under test."""
        return self.folder / "cgpu-runtime"

    @property
    def conf(self) -> Path:
        """Its conf."""
        return self.folder / "cgpu-runtime.conf"

    @property
    def socket(self) -> Path:
        """The agent's socket."""
        return self.folder / "agent.sock"

    @property
    def tenants(self) -> Path:
        """The agent's folder of tenants."""
        return self.folder / "tenants"

    @property
    def bundle(self) -> Path:
        """A container's bundle."""
        return self.folder / "bundle"

    def config(self, *environment: str, annotations: dict[str, str] | None = None) -> None:
        """Write the bundle's config.json."""
        document = {"process": {"env": ["PATH=/bin", *environment]}, "annotations": annotations or {}}
        (self.bundle / "config.json").write_text(json.dumps(document))

    def call(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Call the program and wait for it."""
        return subprocess.run(
            [self.program, *arguments], input=stdin, cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT_S
        )


@dataclass
class RecordingAgent:
    """Answers every connection with the same bytes (or, with None, never), and keeps what it was asked."""

    answer: bytes | None
    requests: list[bytes] = field(default_factory=list)

    def serve(self, listener: socket.socket, silent: list[socket.socket]) -> None:
        """Serve until the listener is shut down."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if self.answer is None:
                silent.append(connection)
                continue
            with connection:
                self.requests.append(_request(connection))
                connection.sendall(self.answer)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def agent(path: Path, status: str | None = "204 No Content", body: bytes = b"") -> Iterator[RecordingAgent]:
    """An agent on that socket that gives one answer; ``status`` None: it accepts and stays silent."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    served = RecordingAgent(None if status is None else head + body)
    silent: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=served.serve, args=(listener, silent))
        thread.start()
        try:
            yield served
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in silent:
                connection.close()
            path.unlink()

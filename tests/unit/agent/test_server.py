"""The agent's socket under many callers at once."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from wsgiref.types import StartResponse

from cgpu.agent.server import ApiServer

CALLERS = 200


def test_callers_that_come_at_the_same_moment_wait_instead_of_being_refused():
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as callers:
        server = ApiServer(Path(folder) / "agent.sock", lambda *_: [b""])
        callers.callback(server.server_close)
        for _ in range(CALLERS):  # none of them is accepted meanwhile
            caller = callers.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            caller.connect(str(server.path))


def test_a_server_whose_name_is_another_agents_leaves_it_there(tmp_path: Path):
    path = tmp_path / "agent.sock"
    first = ApiServer(path, lambda *_: [b""])
    assert first.is_reachable()
    path.unlink()
    assert not first.is_reachable()
    second = ApiServer(path, lambda *_: [b""])
    first.withdraw()
    assert second.is_reachable()
    second.withdraw()
    assert not path.exists()
    first.server_close()
    second.server_close()


def test_a_server_ends_when_it_is_told_and_not_when_it_looks(tmp_path: Path):
    def answer(_: object, start: StartResponse) -> list[bytes]:
        start("200 OK", [])
        return [b"here"]

    server = ApiServer(tmp_path / "agent.sock", answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with socket.socket(socket.AF_UNIX) as caller:  # it serves
        caller.connect(str(server.path))
        caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with caller.makefile("rb") as told:
            assert told.read().endswith(b"here")
    server.shutdown()
    thread.join(5.0)
    assert not thread.is_alive()
    server.server_close()

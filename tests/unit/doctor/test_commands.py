"""Commands run on this machine: bounded in time and output, without the caller's environment, each failing alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cgpu.doctor.probes import COMMANDS, Command, HostCommands, probe_node
from cgpu.doctor.probes.tree import UnknownError
from tests.unit.doctor.trees import UBUNTU, build, put

LASTS_S = 14
"""For so long the command hangs."""


def program(folder: Path, name: str, script: str) -> None:
    put(folder, name, f"#!/bin/sh\n{script}\n").chmod(0o755)


def lives(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def commands(folder: Path, seconds: float = 8.0, limit: int = 4096) -> HostCommands:
    return HostCommands(path=f"{folder}:/usr/bin:/bin", seconds=seconds, limit=limit)


def test_commands_come_first_and_packages_second(tmp_path: Path):
    root = build(UBUNTU, tmp_path)
    program(tmp_path / "bin", "nvidia-ctk", "echo NVIDIA Container Toolkit CLI version 1.18.0")
    program(tmp_path / "bin", "dockerd", "echo broken >&2; exit 1")
    program(tmp_path / "bin", "docker", "exit 0")
    program(tmp_path / "bin", "ldd", "echo ldd '(GNU libc)' 2.40")
    facts = probe_node(root, runner=HostCommands(path=str(tmp_path / "bin")))
    assert facts["toolkit"].value == "1.18.0"
    assert facts["toolkit"].how == "`nvidia-ctk --version`"
    assert facts["docker"].how == "/var/lib/dpkg/status: docker-ce"
    assert facts["glibc"].how == "`ldd --version`"
    assert facts["crun"].how == "`crun --version`: no such command; /var/lib/dpkg/status: not installed as a package"


def test_both_streams_are_read_whatever_the_exit_status(tmp_path: Path):
    program(tmp_path, "ldd", "echo musl libc >&2; echo more; exit 1")
    assert commands(tmp_path).output(COMMANDS["ldd"]) == "musl libc\nmore\n"


@pytest.mark.timeout(30)
def test_one_that_hangs_is_ended_with_its_children(tmp_path: Path):
    program(tmp_path, "runc", f"(sleep {LASTS_S}; touch {tmp_path}/late) & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()
    with pytest.raises(UnknownError, match=r"`runc --version`: no end within 1 s"):
        commands(tmp_path, seconds=1.0).output(COMMANDS["runc"])
    assert time.monotonic() - began < LASTS_S / 2
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + LASTS_S / 2
    while lives(child):  # its new parent has to reap it
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_floods_is_ended(tmp_path: Path):
    program(tmp_path, "runc", "while :; do echo 0123456789012345678901234567890123456789; done")
    with pytest.raises(UnknownError, match="more than 4096 bytes"):
        commands(tmp_path).output(COMMANDS["runc"])


def test_the_callers_environment_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_SECRET", "x")
    program(tmp_path, "runc", "env; pwd; cat")
    printed = commands(tmp_path).output(COMMANDS["runc"])
    assert "A_SECRET" not in printed
    assert "LC_ALL=C" in printed
    assert printed.endswith("/\n")


def test_what_cannot_be_run_is_named(tmp_path: Path):
    put(tmp_path, "runc", "\x7fELF nonsense").chmod(0o755)
    with pytest.raises(UnknownError, match=r"`runc --version`: exec format error"):
        commands(tmp_path).output(COMMANDS["runc"])
    with pytest.raises(UnknownError, match=r"`crun --version`: no such command") as error:
        HostCommands(path=str(tmp_path)).output(COMMANDS["crun"])
    assert error.value.absent


def test_each_command_is_run_once(tmp_path: Path):
    class Counting:
        def __init__(self) -> None:
            self.asked: list[str] = []

        def output(self, command: Command) -> str:
            self.asked.append(command.name)
            raise UnknownError("none")

        def how(self, command: Command) -> str:
            return command.name

    counting = Counting()
    probe_node(tmp_path, runner=counting)
    assert sorted(counting.asked) == sorted(COMMANDS)


def test_the_table_of_commands_only_asks_for_versions():
    for name, command in COMMANDS.items():
        assert name == command.name == command.argv[0]
        assert command.argv[1] in ("--version", "-q")

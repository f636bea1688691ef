"""``cgpu explain`` as a process: files, pipes of any length, codes, and what it says of malformed requests."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import pytest

import cgpu
from cgpu.compat.dataset import shipped
from cgpu.compat.export import about
from cgpu.doctor.codes import codes
from tests.integration.terminal import Terminal

SECONDS: Final = 60.0
EXPLAIN: Final = (sys.executable, "-m", "cgpu", "explain")
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(Path(cgpu.__file__).parents[1])}
MIB: Final = 1 << 20
NVML: Final = "Failed to initialize NVML: GPU access blocked by operating system"
HUNG: Final = "INFO: task python3:77 blocked for more than 120 seconds.\n km_ioctl+0x1a3/0x2b0 [km]\n"
FILLER: Final = b'2026-03-01T12:00:00.123456789Z stdout F {"level":"info","msg":"step 1234 loss=0.123 lr=0.001"}\n'


def explain(*arguments: str, log: str | bytes = "") -> subprocess.CompletedProcess[str]:
    data = log.encode() if isinstance(log, str) else log
    done = subprocess.run([*EXPLAIN, *arguments], input=data, capture_output=True, env=ENVIRONMENT, timeout=SECONDS)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def document(*arguments: str, log: str | bytes = "") -> tuple[int, Any]:
    done = explain(*arguments, "--json", log=log)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@contextmanager
def piped() -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A process that reads a pipe which stays open."""
    with subprocess.Popen(EXPLAIN, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process, process.stdin, process.stdout
        finally:
            process.kill()


def test_a_text_a_file_and_a_pipe_give_the_same(tmp_path: Path):
    path = tmp_path / "log"
    path.write_text(NVML)
    answers = [document(NVML), document("-f", str(path)), document("-f", "-", log=NVML), document(log=NVML)]
    assert all(answer == answers[0] for answer in answers)
    code, answer = answers[0]
    assert code == 0
    (finding,) = answer["findings"]
    assert finding["id"] == "nvml-init"
    assert finding["confidence"] == "certain"
    assert finding["line"] == 1
    assert all(finding[name] for name in ("cause", "affected", "fix", "confirm", "text", "title", "source"))
    assert answer["data"] == about(shipped())


def test_nothing_recognised_is_said_and_is_1():
    assert document(log="all is well\n") == (1, {"findings": [], "data": document("x")[1]["data"]})
    done = explain(log=os.urandom(100_000))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("nothing known was recognised (data of 2026-03-31)")


def test_certain_findings_come_first():
    _, answer = document(log=f"{HUNG}x\n{NVML}\n")
    assert [(finding["id"], finding["confidence"], finding["line"]) for finding in answer["findings"]] == [
        ("nvml-init", "certain", 4),
        ("kernel-panic", "possible", 1),
    ]


def test_how_often_a_failure_was_seen_is_told_at_the_end():
    done = explain(log=f"{NVML}\nx\n" * 12)
    assert done.stdout.count("nvml-init (certain), line 1") == 1
    assert "seen: nvml-init 12 times" in done.stdout


@pytest.mark.parametrize("code", codes())
def test_each_code_is_explained(code: str, capsys: pytest.CaptureFixture[str]):
    from cgpu.cli.main import main

    assert main(["explain", code.lower()]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{code}: {codes()[code].meaning}\n")
    assert codes()[code].fix in told
    assert main(["explain", code, "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["id"], finding["causes"]) == (code, list(codes()[code].causes))


def test_a_code_that_is_none_is_said_and_is_1():
    done = explain("CGPU-NONE")
    assert (done.returncode, "CGPU-NONE is no code" in done.stdout) == (1, True)
    assert document("CGPU-NONE")[0] == 1
    assert document("CGPU-NONE")[1]["findings"] == []


def test_what_the_command_line_prints_is_explained():
    refused = subprocess.run(
        [sys.executable, "-m", "cgpu", "run", "--memory", "6"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert re.search(r"^cgpu: not an amount of memory: '6' \[CGPU-AMOUNT\]$", refused.stderr, re.MULTILINE)
    assert [finding["id"] for finding in document(log=refused.stderr)[1]["findings"]] == ["CGPU-AMOUNT"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("text", "-f", "log"), "TEXT and --file exclude"),
        (("CGPU-AGENT", "--pod", "a/b"), "TEXT and --pod exclude"),
        (("-f", "log", "--pod", "a/b"), "--file and --pod exclude"),
        (("text", "--context", "x"), "--context goes with --pod"),
        (("text", "--kubeconfig", "x"), "--kubeconfig goes with --pod"),
        (("text", "--facts", "x", "--node"), "--facts and --node exclude"),
        (("--facts", "-"), "cannot both come from stdin"),
        (("-f", "-", "--facts", "-"), "cannot both come from stdin"),
        (("text", "--data", "/nowhere"), "/nowhere"),
        (("text", "--facts", "/nowhere"), "/nowhere: No such file"),
        (("-f", "/nowhere"), "/nowhere: No such file"),
        (("-f", "/proc/self/mem"), "/proc/self/mem: "),
        (("-f", "/"), "/: Is a directory"),
        (("two", "texts"), "unrecognized arguments: texts"),
    ],
)
def test_a_malformed_request_is_2_and_names_what_is_wrong(arguments: tuple[str, ...], words: str):
    done = explain(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_data_of_ones_own_changes_what_is_said(tmp_path: Path):
    data = tmp_path / "own.toml"
    data.write_text(
        '[[issue]]\nid = "nvml-init"\ntitle = "our title"\naffected = "<=9.9"\ncause = "our cause"\nfix = "our fix"\n'
        'procedure = ""\nsource = "us"\n'
    )
    (finding,) = document(NVML, "--data", str(data))[1]["findings"]
    assert (finding["cause"], finding["fix"], finding["affected"]) == ("our cause", "our fix", "cGPU 9.9 and earlier")


def test_findings_are_printed_while_the_pipe_is_open():
    with piped() as (_, log, told):
        log.write(NVML.encode() + b"\n" * 9)
        log.flush()
        assert told.readline().startswith(b"nvml-init (certain), line 1: ")


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        ["bash", "-c", f"yes 'NVRM: Xid (PCI:0000:06:00): 79, x' | head -20000 | {' '.join(EXPLAIN)} | head -1"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=SECONDS,
    )
    assert (done.stdout[:6], done.stderr) == ("xid-79", "")


def test_on_a_terminal_it_shows_how_far_it_is(tmp_path: Path):
    path = tmp_path / "log"
    with path.open("wb") as log:
        for _ in range(96):
            log.write(FILLER * (MIB // len(FILLER)))
    with Terminal([*EXPLAIN, "-f", str(path)], ENVIRONMENT) as terminal:
        terminal.wait_for("nothing known was recognised")
        assert re.search(rb"\r\d+ of \d+ MiB read", terminal.raw)
        assert not terminal.shows("MiB")


def test_a_terminal_is_no_log():
    with Terminal([*EXPLAIN], ENVIRONMENT) as terminal:
        terminal.wait_for("nothing to explain [CGPU-USAGE]")


def test_with_facts_it_says_what_applies(tmp_path: Path):
    facts = tmp_path / "node.yaml"
    facts.write_text('cgpu: "1.0.5"\ntoolkit: "1.13.5"\n')
    log = f"CreateContainerError: context deadline exceeded\n\n{HUNG}\n{NVML}\n"
    _, answer = document("--facts", str(facts), log=log)
    assert {(finding["id"], finding["confidence"], finding["applies"]) for finding in answer["findings"]} == {
        ("create-timeout", "certain", "yes"),
        ("kernel-panic", "certain", "yes"),
        ("nvml-init", "certain", "unknown"),
    }
    assert "driver" in {finding["id"]: finding["why"] for finding in answer["findings"]}["nvml-init"]
    assert "\n  here      yes: " in explain("--facts", str(facts), log=log).stdout


def test_facts_that_are_malformed_are_named(tmp_path: Path):
    facts = tmp_path / "node.yaml"
    facts.write_text("kernel: 5.10\n")
    done = explain(NVML, "--facts", str(facts))
    assert (done.returncode, "kernel" in done.stderr, "[CGPU-FACT]" in done.stderr) == (2, True, True)


def test_on_a_node_it_looks_at_the_node_itself():
    (finding,) = document(HUNG, "--node")[1]["findings"]
    assert finding["why"]
    assert finding["applies"] != "yes", "this machine has Alibaba's cGPU"


def a_log_of_many_lines(log: IO[bytes]) -> None:
    for _ in range(48):
        log.write(FILLER * (MIB // len(FILLER)))
    log.write(NVML.encode() + b"\n")


def one_line_without_an_end(log: IO[bytes]) -> None:
    for _ in range(48):
        log.write(b"x" * MIB)
    log.write(NVML.encode())


def lines_that_need_a_closer_look(log: IO[bytes]) -> None:
    line = b'"list failed" err="rpc error: code = DeadlineExceeded desc = context deadline exceeded"\n'
    log.write(line * (4 * MIB // len(line)))
    log.write(NVML.encode() + b"\n")


@pytest.mark.parametrize("write", [a_log_of_many_lines, one_line_without_an_end, lines_that_need_a_closer_look])
def test_a_long_pipe_is_read_in_bounded_memory(write: Callable[[IO[bytes]], None]):
    with piped() as (process, log, told):
        for _ in range(2):  # when it reads for the second time, it has done with the first, and imported what it needs
            log.write(FILLER * 100)
            log.flush()
            while waiting_bytes(log):
                time.sleep(0.01)
        before = peak_bytes(process.pid)
        write(log)
        log.flush()
        grown = peak_bytes(process.pid) - before
        log.close()
        assert told.readline().startswith(b"nvml-init (certain), line ")
    # Half a MiB is read at a time; what is kept of it does not grow with the pipe, which has 4 MiB or more.
    assert grown < 24 * MIB


def waiting_bytes(pipe: IO[bytes]) -> int:
    """What nobody has read yet."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])


def peak_bytes(pid: int) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024

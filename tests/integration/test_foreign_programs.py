"""Programs that cannot load the shim: of musl, and of another architecture."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cgpu.adapters.native import SHIM, native_library
from tests.integration.conftest import Node
from tests.native import debian_archive
from tests.native.zig_programs import compile_for

HELLO = 'int puts(const char *);\nint main(void) { return puts("it ran") < 0; }\n'
RUN = ("run", "--memory", "1GiB", "--")
MACHINE = os.uname().machine
OTHER = "aarch64" if MACHINE == "x86_64" else "x86_64"
MUSL = debian_archive.CACHE / "musl"


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A program that says that it ran."""
    source = tmp_path / "hello.c"
    source.write_text(HELLO)
    return source


def test_a_program_of_musl_is_refused_by_name(node: Node, hello: Path) -> None:
    program = compile_for(f"{MACHINE}-linux-musl", hello, "-dynamic")
    told = node.cgpu(*RUN, str(program))
    assert (told.returncode, told.stdout) == (126, "")
    assert f"its C library is musl (its loader is /lib/ld-musl-{MACHINE}.so.1)" in told.stderr
    assert "[CGPU-COMMAND]" in told.stderr
    assert not node.answers()  # nothing was made for it


def test_a_script_of_musl_is_refused_too(node: Node, hello: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{compile_for(f'{MACHINE}-linux-musl', hello, '-dynamic')}\n")
    script.chmod(0o755)
    told = node.cgpu(*RUN, str(script))
    assert told.returncode == 126
    assert "its C library is musl" in told.stderr


def test_a_program_of_another_architecture_is_refused_by_name(node: Node, hello: Path) -> None:
    told = node.cgpu(*RUN, str(compile_for(f"{OTHER}-linux-gnu.2.17", hello)))
    assert (told.returncode, told.stdout) == (126, "")
    assert f"it is a program of another architecture than {MACHINE}" in told.stderr


def test_a_program_of_musl_deep_in_a_tenant_does_not_run_without_limits(hello: Path) -> None:
    """It is started by a program that `cgpu run` let through. musl's loader stops, and names the shim."""
    musl = debian_archive.needed(debian_archive.fetch(MUSL, "bookworm", ("musl",)), "musl")
    program = compile_for(f"{MACHINE}-linux-musl", hello, "-dynamic")
    loader = musl / "lib" / f"ld-musl-{MACHINE}.so.1"
    alone = subprocess.run([loader, program], capture_output=True, text=True, check=False)
    assert alone.stdout == "it ran\n"
    shim = native_library(SHIM)
    held = subprocess.run(
        [loader, program], env=os.environ | {"LD_PRELOAD": str(shim)}, capture_output=True, text=True, check=False
    )
    assert (held.returncode, held.stdout) == (127, "")
    assert str(shim) in held.stderr

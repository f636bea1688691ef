"""The agent's reclaim of a dead slot, against a tenant that means harm."""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys
from pathlib import Path

from cgpu.region.layout import CGPU_USAGE_MAGIC, Usage

TRIES = 300

# In a process of its own, which a SIGBUS would end. The hostile thread is another process, so that
# both run at the same time.
CALLER = """
import ctypes, errno, os, sys
library = ctypes.CDLL(sys.argv[1])
usage, locks = (os.path.join(sys.argv[2], name).encode() for name in ("usage", "locks"))
slot = ctypes.byref(ctypes.c_uint(0))
least, seen, tries = int(sys.argv[3]), set(), 0
while tries < least or (-errno.EIO not in seen and tries < 50 * least):
    seen.add(library.cgpu_arbiter_reclaim(usage, locks, slot, 1))
    tries += 1
print(sorted(seen))
with open("/proc/self/maps") as maps:
    print("mapped:", sum(sys.argv[2] in line for line in maps))
"""
SHRINKER = """
import os, sys
fd, size = os.open(os.path.join(sys.argv[1], "usage"), os.O_RDWR), int(sys.argv[2])
head = os.pread(fd, 64, 0)
while True:
    os.ftruncate(fd, 0)
    os.pwrite(fd, head, 0)
    os.ftruncate(fd, size)
"""


def test_a_usage_file_that_shrinks_does_not_kill_the_agent(native: Path, tmp_path: Path) -> None:
    usage = Usage()
    usage.header.magic, usage.header.major = CGPU_USAGE_MAGIC, 1
    (tmp_path / "usage").write_bytes(bytes(usage))
    (tmp_path / "locks").write_bytes(b"")
    shrinker = subprocess.Popen([sys.executable, "-c", SHRINKER, str(tmp_path), str(ctypes.sizeof(Usage))])
    try:
        command = [sys.executable, "-c", CALLER, str(native / "libcgpu_arbiter.so"), str(tmp_path), str(TRIES)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        shrinker.kill()
        shrinker.wait()
    assert result.returncode == 0, f"the caller died: {result.returncode} {result.stderr}"
    said = result.stdout.splitlines()
    assert said[0].startswith("["), result.stdout
    assert str(-errno.EIO) in said[0], "no attempt met a file that had shrunk"
    assert said[1] == "mapped: 0"

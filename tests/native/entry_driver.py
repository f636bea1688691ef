"""A libcuda of a few lines, compiled on the spot, and programs that ask which function answers a name."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

SONAME = "-Wl,-soname,libcuda.so.1"

# A driver's answers name themselves: 1000 is the real cuMemAlloc_v2, and so on.
DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuMemAlloc_v2(unsigned long long *p, size_t n) { (void)n; *p = 1000; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDriverGetVersion(int *version) { *version = 12050; return 0; }
int cuLaunchKernelEx(const void *config, void *f, void **parameters, void **extra) {
  (void)f, (void)parameters, (void)extra;
  return config ? 0 : 1;
}
int cuGetProcAddress_v2(const char *name, void **pfn, int version, unsigned long long flags, int *status) {
  (void)flags;
  *pfn = NULL;
  *status = version < 3020 ? 2 : 1;
  if (version >= 3020 && !strcmp(name, "cuMemAlloc")) *pfn = (void *)cuMemAlloc_v2, *status = 0;
  if (!strcmp(name, "cuDeviceGet")) *pfn = (void *)cuDeviceGet, *status = 0;
  if (!strcmp(name, "cuGetProcAddress")) *pfn = (void *)cuGetProcAddress_v2, *status = 0;
  return 0;
}
"""

# What every Python child begins with: where(address) names the library that an address lies in.
PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p), ("_", ctypes.c_void_p)]
for f in (libc.dlsym, libc.dlvsym): f.restype = ctypes.c_void_p
def where(address):
    info = Info()
    found = address and libc.dladdr(ctypes.c_void_p(address), ctypes.byref(info))
    return os.path.basename(info.file.decode()) if found else "nothing"
def sym(handle, name): return where(libc.dlsym(ctypes.c_void_p(handle), name.encode()))
def vsym(handle, name, version): return where(libc.dlvsym(ctypes.c_void_p(handle), name.encode(), version.encode()))
DEFAULT, NEXT = 0, -1
"""

Run = Callable[..., list[str]]


def lines_of(command: Sequence[str | Path], preload: Sequence[Path], **variables: str) -> list[str]:
    """Standard output of a program that must succeed and say nothing on stderr."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CGPU_")} | variables
    if preload:
        environment["LD_PRELOAD"] = ":".join(map(str, preload))
    result = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, ""), f"{result.returncode}: {result.stdout}{result.stderr}"
    return result.stdout.splitlines()

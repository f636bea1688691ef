"""A libcuda whose functions say who they are and what they were given: for the ABI of what the shim puts between.

It exports every hooked name and every name that NVIDIA's driver has ever given for one, chooses among them by
name, version and flags as NVIDIA's own does (data/cuda_proc_address.tsv), and notes each call.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from native import build
from tests.native.conftest import CompileC
from tests.native.entry_driver import SONAME

TABLE: Final = Path(__file__).parent / "data" / "cuda_proc_address.tsv"
NOTED: Final = 12
"""So many arguments are noted; a call with fewer leaves the rest to chance."""
STEP: Final = 0x1011
"""Between the arguments that are passed: their lowest bytes differ, too."""
ANSWER: Final = 999
WIDTHS: Final = {"unsigned char": 8, "unsigned short": 16, "unsigned int": 32, "int": 32, "CUdevice": 32}
OWN: Final = ("cuGetProcAddress", "cuGetProcAddress_v2", "cuInit", "cuDriverGetVersion")

SOURCE = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
struct call { const char *name; uintptr_t argument[NOTED]; };
struct call calls[64];
unsigned made;
#define A(n) uintptr_t a##n
#define NOTE(name) \\
  int name(A(0), A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11)); \\
  int name(A(0), A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11)) { \\
    if (made < 64) calls[made++] = (struct call){#name, {a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11}}; \\
    return ANSWER; \\
  }
STUBS
int cuInit(unsigned flags), cuDriverGetVersion(int *version);
int cuGetProcAddress(const char *name, void **pfn, int version, unsigned long long flags);
int cuGetProcAddress_v2(const char *name, void **pfn, int version, unsigned long long flags, int *status);
struct row { const char *name; int since; unsigned per_thread; void *export; };
static const struct row rows[] = { ROWS };
int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetProcAddress_v2(const char *name, void **pfn, int version, unsigned long long flags, int *status) {
  int known = 0;
  *pfn = NULL;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (strcmp(rows[i].name, name) != 0 || rows[i].per_thread != (flags == 2)) continue;
    known = 1;
    if (rows[i].since <= version) *pfn = rows[i].export;
  }
  if (status) *status = *pfn ? 0 : known ? 2 : 1;
  return 0;
}
int cuGetProcAddress(const char *name, void **pfn, int version, unsigned long long flags) {
  void *found;
  cuGetProcAddress_v2(name, &found, version, flags, NULL);
  if (!found) return 500;
  *pfn = found;
  return 0;
}
"""


@functools.cache
def table() -> dict[str, tuple[list[tuple[int, str]], list[tuple[int, str]]]]:
    """Per name: (version, export) in order, for flags 0 or 1 and for flags 2."""
    found = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("#"):
            continue
        name, plain, per_thread = line.split("\t")
        found[name] = (_steps(plain), _steps(per_thread or plain))
    return found


def _steps(column: str) -> list[tuple[int, str]]:
    steps = [word.split(":") for word in column.split() if word != "-"]
    return [(int(version), export) for version, export in steps]


@functools.cache
def parameters() -> dict[str, list[str]]:
    """The types of each hooked function's parameters, as hooks.def has them."""
    text = re.sub(r"/\*.*?\*/", "", (build.NATIVE / "include" / "hooks.def").read_text(), flags=re.DOTALL)
    rows = re.findall(r"^CG_(?:HOOK|SUBMIT)\(\s*\d+, (\w+), [^(]*\(([^)]*)\)", text, re.MULTILINE)
    types = {name: [re.sub(r"\w+$", "", word.strip()).strip() for word in listed.split(",")] for name, listed in rows}
    return {name: [] if listed == [""] else listed for name, listed in types.items()}


def masks(export: str) -> list[int]:
    """What its parameters keep of a word."""
    return [(1 << WIDTHS.get(kind, 64)) - 1 for kind in parameters().get(export, [])]


def build_driver(c_program: CompileC) -> Path:
    """Compile it."""
    exports = set(parameters()) | {
        export for columns in table().values() for column in columns for _, export in column if export != "-"
    }
    stubs = "\n".join(f"NOTE({name})" for name in sorted(exports - set(OWN)))
    rows = ", ".join(_rows())
    text = SOURCE.replace("STUBS", stubs).replace("ROWS", rows)
    text = text.replace("NOTED", str(NOTED)).replace("ANSWER", str(ANSWER))
    return c_program("libcuda.so.1", text, shared=True, flags=[SONAME, "-fno-builtin"])


def _rows() -> Iterator[str]:
    for name, columns in table().items():
        for per_thread, column in enumerate(columns):
            for version, export in column:
                target = "NULL" if export == "-" else f"(void *){export}"
                yield f'{{"{name}", {version}, {per_thread}, {target}}}'

"""The hook list against NVIDIA's own header: the same prototypes, and nothing that matters left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from native import build
from tests.native.c_compiler import compile_c
from tests.parity.hook_list import ALSO_ALLOCATING, TELLING, declared, excused, variantless

HOOKS = build.NATIVE / "include" / "hooks.def"


def test_every_allocating_or_working_function_is_hooked_or_excused() -> None:
    names = declared()
    assert len(names) > 500
    telling = {name for name in names if TELLING.search(name)} | ALSO_ALLOCATING
    assert telling - set(build.hook_names()) - set(excused()) == set()


def test_every_name_has_one_row() -> None:
    assert len(set(build.hook_names())) == len(build.hook_names())


def test_nothing_is_both_hooked_and_excused() -> None:
    assert set(excused()) & set(build.hook_names()) == set()
    assert all(excused().values())


def test_variants_of_a_hooked_function_are_hooked() -> None:
    """A per-thread or versioned variant is another way to the same effect."""
    hooked = set(build.hook_names())
    bases = {variantless(name) for name in hooked if name.startswith("cu")}
    # cuda.h's own inline function of this name calls cuGetProcAddress_v2 with another flag.
    inline = {"cuGetProcAddress_v2_ptsz"}
    assert {name for name in declared() if variantless(name) in bases} - hooked - inline == set()


PROTOTYPES = """
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>
#define CG_HOOK(since, name, category, params, args) \\
  _Static_assert(_Generic(&name, CUresult(*) params: 1, default: 0), "prototype of " #name);
#define CG_SUBMIT(since, name, category, stream, params, args) CG_HOOK(since, name, category, params, args)
#include "LIST"
int main(void) { return 0; }
"""


def compile_list(folder: Path, text: str) -> None:
    (folder / "list.def").write_text(text)
    (folder / "prototypes.c").write_text(PROTOTYPES.replace("LIST", str(folder / "list.def")))
    compile_c(folder / "prototypes", [folder / "prototypes.c"])


def test_rows_have_the_prototypes_of_cuda_h(tmp_path: Path) -> None:
    compile_list(tmp_path, HOOKS.read_text())


def test_a_wrong_prototype_is_noticed(tmp_path: Path) -> None:
    wrong = HOOKS.read_text().replace(
        "(CUdeviceptr *dptr, size_t bytesize)", "(CUdeviceptr *dptr, unsigned bytesize)", 1
    )
    assert wrong != HOOKS.read_text()
    with pytest.raises(AssertionError, match="prototype of cuMemAlloc_v2"):
        compile_list(tmp_path, wrong)

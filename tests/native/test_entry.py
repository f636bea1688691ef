"""Which function answers a name: the shim's dlsym, dlvsym, cuGetProcAddress and direct linking.

The driver here is a library of a few lines that carries libcuda's soname, compiled on the spot, so
that every layout of a process can be built: no driver, two drivers, wrappers before and behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.native.conftest import CompileC
from tests.native.entry_driver import DRIVER, PRELUDE, SONAME, Run, lines_of

# ---- dlsym on a handle ----


def test_hooked_names_of_the_driver_are_ours_and_others_its_own(python: Run, driver: Path) -> None:
    code = "d = ctypes.CDLL(sys.argv[1])._handle\nfor n in sys.argv[2:]: print(sym(d, n))"
    names = ("cuInit", "cuMemAlloc_v2", "cuGetProcAddress_v2", "cuDeviceGet", "cuDriverGetVersion")
    ours, its = "libcgpu.so", "libcuda.so.1"
    assert python(code, driver, *names) == [ours, ours, ours, its, its]


def test_names_that_only_resemble_hooks_are_nobodys(python: Run, driver: Path) -> None:
    code = "d = ctypes.CDLL(sys.argv[1])._handle\nfor n in sys.argv[2:]: print(sym(d, n))"
    names = ("cuMemAlloc_v2x", "cuMemAlloc_v", "cu", "c", "", "cudaMalloc", "cublasCreate_v2", "cuMemAlloc_V2", "nvml")
    assert python(code, driver, *names) == ["nothing"] * len(names)


def test_what_the_driver_lacks_is_not_found(python: Run, driver: Path) -> None:
    """The shim hooks cuMemcpyBatchAsync, this driver is older: programs probe for features that way."""
    code = (
        "d = ctypes.CDLL(sys.argv[1])._handle\nprint(sym(d, 'cuMemcpyBatchAsync'), sym(DEFAULT, 'cuMemcpyBatchAsync'))"
    )
    assert python(code, driver) == ["nothing nothing"]


def test_dlerror_words_are_libcs(python: Run, driver: Path) -> None:
    code = """
libc.dlerror.restype = ctypes.c_char_p
d = ctypes.CDLL(sys.argv[1])._handle
for name in ("cuNope", "cuMemFree_v2", "nope"):
    libc.dlsym(ctypes.c_void_p(d), name.encode()); print(libc.dlerror().decode()); print(libc.dlerror())
"""
    assert python(code, driver) == python(code, driver, shimmed=False)


def test_a_pending_dlerror_survives_calls_of_the_driver(python: Run, driver: Path) -> None:
    code = """
libc.dlerror.restype = ctypes.c_char_p
d = ctypes.CDLL(sys.argv[1]); d.cuInit(0); alloc = d.cuMemAlloc_v2
libc.dlsym(ctypes.c_void_p(d._handle), b"nope")
alloc(ctypes.byref(ctypes.c_uint64()), 1)
print(b"nope" in libc.dlerror())
"""
    assert python(code, driver) == ["True"]


def test_a_wrapper_keeps_its_own_functions(python: Run, driver: Path, c_program: CompileC) -> None:
    """A library that defines a hooked name itself, and has the driver behind it."""
    wrapper = c_program("libwrapper.so", "int cuMemAlloc_v2(void) { return 7; }", shared=True)
    code = """
d = ctypes.CDLL(sys.argv[1]); w = ctypes.CDLL(sys.argv[2])
print(sym(w._handle, "cuMemAlloc_v2"), w.cuMemAlloc_v2())
"""
    assert python(code, driver, wrapper) == ["libwrapper.so 7"]


def test_the_shims_own_handle_gives_its_own_functions(python: Run, shim: Path) -> None:
    code = "h = ctypes.CDLL(sys.argv[1])._handle; print(sym(h, 'cuMemAlloc_v2'), sym(h, 'dlsym'))"
    assert python(code, shim) == [f"{shim.name} {shim.name}"]


# ---- dlvsym ----


def test_dlvsym_follows_the_same_rules(python: Run, c_program: CompileC, tmp_path: Path) -> None:
    """NVIDIA's libcuda has no versions, so nothing is found there; a versioned one behaves like this."""
    (tmp_path / "v.map").write_text("CUDA_1 { global: cu*; };\n")
    versioned = c_program("libcuda.so.1", DRIVER, shared=True, flags=[SONAME, f"-Wl,--version-script={tmp_path}/v.map"])
    code = """
d = ctypes.CDLL(sys.argv[1])._handle
for name in ("cuMemAlloc_v2", "cuDeviceGet", "cuMemcpyBatchAsync"):
    print(vsym(d, name, "CUDA_1"), vsym(d, name, "CUDA_2"))
"""
    assert python(code, versioned) == ["libcgpu.so nothing", "libcuda.so.1 nothing", "nothing nothing"]


# ---- the global scope ----


def test_nothing_is_found_before_a_driver_is_loaded(python: Run, driver: Path) -> None:
    code = """
main = ctypes.CDLL(None)._handle
def both(name): print(sym(DEFAULT, name), sym(main, name))
both("cuMemAlloc_v2")
ctypes.CDLL(sys.argv[1])
both("cuMemAlloc_v2")
"""
    assert python(code, driver) == ["nothing nothing", "libcgpu.so libcgpu.so"]


def test_a_programs_own_definition_comes_first(c_program: CompileC, shim: Path, driver: Path) -> None:
    program = c_program(
        "program",
        """
        #include <dlfcn.h>
        #include <stdio.h>
        __attribute__((visibility("default"))) int cuMemAlloc_v2(void) { return 5; }
        int main(int argc, char **argv) {
          (void)argc;
          printf("%d ", dlsym(RTLD_DEFAULT, "cuMemAlloc_v2") == (void *)cuMemAlloc_v2);
          dlopen(argv[1], RTLD_NOW);
          printf("%d\\n", dlsym(RTLD_DEFAULT, "cuMemAlloc_v2") == (void *)cuMemAlloc_v2);
        }""",
        flags=["-rdynamic"],
    )
    assert lines_of([program, driver], [shim]) == ["1 1"]


def test_a_hook_without_a_driver_answers_with_an_error(c_program: CompileC, shim: Path) -> None:
    """A program that refers to CUDA weakly finds the symbol, since we define it; CUDA_ERROR_NOT_FOUND."""
    program = c_program(
        "program",
        """
        #include <stdio.h>
        typedef unsigned long long pointer;
        __attribute__((weak)) int cuInit(unsigned), cuMemcpy(pointer, pointer, pointer);
        int main(void) { printf("%d %d\\n", cuInit ? cuInit(0) : -1, cuMemcpy ? cuMemcpy(0, 0, 0) : -1); }""",
    )
    assert lines_of([program], []) == ["-1 -1"]
    assert lines_of([program], [shim]) == ["500 500"]


# ---- RTLD_NEXT ----

# A wrapper of one driver function and one libc function, as tracers and profilers have them.
WRAPPER = """
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
static const char *place(void *address) {
  Dl_info info;
  if (!address || !dladdr(address, &info)) return "nothing";
  const char *slash = strrchr(info.dli_fname, '/');
  return slash ? slash + 1 : info.dli_fname;
}
int cuMemAlloc_v2(unsigned long long *p, unsigned long n) {
  int (*next)(unsigned long long *, unsigned long) = dlsym(RTLD_NEXT, "cuMemAlloc_v2");
  printf("%s -> %s\\n", "NAME", place((void *)next));
  return next ? next(p, n) : 500;
}
int abs(int value) {
  int (*next)(int) = dlsym(RTLD_NEXT, "abs");
  printf("abs -> %s\\n", place((void *)next));
  return next(value);
}
"""
LINKED = """
#include <stdio.h>
extern int cuMemAlloc_v2(unsigned long long *, unsigned long);
extern int (*volatile libc_abs)(int);
extern int abs(int);
int (*volatile libc_abs)(int) = abs;
int main(void) {
  unsigned long long p = 0;
  int result = cuMemAlloc_v2(&p, 1);
  printf("%d %llu %d\\n", result, p, libc_abs(-3));
}
"""


@pytest.fixture
def linked(c_program: CompileC, driver: Path) -> Path:
    """A program that is linked against libcuda."""
    return c_program("linked", LINKED, libraries=[str(driver), f"-Wl,-rpath,{driver.parent}"], flags=["-fno-builtin"])


@pytest.fixture
def wrapper(c_program: CompileC) -> Callable[[str], Path]:
    """Make a wrapper library by name."""
    return lambda name: c_program(name, WRAPPER.replace("NAME", name), shared=True, flags=["-fno-builtin"])


def libc_with_abs() -> str:
    """The file that the C library is loaded from, by name."""
    return next(
        Path(line.split()[-1]).name
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libc.so" in line or "/libc-" in line
    )


def test_a_wrapper_before_us_finds_us_next(linked: Path, wrapper: Callable[[str], Path], shim: Path) -> None:
    lines = lines_of([linked], [wrapper("liba.so"), shim])
    assert lines == [f"liba.so -> {shim.name}", f"abs -> {libc_with_abs()}", "0 1000 3"]


def test_a_wrapper_behind_us_finds_us_and_never_itself(
    python: Run, driver: Path, wrapper: Callable[[str], Path], shim: Path
) -> None:
    """The program calls us and we call the driver; if it calls the wrapper all the same, that ends too."""
    code = """
d = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL); p = ctypes.c_uint64()
w = ctypes.CDLL(sys.argv[2])
sys.stdout.flush(); w.cuMemAlloc_v2(ctypes.byref(p), 1); w.abs(-1); libc.fflush(None)
print(p.value)
"""
    behind = wrapper("libb.so")
    assert python(code, driver, behind, preload=[shim, behind]) == [
        f"libb.so -> {shim.name}",
        f"abs -> {libc_with_abs()}",
        "1000",
    ]


def test_two_wrappers_find_each_other_then_us(linked: Path, wrapper: Callable[[str], Path], shim: Path) -> None:
    lines = lines_of([linked], [wrapper("liba.so"), wrapper("libb.so"), shim])
    assert lines[:2] == ["liba.so -> libb.so", f"libb.so -> {shim.name}"]


def test_unhooked_next_is_what_it_was_without_us(linked: Path, wrapper: Callable[[str], Path], shim: Path) -> None:
    first, second = wrapper("liba.so"), wrapper("libb.so")
    without = [line for line in lines_of([linked], [first, second]) if line.startswith("abs")]
    assert [line for line in lines_of([linked], [first, shim, second]) if line.startswith("abs")] == without


# ---- direct linking, and which driver is called ----


def test_direct_linking_goes_through_us(c_program: CompileC, driver: Path, shim: Path) -> None:
    program = c_program(
        "program",
        """
        #include <dlfcn.h>
        #include <stdio.h>
        #include <string.h>
        extern int cuMemAlloc_v2(unsigned long long *, unsigned long), cuDeviceGet(int *, int);
        static const char *place(void *address) {
          Dl_info info;
          dladdr(address, &info);
          return strrchr(info.dli_fname, '/') + 1;
        }
        int main(void) {
          unsigned long long p = 0;
          int device = 0, result = cuMemAlloc_v2(&p, 1) + cuDeviceGet(&device, 4);
          printf("%s %s %d %llu %d\\n", place((void *)cuMemAlloc_v2), place((void *)cuDeviceGet), result, p, device);
        }""",
        libraries=[str(driver), f"-Wl,-rpath,{driver.parent}"],
        flags=["-fPIE", "-pie"],
    )
    assert lines_of([program], [shim]) == [f"{shim.name} libcuda.so.1 0 1000 4"]


def test_the_driver_is_the_loaded_one_and_no_second_copy(
    c_program: CompileC, driver: Path, shim: Path, tmp_path: Path
) -> None:
    """An application brings its own driver by absolute path while another is on the library path."""
    (tmp_path / "compat").mkdir()
    own = tmp_path / "compat" / "libcuda.so.1"
    c_program("own", DRIVER.replace("1000", "2000"), shared=True, flags=[SONAME]).rename(own)
    code = """
d = ctypes.CDLL(sys.argv[1]); p = ctypes.c_uint64()
d.cuMemAlloc_v2(ctypes.byref(p), 1)
maps = {line.split()[-1] for line in open("/proc/self/maps") if "libcuda" in line}
print(p.value, maps == {sys.argv[1]})
"""
    assert lines_of([sys.executable, "-c", PRELUDE + code, own], [shim], LD_LIBRARY_PATH=str(driver.parent)) == [
        "2000 True"
    ]


def test_a_second_copy_is_left_alone_and_named(c_program: CompileC, driver: Path, shim: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "libcuda.so.1"
    c_program("own", DRIVER.replace("1000", "2000"), shared=True, flags=[SONAME]).rename(other)
    code = """
p = ctypes.c_uint64()
for path in sys.argv[1:]:
    ctypes.CDLL(path).cuMemAlloc_v2(ctypes.byref(p), 1)
    print(p.value)
"""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, driver, other, other],
        env=os.environ | {"LD_PRELOAD": str(shim)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split() == ["1000", "2000", "2000"]
    assert result.stderr.count("\n") == 1
    assert "two copies of libcuda.so.1" in result.stderr


def test_the_driver_stays_when_the_program_closes_it(python: Run, driver: Path) -> None:
    code = """
d = ctypes.CDLL(sys.argv[1]); p = ctypes.c_uint64()
alloc = d.cuMemAlloc_v2
libc.dlclose(ctypes.c_void_p(d._handle))
print(alloc(ctypes.byref(p), 1), p.value)
"""
    assert python(code, driver) == ["0 1000"]


# ---- cuGetProcAddress ----


def test_get_proc_address_exchanges_pointers_only(python: Run, driver: Path) -> None:
    code = """
d = ctypes.CDLL(sys.argv[1]); p = ctypes.c_void_p(); s = ctypes.c_int()
new = [(name, 12000) for name in ("cuDeviceGet", "cuGetProcAddress", "cuNope")]
for name, version in [("cuMemAlloc", 12000), ("cuMemAlloc", 2000), *new]:
    r = d.cuGetProcAddress_v2(name.encode(), ctypes.byref(p), version, ctypes.c_uint64(0), ctypes.byref(s))
    print(r, s.value, where(p.value))
print(d.cuDriverGetVersion(ctypes.byref(s)), s.value)
"""
    assert python(code, driver) == [
        "0 0 libcgpu.so", "0 2 nothing", "0 0 libcuda.so.1", "0 0 libcgpu.so", "0 1 nothing", "0 12050",
    ]  # fmt: skip


def test_folded_exports_are_told_apart_by_the_asked_name(python: Run, c_program: CompileC) -> None:
    """No known driver has two exports at one address; a linker that folds equal code could make one."""
    folded = c_program(
        "libcuda.so.1",
        """
        #include <stddef.h>
        int stub(void) { return 801; }
        #define ALIAS __attribute__((alias("stub")))
        int cuMulticastCreate(void) ALIAS; int cuGreenCtxCreate(void) ALIAS; int cuDeviceGetLuid(void) ALIAS;
        int cuInit(unsigned flags) { return (int)flags; }
        int cuGetProcAddress_v2(const char *n, void **pfn, int v, unsigned long long f, int *s) {
          (void)n; (void)v; (void)f; *pfn = (void *)stub; *s = 0; return 0;
        }""",
        shared=True, flags=[SONAME],
    )  # fmt: skip
    code = """
d = ctypes.CDLL(sys.argv[1]); p = ctypes.c_void_p(); s = ctypes.c_int()
h = d._handle
for name in ("cuMulticastCreate", "cuGreenCtxCreate", "cuDeviceGetLuid"):
    d.cuGetProcAddress_v2(name.encode(), ctypes.byref(p), 12040, ctypes.c_uint64(0), ctypes.byref(s))
    print(where(p.value), p.value == libc.dlsym(ctypes.c_void_p(h), name.encode()))
"""
    assert python(code, folded) == ["libcgpu.so True", "libcgpu.so True", "libcuda.so.1 True"]


def test_a_launch_without_configuration_is_the_drivers_to_refuse(python: Run, driver: Path) -> None:
    code = "d = ctypes.CDLL(sys.argv[1]); print(d.cuLaunchKernelEx(None, None, None, None))"
    assert python(code, driver) == ["1"]

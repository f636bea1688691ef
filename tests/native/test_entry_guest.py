"""What a program notices of the shim beside the functions: files, threads, errno, forks and time."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.attempts import Watch, until_right
from tests.native.conftest import CompileC
from tests.native.entry_driver import Run, lines_of

IDLE = """
print(len(os.listdir("/proc/self/task")), sorted(os.listdir("/proc/self/fd")), dict(os.environ, LD_PRELOAD=""))
"""


def test_a_program_without_cuda_has_nothing_but_the_mapped_library(python: Run, shim: Path) -> None:
    maps = 'print(sorted({os.path.basename(l.split()[-1]) for l in open("/proc/self/maps") if "/" in l}))'
    assert python(IDLE) == python(IDLE, shimmed=False)
    with_shim, without = (set(eval(python(maps, shimmed=shimmed)[0])) for shimmed in (True, False))
    assert with_shim - without <= {shim.name, "libdl.so.2", "librt.so.1", "libpthread.so.0"}


def test_errno_is_kept(c_program: CompileC, shim: Path, driver: Path) -> None:
    program = c_program(
        "program",
        """
        #include <dlfcn.h>
        #include <errno.h>
        #include <stdio.h>
        int main(int argc, char **argv) {
          (void)argc;
          void *handle = dlopen(argv[1], RTLD_NOW);
          errno = 77;
          int (*init)(unsigned) = dlsym(handle, "cuInit");
          int after_lookup = errno, result = init(0);
          printf("%d %d %d\\n", after_lookup, result, errno);
        }""",
    )
    assert lines_of([program, driver], [shim]) == ["77 0 77"]


def test_threads_that_look_up_first_at_once_agree(c_program: CompileC, shim: Path, driver: Path) -> None:
    program = c_program(
        "program",
        """
        #include <dlfcn.h>
        #include <pthread.h>
        #include <stdio.h>
        enum { THREADS = 16 };
        static pthread_barrier_t start;
        static const char *path;
        static void *found[THREADS];
        static unsigned long long pointer[THREADS];
        static void *run(void *slot) {
          long i = (long)slot;
          pthread_barrier_wait(&start);
          void *handle = dlopen(path, RTLD_NOW);
          int (*alloc)(unsigned long long *, unsigned long) = found[i] = dlsym(handle, "cuMemAlloc_v2");
          alloc(&pointer[i], 1);
          return NULL;
        }
        int main(int argc, char **argv) {
          (void)argc;
          path = argv[1];
          pthread_t thread[THREADS];
          pthread_barrier_init(&start, NULL, THREADS);
          for (long i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, run, (void *)i);
          for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
          int same = 0;
          Dl_info info;
          for (int i = 0; i < THREADS; i++) same += found[i] == found[0] && pointer[i] == 1000;
          dladdr(found[0], &info);
          printf("%d %s\\n", same, info.dli_fname);
        }""",
    )
    for _ in range(5):
        assert lines_of([program, driver], [shim]) == [f"16 {shim}"]


def test_a_forked_child_can_look_up_call_and_exec(python: Run, driver: Path) -> None:
    code = """
d = ctypes.CDLL(sys.argv[1]); p = ctypes.c_uint64()
sys.stdout.flush()
if not (child := os.fork()):
    print(sym(d._handle, "cuMemAlloc_v2"), d.cuMemAlloc_v2(ctypes.byref(p), 1), flush=True)
    os.execl("/bin/echo", "echo", "execed")
print(os.waitpid(child, 0)[1])
"""
    assert python(code, driver) == ["libcgpu.so 0", "execed", "0"]


def test_opened_instead_of_preloaded_it_claims_nothing(python: Run, shim: Path, driver: Path) -> None:
    code = """
d = ctypes.CDLL(sys.argv[1]); c = ctypes.CDLL(sys.argv[2])
print(sym(d._handle, "cuMemAlloc_v2"), sym(c._handle, "cuMemAlloc_v2"))
"""
    assert python(code, driver, shim, shimmed=False) == [f"libcuda.so.1 {shim.name}"]


@pytest.mark.timing
def test_start_up_costs_nothing_worth_measuring(shim: Path) -> None:
    """The median of many starts of /bin/true, with and without by turns: at most one millisecond more."""

    def start_s(preload: dict[str, str]) -> float:
        begin = time.perf_counter()
        subprocess.run(["/bin/true"], env=os.environ | preload, check=True)
        return time.perf_counter() - begin

    def attempt(_: int, watch: Watch) -> str:
        with watch():
            added_s = statistics.median(start_s({"LD_PRELOAD": str(shim)}) - start_s({}) for _ in range(60))
        return "" if added_s < 0.001 else f"{added_s * 1000:.2f} ms more"

    until_right(attempt)

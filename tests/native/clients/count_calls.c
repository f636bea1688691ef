/* count_calls.c - makes one driver call many times, over idle_driver.c, for a tool that counts instructions.
 *
 *   count_calls CALL TIMES [LIVE]
 *
 *   CALL  launch, launch_mixed (sixteen kernels in turn), launch_stream, alloc_free, mem_get_info, nothing
 *   LIVE  blocks that are allocated beforehand, and stay
 *
 * The counted part is the function `counted`; what comes before has warmed everything up. Prints the
 * nanoseconds of CPU time that one call took, for people. */
#define __CUDA_API_VERSION_INTERNAL /* names as they are exported, none renamed */
#include <cuda.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DRIVER(name) ((__typeof__(&name))need(#name))
#define BLOCK_BYTES ((size_t)2 << 20)
#define KERNELS 16u
#define WARM_UPS 1000
#define HANDLE_STEP 64u

static void *driver;
static CUstream stream;
static __typeof__(&cuLaunchKernel) launch_kernel;
static __typeof__(&cuMemAlloc_v2) alloc;
static __typeof__(&cuMemFree_v2) release;
static __typeof__(&cuMemGetInfo_v2) info;

static void *need(const char *name) {
  void *found = dlsym(driver, name);
  if (!found) {
    fprintf(stderr, "count_calls: the driver has no %s\n", name);
    exit(1);
  }
  return found;
}

static void check(CUresult status, const char *what) {
  if (!status) return;
  fprintf(stderr, "count_calls: %s answered %d\n", what, (int)status);
  exit(1);
}

static void launch_one(unsigned kernel) {
  CUfunction function = (CUfunction)(uintptr_t)(0x10000 + kernel * HANDLE_STEP);
  check(launch_kernel(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL), "cuLaunchKernel");
}
static void launch(void) { launch_one(0); }
static void launch_mixed(void) {
  static unsigned turn;
  launch_one(turn++ % KERNELS);
}
static void alloc_free(void) {
  CUdeviceptr pointer;
  check(alloc(&pointer, BLOCK_BYTES), "cuMemAlloc");
  check(release(pointer), "cuMemFree");
}
static void mem_get_info(void) {
  size_t free_bytes, total_bytes;
  check(info(&free_bytes, &total_bytes), "cuMemGetInfo");
}
static void nothing(void) {}

static const struct {
  const char *name;
  void (*call)(void);
} calls[] = {
    {"launch", launch},         {"launch_mixed", launch_mixed}, {"launch_stream", launch},
    {"alloc_free", alloc_free}, {"mem_get_info", mem_get_info}, {"nothing", nothing},
};

__attribute__((noinline, visibility("default"))) void counted(void (*call)(void), int times) {
  for (int i = 0; i < times; i++) call();
}

static void set_up(void) {
  CUcontext context;
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) {
    fprintf(stderr, "count_calls: %s\n", dlerror());
    exit(1);
  }
  check(DRIVER(cuInit)(0), "cuInit");
  check(DRIVER(cuDevicePrimaryCtxRetain)(&context, 0), "cuDevicePrimaryCtxRetain");
  check(DRIVER(cuCtxSetCurrent)(context), "cuCtxSetCurrent");
  launch_kernel = DRIVER(cuLaunchKernel);
  alloc = DRIVER(cuMemAlloc_v2);
  release = DRIVER(cuMemFree_v2);
  info = DRIVER(cuMemGetInfo_v2);
}

static double now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* The watcher of a shim learns what the kernels cost while this one sleeps. */
static void warm_up(void (*call)(void)) {
  const struct timespec pause = {.tv_nsec = 5000000};
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < WARM_UPS; i++) call();
    nanosleep(&pause, NULL);
  }
  for (int i = 0; i < WARM_UPS; i++) call();
}

int main(int argc, char **argv) {
  void (*call)(void) = NULL;
  for (size_t i = 0; argc > 2 && i < sizeof calls / sizeof *calls; i++)
    if (strcmp(calls[i].name, argv[1]) == 0) call = calls[i].call;
  if (!call) return 2;
  set_up();
  if (strcmp(argv[1], "launch_stream") == 0) stream = (CUstream)(uintptr_t)0x3000;
  for (int i = argc > 3 ? atoi(argv[3]) : 0; i > 0; i--) {
    CUdeviceptr kept;
    check(alloc(&kept, BLOCK_BYTES), "cuMemAlloc");
  }
  warm_up(call);
  double began_ns = now_ns();
  counted(call, atoi(argv[2]));
  printf("%.1f\n", (now_ns() - began_ns) / atoi(argv[2]));
  return 0;
}

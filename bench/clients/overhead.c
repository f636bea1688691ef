/* overhead.c - nanoseconds per driver call, as a program sees them. Prints one JSON object.
 *
 * Finds the driver by dlopen and dlsym, as every real client does, so the same binary measures the
 * bare driver and the shim over it. Each figure is the least mean of several rounds: on a machine
 * that does other things too, the least is the one that the code itself costs. */
#define __CUDA_API_VERSION_INTERNAL /* names as they are exported, none renamed */
#include <cuda.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void *driver;
#define DRIVER(name) ((__typeof__(&name))need(#name))

static void *need(const char *name) {
  void *f = dlsym(driver, name);
  if (!f) {
    fprintf(stderr, "overhead: the driver has no %s\n", name);
    exit(1);
  }
  return f;
}

static void check(CUresult status, const char *what) {
  if (status) {
    fprintf(stderr, "overhead: %s answered %d\n", what, (int)status);
    exit(1);
  }
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double least(double a, double b) { return a < b ? a : b; }

static double alloc_free(int rounds, int count) {
  __typeof__(&cuMemAlloc_v2) alloc = DRIVER(cuMemAlloc_v2);
  __typeof__(&cuMemFree_v2) release = DRIVER(cuMemFree_v2);
  double best = 1e18;
  for (int r = 0; r < rounds; r++) {
    double start = now();
    for (int i = 0; i < count; i++) {
      CUdeviceptr p;
      check(alloc(&p, (size_t)1 << 20), "cuMemAlloc");
      check(release(p), "cuMemFree");
    }
    best = least(best, (now() - start) / count);
  }
  return best;
}

static double mem_info(int rounds, int count) {
  __typeof__(&cuMemGetInfo_v2) info = DRIVER(cuMemGetInfo_v2);
  double best = 1e18;
  size_t unused, total;
  for (int r = 0; r < rounds; r++) {
    double start = now();
    for (int i = 0; i < count; i++) check(info(&unused, &total), "cuMemGetInfo");
    best = least(best, (now() - start) / count);
  }
  return best;
}

static double launch(CUfunction function, int rounds, int count) {
  __typeof__(&cuLaunchKernel) run = DRIVER(cuLaunchKernel);
  __typeof__(&cuCtxSynchronize) sync = DRIVER(cuCtxSynchronize);
  uint64_t duration_ns = 1000;
  void *arguments[] = {&duration_ns};
  double best = 1e18;
  for (int r = 0; r < rounds; r++) {
    double start = now();
    for (int i = 0; i < count; i++)
      check(run(function, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL), "cuLaunchKernel");
    best = least(best, (now() - start) / count);
    check(sync(), "cuCtxSynchronize");
  }
  return best;
}

static char *text_of(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    fprintf(stderr, "overhead: cannot read %s\n", path);
    exit(1);
  }
  static char text[1 << 16];
  text[fread(text, 1, sizeof text - 1, file)] = 0;
  fclose(file);
  return text;
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: overhead SPIN.PTX\n");
    return 2;
  }
  double start = now();
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) {
    fprintf(stderr, "overhead: %s\n", dlerror());
    return 1;
  }
  CUdevice device;
  CUcontext context;
  CUmodule module;
  CUfunction function;
  check(DRIVER(cuInit)(0), "cuInit");
  check(DRIVER(cuDeviceGet)(&device, 0), "cuDeviceGet");
  check(DRIVER(cuDevicePrimaryCtxRetain)(&context, device), "cuDevicePrimaryCtxRetain");
  check(DRIVER(cuCtxSetCurrent)(context), "cuCtxSetCurrent");
  double ready = now();
  check(DRIVER(cuModuleLoadData)(&module, text_of(argv[1])), "cuModuleLoadData");
  check(DRIVER(cuModuleGetFunction)(&function, module, "cgpu_spin"), "cuModuleGetFunction");
  double empty = alloc_free(20, 500);
  int live = 2000;
  __typeof__(&cuMemAlloc_v2) alloc = DRIVER(cuMemAlloc_v2);
  for (int i = 0; i < live; i++) {
    CUdeviceptr p;
    check(alloc(&p, (size_t)4096), "cuMemAlloc");
  }
  double full = alloc_free(20, 500);
  printf("{\"init_ns\": %.0f, \"alloc_free_ns\": %.1f, \"alloc_free_2000_live_ns\": %.1f, "
         "\"mem_get_info_ns\": %.1f, \"launch_ns\": %.1f}\n",
         ready - start, empty, full, mem_info(20, 500), launch(function, 40, 200));
  return 0;
}

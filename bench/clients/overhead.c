/* overhead.c - nanoseconds per driver call, as a program sees them. Prints one JSON object.
 *
 * Finds the driver by dlopen and dlsym, as every real client does, so the same binary measures the
 * bare driver and the shim over it. Each figure is the least mean of several rounds: on a machine
 * that does other things too, the least is the one that the code itself costs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef int (*fn)();
static void *driver;

static fn need(const char *name) {
  fn f = (fn)dlsym(driver, name);
  if (!f) {
    fprintf(stderr, "overhead: the driver has no %s\n", name);
    exit(1);
  }
  return f;
}

static void check(int status, const char *what) {
  if (status) {
    fprintf(stderr, "overhead: %s answered %d\n", what, status);
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
  fn alloc = need("cuMemAlloc_v2"), release = need("cuMemFree_v2");
  double best = 1e18;
  for (int r = 0; r < rounds; r++) {
    double start = now();
    for (int i = 0; i < count; i++) {
      uint64_t p;
      check(alloc(&p, (size_t)1 << 20), "cuMemAlloc");
      check(release(p), "cuMemFree");
    }
    best = least(best, (now() - start) / count);
  }
  return best;
}

static double mem_info(int rounds, int count) {
  fn info = need("cuMemGetInfo_v2");
  double best = 1e18;
  size_t unused, total;
  for (int r = 0; r < rounds; r++) {
    double start = now();
    for (int i = 0; i < count; i++) check(info(&unused, &total), "cuMemGetInfo");
    best = least(best, (now() - start) / count);
  }
  return best;
}

static double launch(void *function, int rounds, int count) {
  fn run = need("cuLaunchKernel"), sync = need("cuCtxSynchronize");
  uint64_t duration_ns = 1000;
  void *arguments[] = {&duration_ns};
  double best = 1e18;
  for (int r = 0; r < rounds; r++) {
    double start = now();
    for (int i = 0; i < count; i++)
      check(run(function, 1, 1, 1, 1, 1, 1, 0, (void *)0, arguments, (void **)0), "cuLaunchKernel");
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
  int device;
  void *context, *module, *function;
  check(need("cuInit")(0), "cuInit");
  check(need("cuDeviceGet")(&device, 0), "cuDeviceGet");
  check(need("cuDevicePrimaryCtxRetain")(&context, device), "cuDevicePrimaryCtxRetain");
  check(need("cuCtxSetCurrent")(context), "cuCtxSetCurrent");
  double ready = now();
  check(need("cuModuleLoadData")(&module, text_of(argv[1])), "cuModuleLoadData");
  check(need("cuModuleGetFunction")(&function, module, "cgpu_spin"), "cuModuleGetFunction");
  double empty = alloc_free(20, 500);
  int live = 2000;
  fn alloc = need("cuMemAlloc_v2");
  for (int i = 0; i < live; i++) {
    uint64_t p;
    check(alloc(&p, (size_t)4096), "cuMemAlloc");
  }
  double full = alloc_free(20, 500);
  printf("{\"init_ns\": %.0f, \"alloc_free_ns\": %.1f, \"alloc_free_2000_live_ns\": %.1f, "
         "\"mem_get_info_ns\": %.1f, \"launch_ns\": %.1f}\n",
         ready - start, empty, full, mem_info(20, 500), launch(function, 40, 200));
  return 0;
}

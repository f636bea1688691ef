/* quota.c - what a process sees of card 0, and how much memory it gets.
 *
 *   quota [fill|hold]   fill: takes memory until it is refused; hold: then waits for the end of its input
 *
 * Prints one line of JSON: the totals that the driver and NVML tell, what it got, and the refusal. The
 * libraries are found by dlopen, as most programs find them. */
#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <dlfcn.h>
#include <nvml.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES (64u << 20)

static void *function(const char *library, const char *name) {
  void *handle = dlopen(library, RTLD_NOW);
  void *address = handle ? dlsym(handle, name) : NULL;
  if (!address) {
    fprintf(stderr, "quota: %s: %s\n", name, dlerror());
    exit(1);
  }
  return address;
}

static int check(const char *name, int result) {
  if (result) {
    fprintf(stderr, "quota: %s answered %d\n", name, result);
    exit(1);
  }
  return result;
}

#define CUDA(name, ...) (((__typeof__(&name))function("libcuda.so.1", #name))(__VA_ARGS__))
#define NVML(name, ...) (((__typeof__(&name))function("libnvidia-ml.so.1", #name))(__VA_ARGS__))
#define DO(call, name, ...) check(#name, (int)call(name, __VA_ARGS__))

static uint64_t nvml_total(void) {
  nvmlDevice_t device;
  nvmlMemory_t memory;
  check("nvmlInit_v2", (int)((__typeof__(&nvmlInit_v2))function("libnvidia-ml.so.1", "nvmlInit_v2"))());
  DO(NVML, nvmlDeviceGetHandleByIndex_v2, 0, &device);
  DO(NVML, nvmlDeviceGetMemoryInfo, device, &memory);
  return memory.total;
}

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "";
  CUdevice device;
  CUcontext context;
  size_t device_total, free_bytes, total;
  DO(CUDA, cuInit, 0);
  DO(CUDA, cuDeviceGet, &device, 0);
  DO(CUDA, cuDeviceTotalMem_v2, &device_total, device);
  DO(CUDA, cuDevicePrimaryCtxRetain, &context, device);
  DO(CUDA, cuCtxSetCurrent, context);
  DO(CUDA, cuMemGetInfo_v2, &free_bytes, &total);
  uint64_t held = 0;
  int refusal = 0;
  if (*what) {
    CUdeviceptr address;
    while (!(refusal = (int)CUDA(cuMemAlloc_v2, &address, PIECE_BYTES))) held += PIECE_BYTES;
  }
  printf("{\"device_total\": %zu, \"total\": %zu, \"free\": %zu, \"nvml_total\": %llu, \"held\": %llu, \"refusal\": %d}\n",
         device_total, total, free_bytes, (unsigned long long)nvml_total(), (unsigned long long)held, refusal);
  fflush(stdout);
  if (!strcmp(what, "hold"))
    while (getchar() != EOF) continue;
  return 0;
}

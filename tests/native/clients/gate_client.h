/* gate_client.h - what the clients of the gate's tests share: the driver by dlopen, and test kernels. */
#ifndef CGPU_TESTS_GATE_CLIENT_H
#define CGPU_TESTS_GATE_CLIENT_H

#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline void *driver_function(const char *name) {
  static void *driver;
  if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW);
  void *address = driver ? dlsym(driver, name) : NULL;
  if (!address) {
    fprintf(stderr, "%s: %s\n", name, dlerror());
    exit(1);
  }
  return address;
}

/* Calls a driver function, looked up once per place; ends the program unless it succeeds. */
#define DO(name, ...)                                                           \
  do {                                                                          \
    static __typeof__(&name) function_;                                         \
    if (!function_) function_ = (__typeof__(&name))driver_function(#name);      \
    CUresult result_ = function_(__VA_ARGS__);                                  \
    if (result_ != CUDA_SUCCESS) {                                              \
      fprintf(stderr, "%s:%d: %s: %d\n", __FILE__, __LINE__, #name, result_);   \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)

/* The device's primary context, made current. */
static inline CUcontext context_on(int ordinal) {
  CUdevice device;
  CUcontext context;
  DO(cuInit, 0);
  DO(cuDeviceGet, &device, ordinal);
  DO(cuDevicePrimaryCtxRetain, &context, device);
  DO(cuCtxSetCurrent, context);
  return context;
}

/* A test kernel of the simulated card, in the current context: spin(u64 ns), hold(u32 *word, u32
 * value) until the word has the value, set(u32 *word, u32 value), barrier(u32 *word, u32 parties). */
static inline CUfunction function(const char *name) {
  CUmodule module;
  CUfunction function;
  char text[64];
  snprintf(text, sizeof text, "cgpu-sim-module 1\n%s\n", name);
  DO(cuModuleLoadData, &module, text);
  DO(cuModuleGetFunction, &function, module, name);
  return function;
}

#endif

/* main.c - runs the check that its argument names on the simulated machine of the environment. */
#include "check.h"

const char test_module[] = "cgpu-sim-module 1\nspin\nhold\nset\nbarrier\nglobal table 100\n";

CUcontext use_device(CUdevice device) {
  CUcontext context;
  OK(cuCtxCreate_v2(&context, 0, device));
  return context;
}

uint64_t used_bytes(int card) {
  uint64_t free_bytes, used;
  REQUIRE(sg_memory(card, &free_bytes, &used) == SG_OK);
  return used;
}

CUfunction kernel(const char *name) {
  CUmodule module;
  CUfunction function;
  OK(cuModuleLoadData(&module, test_module));
  OK(cuModuleGetFunction(&function, module, name));
  return function;
}

CUresult launch(CUfunction function, CUstream stream, uint64_t first, uint32_t second) {
  void *parameters[] = {&first, &second};
  return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

CUdeviceptr zeroed_word(void) {
  CUdeviceptr word;
  CUstream stream = free_stream();
  OK(cuMemAlloc_v2(&word, 4));
  OK(cuMemsetD32Async(word, 0, 1, stream));
  OK(cuStreamSynchronize(stream));
  return word;
}

uint32_t word_at(CUdeviceptr word) {
  uint32_t value;
  CUstream stream = free_stream();
  OK(cuMemcpyDtoHAsync_v2(&value, word, 4, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuStreamDestroy_v2(stream));
  return value;
}

void set_word(CUdeviceptr word, uint32_t value) {
  CUstream stream = free_stream();
  OK(cuMemsetD32Async(word, value, 1, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuStreamDestroy_v2(stream));
}

CUstream free_stream(void) {
  CUstream stream;
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  return stream;
}

int main(int argc, char **argv) {
  static const struct { const char *name; void (*run)(void); } checks[] = {
#define CHECK_ROW(name) {#name, check_##name},
      CHECKS(CHECK_ROW)
  };
  if (argc != 2)
    return 2;
  if (!strcmp(argv[1], "--list")) {
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++)
      puts(checks[i].name);
    return 0;
  }
  RESULT(cuMemFree_v2(1), CUDA_ERROR_NOT_INITIALIZED);
  OK(cuInit(0));
  for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++)
    if (!strcmp(argv[1], checks[i].name)) {
      checks[i].run();
      return 0;
    }
  return 2;
}

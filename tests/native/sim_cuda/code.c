/* code.c - modules, links, libraries, launches, and fork. */
#include <sys/wait.h>

#include "check.h"

static const char ptx[] =
    ".version 6.5\n.target sm_70\n.address_size 64\n"
    "// a comment with .entry in it\n"
    ".visible .global .align 4 .u32 counter = 7;\n"
    ".global .align 8 .b8 table[128];\n"
    ".global .align 2 .u16 steps[3] = {1, 2, 3};\n"
    ".func helper(.param .b32 x) { ret; }\n"
    ".visible .entry add(.param .u64 .ptr .global .align 4 a, .param .u32 n,\n"
    "  .param .align 8 .b8 s[24], .param .f64 z)\n"
    ".maxntid 128, 2, 1\n"
    "{ .reg .b64 %rd<4>; .shared .align 4 .b8 buffer[512]; { ret; } }\n"
    ".visible .entry cgpu_spin(.param .u64 ns) { ret; }\n";

void check_test_modules(void) {
  CUmodule module;
  CUfunction function;
  CUdeviceptr table;
  size_t bytes;
  unsigned count;
  unsigned char back[100], zeros[100] = {0};
  use_device(0);
  uint64_t before = used_bytes(0);
  OK(cuModuleLoadData(&module, test_module));
  REQUIRE(used_bytes(0) == before + SG_GRANULE_BYTES);
  OK(cuModuleGetFunctionCount(&count, module));
  REQUIRE(count == 4);
  OK(cuModuleGetGlobal_v2(&table, &bytes, module, "table"));
  REQUIRE(bytes == 100);
  OK(cuMemcpyDtoH_v2(back, table, 100));
  REQUIRE(!memcmp(back, zeros, 100));
  RESULT(cuMemFree_v2(table), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuModuleGetFunction(&function, module, "table"), CUDA_ERROR_NOT_FOUND);
  OK(cuModuleUnload(module));
  REQUIRE(used_bytes(0) == before);
  RESULT(cuModuleLoadData(&module, "cgpu-sim-module 1\nnonsense\n"), CUDA_ERROR_INVALID_IMAGE);
  RESULT(cuModuleLoadData(&module, "nonsense"), CUDA_ERROR_INVALID_IMAGE);
}

void check_ptx(void) {
  CUmodule module;
  CUfunction add;
  CUdeviceptr counter, steps;
  size_t offset, bytes;
  int value;
  uint32_t seven;
  uint16_t back[3];
  use_device(0);
  OK(cuModuleLoadData(&module, ptx));
  OK(cuModuleGetFunction(&add, module, "add"));
  const size_t offsets[] = {0, 8, 16, 40}, sizes[] = {8, 4, 24, 8};
  for (size_t i = 0; i < 4; i++) {
    OK(cuFuncGetParamInfo(add, i, &offset, &bytes));
    REQUIRE(offset == offsets[i] && bytes == sizes[i]);
  }
  RESULT(cuFuncGetParamInfo(add, 4, &offset, &bytes), CUDA_ERROR_INVALID_VALUE);
  OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, add));
  REQUIRE(value == 256);
  OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, add));
  REQUIRE(value == 512);
  OK(cuModuleGetGlobal_v2(&counter, &bytes, module, "counter"));
  OK(cuMemcpyDtoH_v2(&seven, counter, 4));
  REQUIRE(bytes == 4 && seven == 7);
  OK(cuModuleGetGlobal_v2(&steps, &bytes, module, "steps"));
  OK(cuMemcpyDtoH_v2(back, steps, 6));
  REQUIRE(bytes == 6 && back[0] == 1 && back[1] == 2 && back[2] == 3);
  /* the spin kernel of a real card takes its time here too */
  CUfunction spin;
  CUevent start, end;
  float milliseconds;
  OK(cuModuleGetFunction(&spin, module, "cgpu_spin"));
  OK(cuEventCreate(&start, 0));
  OK(cuEventCreate(&end, 0));
  CUdeviceptr word = zeroed_word();
  CUstream stream = free_stream();
  OK(launch(kernel("hold"), stream, word, 1));
  OK(cuEventRecord(start, stream));
  OK(launch(spin, stream, 2 * MILLISECOND, 0));
  OK(cuEventRecord(end, stream));
  set_word(word, 1);
  OK(cuEventSynchronize(end));
  OK(cuEventElapsedTime(&milliseconds, start, end));
  REQUIRE(milliseconds >= 2.0f && milliseconds < 2.1f);
}

void check_bad_ptx(void) {
  static const struct { const char *text; CUresult result; } cases[] = {
      {".version 6.5\n.target sm_70\n.entry f(.param .u64 a", CUDA_ERROR_INVALID_PTX},
      {".version 6.5\n.target sm_70\n.entry f(.u64 a) { ret; }", CUDA_ERROR_INVALID_PTX},
      {".version 6.5\n.target sm_70\n.entry f() { ret;", CUDA_ERROR_INVALID_PTX},
      {".version 6.5\n.target compute\n.entry f() { ret; }", CUDA_ERROR_INVALID_PTX},
      {".version 6.5\n.target sm_120\n.entry f() { ret; }", CUDA_ERROR_NO_BINARY_FOR_GPU},
      {".version 99.0\n.target sm_70\n.entry f() { ret; }", CUDA_ERROR_UNSUPPORTED_PTX_VERSION},
  };
  char log[64] = "?";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  CUmodule module;
  use_device(0);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    void *values[] = {log, (void *)(uintptr_t)sizeof log};
    RESULT(cuModuleLoadDataEx(&module, cases[i].text, 2, options, values), cases[i].result);
    REQUIRE(strlen(log) == (size_t)(uintptr_t)values[1] && strlen(log) > 5);
  }
}

void check_links(void) {
  CUlinkState state;
  void *image;
  size_t size;
  CUmodule module;
  CUfunction function;
  static char other[] = ".version 6.5\n.target sm_70\n.entry second() { ret; }";
  use_device(0);
  OK(cuLinkCreate_v2(0, NULL, NULL, &state));
  RESULT(cuLinkAddData_v2(state, CU_JIT_INPUT_LIBRARY, other, sizeof other, NULL, 0, NULL, NULL),
         CUDA_ERROR_NOT_SUPPORTED);
  OK(cuLinkAddData_v2(state, CU_JIT_INPUT_PTX, (void *)(uintptr_t)ptx, sizeof ptx, "a", 0, NULL, NULL));
  OK(cuLinkAddData_v2(state, CU_JIT_INPUT_PTX, other, sizeof other, "b", 0, NULL, NULL));
  OK(cuLinkComplete(state, &image, &size));
  OK(cuModuleLoadData(&module, image));
  OK(cuModuleGetFunction(&function, module, "second"));
  OK(cuModuleGetFunction(&function, module, "add"));
  OK(cuLinkDestroy(state));
  OK(cuLinkCreate_v2(0, NULL, NULL, &state));
  OK(cuLinkAddData_v2(state, CU_JIT_INPUT_PTX, other, sizeof other, "a", 0, NULL, NULL));
  OK(cuLinkAddData_v2(state, CU_JIT_INPUT_PTX, other, sizeof other, "b", 0, NULL, NULL));
  RESULT(cuLinkComplete(state, &image, &size), CUDA_ERROR_INVALID_PTX); /* defined twice */
  OK(cuLinkDestroy(state));
}

void check_libraries(void) {
  CUlibrary library;
  CUkernel spin, kernels[4];
  CUfunction here, there;
  CUcontext first = use_device(0), second;
  CUdeviceptr table;
  size_t bytes;
  uint64_t before = used_bytes(0);
  unsigned count;
  int value;
  OK(cuLibraryLoadData(&library, test_module, NULL, NULL, 0, NULL, NULL, 0));
  REQUIRE(used_bytes(0) == before); /* loaded into a context at first need */
  OK(cuLibraryGetKernelCount(&count, library));
  OK(cuLibraryEnumerateKernels(kernels, 4, library));
  OK(cuLibraryGetKernel(&spin, library, "spin"));
  REQUIRE(count == 4 && kernels[0] == spin);
  OK(cuKernelGetFunction(&here, spin));
  REQUIRE(used_bytes(0) == before + SG_GRANULE_BYTES);
  OK(cuLibraryGetGlobal(&table, &bytes, library, "table"));
  OK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 50000, spin, 0));
  OK(cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, spin, 0));
  REQUIRE(value == 50000);
  OK(launch((CUfunction)spin, NULL, 1000, 0));
  OK(cuCtxSynchronize());
  second = use_device(0);
  OK(cuKernelGetFunction(&there, spin));
  REQUIRE(there != here);
  OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, there));
  REQUIRE(value == 50000);
  OK(cuCtxDestroy_v2(second)); /* takes its module along, not the library */
  OK(cuCtxSetCurrent(first));
  OK(cuLibraryUnload(library));
  REQUIRE(used_bytes(0) == before);
  RESULT(cuLibraryLoadData(&library, "nonsense", NULL, NULL, 0, NULL, NULL, 0), CUDA_ERROR_INVALID_IMAGE);
}

void check_launch_rules(void) {
  CUmodule module;
  CUfunction add, spin;
  uint64_t ns = 1000;
  size_t bytes = sizeof ns;
  void *parameters[] = {&ns};
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &ns, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  use_device(1);
  CUstream elsewhere = free_stream();
  use_device(0);
  OK(cuModuleLoadData(&module, ptx));
  OK(cuModuleGetFunction(&add, module, "add"));
  OK(cuModuleGetFunction(&spin, module, "cgpu_spin"));
  OK(cuLaunchKernel(spin, 1, 1, 1, 1024, 1, 1, 0, NULL, NULL, extra));
  OK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 48 << 10, NULL, parameters, NULL));
  RESULT(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, (48 << 10) + 1, NULL, parameters, NULL), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuLaunchKernel(spin, 0, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuLaunchKernel(spin, 1, 65536, 1, 1, 1, 1, 0, NULL, parameters, NULL), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuLaunchKernel(spin, 1, 1, 1, 1025, 1, 1, 0, NULL, parameters, NULL), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, extra), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, elsewhere, parameters, NULL), CUDA_ERROR_INVALID_HANDLE);
  RESULT(cuLaunchCooperativeKernel(spin, 1 << 20, 1, 1, 1024, 1, 1, 0, NULL, parameters),
         CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  char structure[24] = {0};
  CUdeviceptr pointer = 0;
  uint32_t number = 0;
  double real = 0;
  void *of_add[] = {&pointer, &number, structure, &real};
  RESULT(cuLaunchKernel(add, 1, 1, 1, 257, 1, 1, 0, NULL, of_add, NULL), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
  OK(cuLaunchKernel(add, 1, 1, 1, 256, 1, 1, 0, NULL, of_add, NULL));
  CUlaunchAttribute together = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
  CUlaunchConfig config = {.gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 1, .blockDimY = 1,
                           .blockDimZ = 1, .attrs = &together, .numAttrs = 1};
  OK(cuLaunchKernelEx(&config, spin, parameters, NULL));
  OK(cuCtxSynchronize());
}

void check_old_launches(void) {
  CUevent start, end;
  float milliseconds;
  use_device(0);
  CUfunction spin = kernel("spin");
  uint64_t ns = 2 * MILLISECOND;
  OK(cuEventCreate(&start, 0));
  OK(cuEventCreate(&end, 0));
  OK(cuFuncSetBlockShape(spin, 32, 1, 1));
  OK(cuParamSetSize(spin, 8));
  OK(cuParamSetv(spin, 0, &ns, sizeof ns));
  RESULT(cuParamSeti(spin, 8, 1), CUDA_ERROR_INVALID_VALUE);
  OK(cuEventRecord(start, NULL));
  OK(cuLaunchGrid(spin, 4, 2));
  OK(cuLaunch(spin));
  OK(cuEventRecord(end, NULL));
  OK(cuEventSynchronize(end));
  OK(cuEventElapsedTime(&milliseconds, start, end));
  REQUIRE(milliseconds >= 4.0f);
}

void check_forked_child(void) {
  CUdeviceptr address;
  int status;
  use_device(0);
  OK(cuMemAlloc_v2(&address, 4 * MIB));
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int count;
    CUdeviceptr more;
    RESULT(cuMemAlloc_v2(&more, 4), CUDA_ERROR_NOT_INITIALIZED);
    RESULT(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    RESULT(cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
    exit(0);
  }
  REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  OK(cuMemFree_v2(address));
}

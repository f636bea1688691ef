/* series.c - a tenant on a driver of some series and a C library of some age: which names it finds, what it gets of
 * the card.
 *
 *   series OVER WITHIN [LIBRARY...]    names on standard input, one a line; the answers are lines on standard output:
 *                         NAME HANDLE DEFAULT PROC, each 1 where the name is found that way, then KEY VALUE
 *
 * HANDLE: dlsym on the library; DEFAULT: dlsym(RTLD_DEFAULT); PROC: cuGetProcAddress, in the newest version that there
 * is. OVER bytes are more than the tenant's, WITHIN less; OVER 0 asks for names alone. Each LIBRARY is to load with all that it needs. The functions that it calls itself are in every driver.
 */
#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEWEST 13050
#define KERNEL_NS 1000000

static const char kernel[] =
    ".version 6.0\n.target sm_30\n.address_size 64\n.visible .entry cgpu_spin(.param .u64 ns)\n{\n ret;\n}\n";

static void *cuda, *nvml;

static int call(const char *name, int (*function)(void *, void *, void *), void *a, void *b, void *c) {
  int result = function ? function(a, b, c) : -1;
  printf("%s %d\n", name, result);
  return result;
}
#define CALL(library, name, a, b, c) \
  call(#name, (int (*)(void *, void *, void *))dlsym(library, #name), (void *)(uintptr_t)(a), (void *)(uintptr_t)(b), \
       (void *)(uintptr_t)(c))

static int by_proc_address(const char *name) {
  int (*v2)(const char *, void **, int, uint64_t, int *) =
      (int (*)(const char *, void **, int, uint64_t, int *))dlsym(cuda, "cuGetProcAddress_v2");
  int (*v1)(const char *, void **, int, uint64_t) =
      (int (*)(const char *, void **, int, uint64_t))dlsym(cuda, "cuGetProcAddress");
  void *found = NULL;
  int status = 0;
  if (v2) return v2(name, &found, NEWEST, 0, &status) == 0 && found;
  return v1 && v1(name, &found, NEWEST, 0) == 0 && found;
}

static void look_up(void) {
  char name[128];
  while (scanf("%127s", name) == 1) {
    void *library = name[0] == 'c' ? cuda : nvml;
    printf("%s %d %d %d\n", name, dlsym(library, name) != NULL, dlsym(RTLD_DEFAULT, name) != NULL,
           by_proc_address(name));
  }
}

static void work(size_t over, size_t within) {
  void *context = NULL, *module = NULL, *function = NULL;
  uint64_t address = 0, ns = KERNEL_NS, memory[2] = {0};
  void *parameters[] = {&ns};
  CALL(cuda, cuInit, 0, 0, 0);
  CALL(cuda, cuDevicePrimaryCtxRetain, &context, 0, 0);
  CALL(cuda, cuCtxSetCurrent, context, 0, 0);
  CALL(cuda, cuMemGetInfo_v2, &memory[0], &memory[1], 0);
  printf("total %llu\n", (unsigned long long)memory[1]);
  printf("over ");
  CALL(cuda, cuMemAlloc_v2, &address, over, 0);
  printf("within ");
  CALL(cuda, cuMemAlloc_v2, &address, within, 0);
  CALL(cuda, cuModuleLoadData, &module, kernel, 0);
  CALL(cuda, cuModuleGetFunction, &function, module, "cgpu_spin");
  int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **) =
      (int (*)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
               void **))dlsym(cuda, "cuLaunchKernel");
  printf("cuLaunchKernel %d\n", launch(function, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
  CALL(cuda, cuCtxSynchronize, 0, 0, 0);
}

static void look_at_nvml(void) {
  void *device = NULL;
  uint64_t memory[3] = {0};
  unsigned count = 0;
  CALL(nvml, nvmlInit_v2, 0, 0, 0);
  CALL(nvml, nvmlDeviceGetHandleByIndex_v2, 0, &device, 0);
  CALL(nvml, nvmlDeviceGetMemoryInfo, device, memory, 0);
  printf("nvml_total %llu\n", (unsigned long long)memory[0]);
  printf("nvml_used %llu\n", (unsigned long long)memory[2]);
  CALL(nvml, nvmlDeviceGetComputeRunningProcesses_v2, device, &count, 0);
  printf("nvml_processes %u\n", count);
  CALL(nvml, nvmlShutdown, 0, 0, 0);
}

int main(int argc, char **argv) {
  cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (argc < 3 || !cuda || !nvml) return fprintf(stderr, "%s\n", dlerror()), 2;
  for (int i = 3; i < argc; i++)
    if (!dlopen(argv[i], RTLD_NOW)) return fprintf(stderr, "%s\n", dlerror()), 2;
  look_up();
  printf("glibc_minor %s\n", strchr(gnu_get_libc_version(), '.') + 1);
  if (strcmp(argv[1], "0") == 0) return 0;
  work(strtoull(argv[1], NULL, 10), strtoull(argv[2], NULL, 10));
  look_at_nvml();
  return 0;
}

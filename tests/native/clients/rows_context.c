/* rows_context.c - rows of rows.c: contexts, their heaps, and code. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "rows.h"

static const char image[] = ROW_IMAGE;

static CUcontext context;
static CUmodule module;
static CUlibrary library;

/* ---- contexts ---- */

static CUresult destroy_old(void) { return cuCtxDestroy(context); }
static CUresult destroy(void) { return cuCtxDestroy_v2(context); }
static CUresult detach(void) { return cuCtxDetach(context); }
static CUresult release_primary(void) { return cuDevicePrimaryCtxRelease_v2(0); }

ALLOCATE(cuCtxCreate, &context, 0, 0)
ALLOCATE(cuCtxCreate_v2, &context, 0, 0)
ALLOCATE(cuCtxCreate_v3, &context, NULL, 0, 0, 0)
ALLOCATE(cuCtxCreate_v4, &context, NULL, 0, 0)
ALLOCATE(cuDevicePrimaryCtxRetain, &context, 0)

/* All processors of the device: it has the primary context's memory. */
static CUgreenCtx green;
static CUresult cuGreenCtxCreate_row(void *entry, size_t bytes) {
  CUdevResource processors;
  CUdevResourceDesc description;
  (void)bytes;
  TRY(cuDeviceGetDevResource(0, &processors, CU_DEV_RESOURCE_TYPE_SM));
  TRY(cuDevResourceGenerateDesc(&description, &processors, 1));
  return CALL(cuGreenCtxCreate, entry, &green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM);
}
static CUresult destroy_green(void) { return cuGreenCtxDestroy(green); }

static size_t heap_before;
static CUresult cuCtxSetLimit_row(void *entry, size_t bytes) {
  TRY(cuCtxGetLimit(&heap_before, CU_LIMIT_MALLOC_HEAP_SIZE));
  return CALL(cuCtxSetLimit, entry, CU_LIMIT_MALLOC_HEAP_SIZE, heap_before + bytes);
}
static CUresult shrink_heap(void) { return cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, heap_before); }

/* ---- code ---- */

static CUresult unload(void) { return cuModuleUnload(module); }
static CUresult unload_library(void) { return cuLibraryUnload(library); }

ALLOCATE(cuModuleLoadData, &module, image)
ALLOCATE(cuModuleLoadDataEx, &module, image, 0, NULL, NULL)
ALLOCATE(cuModuleLoadFatBinary, &module, image)

/* What has been loaded is brought onto the card, which a library leaves until its code is asked for. */
static CUresult settle_library(CUresult result) {
  CUkernel kernel;
  CUfunction function;
  if (result != CUDA_SUCCESS) return result;
  result = cuLibraryGetKernel(&kernel, library, "spin");
  if (result == CUDA_SUCCESS) result = cuKernelGetFunction(&function, kernel);
  if (result != CUDA_SUCCESS) cuLibraryUnload(library);
  return result;
}
static CUresult cuLibraryLoadData_row(void *entry, size_t bytes) {
  (void)bytes;
  return settle_library(CALL(cuLibraryLoadData, entry, &library, image, NULL, NULL, 0, NULL, NULL, 0));
}

/* A file with the image, for as long as the program that is told its name needs it. */
static int write_image(char *path, size_t size) {
  snprintf(path, size, "/tmp/cgpu-rows-XXXXXX");
  int fd = mkstemp(path);
  if (fd < 0) return -1;
  ssize_t written = write(fd, image, sizeof image - 1);
  close(fd);
  return written == (ssize_t)sizeof image - 1 ? 0 : -1;
}
static CUresult cuModuleLoad_row(void *entry, size_t bytes) {
  char path[64];
  (void)bytes;
  if (write_image(path, sizeof path)) return CUDA_ERROR_FILE_NOT_FOUND;
  CUresult result = CALL(cuModuleLoad, entry, &module, path);
  unlink(path);
  return result;
}
static CUresult cuLibraryLoadFromFile_row(void *entry, size_t bytes) {
  char path[64];
  (void)bytes;
  if (write_image(path, sizeof path)) return CUDA_ERROR_FILE_NOT_FOUND;
  CUresult result = settle_library(CALL(cuLibraryLoadFromFile, entry, &library, path, NULL, NULL, 0, NULL, NULL, 0));
  unlink(path);
  return result;
}

#define ROW(name, release) {#name, ROW_OWN, name##_row, release}
const struct row context_rows[] = {
    ROW(cuCtxCreate, destroy_old),
    ROW(cuCtxCreate_v2, destroy),
    ROW(cuCtxCreate_v3, detach),
    ROW(cuCtxCreate_v4, destroy),
    ROW(cuDevicePrimaryCtxRetain, release_primary),
    ROW(cuGreenCtxCreate, destroy_green),
    ROW(cuCtxSetLimit, shrink_heap),
    ROW(cuModuleLoad, unload),
    ROW(cuModuleLoadData, unload),
    ROW(cuModuleLoadDataEx, unload),
    ROW(cuModuleLoadFatBinary, unload),
    ROW(cuLibraryLoadData, unload_library),
    ROW(cuLibraryLoadFromFile, unload_library),
    {0},
};

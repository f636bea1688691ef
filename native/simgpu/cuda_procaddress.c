/* cuda_procaddress.c - cuGetProcAddress: from a name and a CUDA version to an export.
 *
 * The answers are data (cuda_procaddress.inc), with three rules on top, as NVIDIA's driver has them:
 * a version beyond the driver's own is taken as its own, so exports younger than the profile's CUDA
 * version are never found; a known name asked for at a version before its first is told apart from
 * an unknown one; a name with a per-thread variant never falls back to the plain export under flag 2.
 */
#include <string.h>

#include "cuda_process.h"

/* What cuda.h does not declare: the profiler's switch, and the interoperability functions. */
extern __attribute__((visibility("default"))) CUresult cuProfilerStart(void);
extern __attribute__((visibility("default"))) CUresult cuProfilerStop(void);
#define SG_UNSUPPORTED(name)
#define SG_UNSUPPORTED_INTEROP(name) extern __attribute__((visibility("default"))) CUresult name(void);
#include "cuda_unsupported.inc"

enum proc_stream { LEGACY, PER_THREAD };

struct proc_row {
  const char *name;
  enum proc_stream stream;
  int since;
  void *function;
};

static const struct proc_row proc_rows[] = {
#define SG_PROC(name, stream, since, export) {#name, stream, since, (void *)export},
#include "cuda_procaddress.inc"
#undef SG_PROC
};
enum { PROC_ROWS = sizeof(proc_rows) / sizeof(proc_rows[0]) };

/* First row of the name, PROC_ROWS when it is unknown. */
static size_t first_row(const char *name) {
  size_t low = 0, high = PROC_ROWS;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (strcmp(proc_rows[middle].name, name) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low < PROC_ROWS && strcmp(proc_rows[low].name, name) == 0 ? low : (size_t)PROC_ROWS;
}

static CUdriverProcAddressQueryResult find(const char *name, int version, enum proc_stream stream, void **function) {
  size_t first = first_row(name), end = first;
  bool known = false, has_stream = false;
  int driver = sg_machine()->cuda_version;
  for (; end < PROC_ROWS && strcmp(proc_rows[end].name, name) == 0; end++) {
    known |= proc_rows[end].since <= driver;
    has_stream |= proc_rows[end].stream == stream && proc_rows[end].since <= driver;
  }
  *function = NULL;
  if (!known)
    return CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  if (!has_stream)
    stream = LEGACY;
  for (size_t row = first; row < end; row++)
    if (proc_rows[row].stream == stream && proc_rows[row].since <= version && proc_rows[row].since <= driver)
      *function = proc_rows[row].function;
  return *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
}

/* `per_thread_default`: flags 0 mean the per-thread default stream, as in code that is compiled with
 * --default-stream per-thread and so calls the _ptsz export. */
static CUresult query(const char *symbol, void **function, int version, cuuint64_t flags, bool per_thread_default,
                      CUdriverProcAddressQueryResult *status) {
  if (symbol == NULL || function == NULL || flags > CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_forked() ? CUDA_SUCCESS : sim_result(sg_join());
  if (result != CUDA_SUCCESS)
    return result;
  bool per_thread = flags == CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM ||
                    (flags == CU_GET_PROC_ADDRESS_DEFAULT && per_thread_default);
  *status = find(symbol, version, per_thread ? PER_THREAD : LEGACY, function);
  return CUDA_SUCCESS;
}

/* The first form has no status: what is not found is CUDA_ERROR_NOT_FOUND, and *pfn is left alone. */
CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags) {
  CUdriverProcAddressQueryResult status;
  void *function;
  if (pfn == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = query(symbol, &function, cudaVersion, flags, false, &status);
  if (result != CUDA_SUCCESS)
    return result;
  if (status != CU_GET_PROC_ADDRESS_SUCCESS)
    return CUDA_ERROR_NOT_FOUND;
  *pfn = function;
  return CUDA_SUCCESS;
}

/* Succeeds also when nothing is found: then *pfn is NULL and *symbolStatus (which may be NULL) says why. */
CUresult CUDAAPI cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                                     CUdriverProcAddressQueryResult *symbolStatus) {
  CUdriverProcAddressQueryResult ignored;
  return query(symbol, pfn, cudaVersion, flags, false, symbolStatus ? symbolStatus : &ignored);
}

__attribute__((visibility("default"))) CUresult CUDAAPI
cuGetProcAddress_v2_ptsz(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                         CUdriverProcAddressQueryResult *symbolStatus) {
  CUdriverProcAddressQueryResult ignored;
  return query(symbol, pfn, cudaVersion, flags, true, symbolStatus ? symbolStatus : &ignored);
}

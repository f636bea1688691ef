/* cuda_profiler.c - switching a profiler on and off: there is never one attached, and then NVIDIA's
 * driver does nothing either. (NVIDIA's package has no cudaProfiler.h to take the declarations from.)
 */
#include "cuda_internal.h"

__attribute__((visibility("default"))) CUresult CUDAAPI cuProfilerStart(void);
__attribute__((visibility("default"))) CUresult CUDAAPI cuProfilerStop(void);

CUresult CUDAAPI cuProfilerStart(void) {
  CUcontext context;
  return sim_current(&context);
}

CUresult CUDAAPI cuProfilerStop(void) {
  CUcontext context;
  return sim_current(&context);
}

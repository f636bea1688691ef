/* cuda_memset.c - fills of 8, 16 and 32 bit elements. They run on the card behind the call, except
 * into host memory, where the call waits (CUDA Driver API, "API synchronization behavior"). */
#include "cuda_internal.h"

#include "cuda_process.h"

static CUresult fill(CUstream handle, const struct sim_memset *set, bool synchronous) {
  const struct sim_work work = {.kind = SIM_WORK_MEMSET, .set = *set};
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (synchronous && stream->capture)
    result = sim_capture_refuse_sync(stream);
  if (result == CUDA_SUCCESS)
    result = sim_enqueue(stream, &work);
  bool wait = synchronous && (!sim_is_device_address(set->destination) || (stream->context->flags & CU_CTX_SYNC_MEMOPS));
  if (result == CUDA_SUCCESS && wait)
    result = sim_stream_wait(stream);
  sim_stream_put_back(stream);
  return result;
}

#define ROW(element) (&(const struct sim_memset){to, 0, n, 1, value, element})
#define BOX(element) (&(const struct sim_memset){to, pitch, width, height, value, element})

/* name suffix, type of an element, its bytes */
#define SIM_ELEMENTS(X) \
  X(8, unsigned char, 1) \
  X(16, unsigned short, 2) \
  X(32, unsigned int, 4)

#define DEFINE_FILLS(bits, type, bytes) \
  CUresult cuMemsetD##bits(CUdeviceptr_v1 to, type value, unsigned int n) { \
    return fill(CU_STREAM_LEGACY, ROW(bytes), true); \
  } \
  CUresult cuMemsetD##bits##_v2(CUdeviceptr to, type value, size_t n) { \
    return fill(CU_STREAM_LEGACY, ROW(bytes), true); \
  } \
  CUresult cuMemsetD##bits##_v2_ptds(CUdeviceptr to, type value, size_t n) { \
    return fill(CU_STREAM_PER_THREAD, ROW(bytes), true); \
  } \
  CUresult cuMemsetD##bits##Async(CUdeviceptr to, type value, size_t n, CUstream stream) { \
    return fill(sim_null_legacy(stream), ROW(bytes), false); \
  } \
  CUresult cuMemsetD##bits##Async_ptsz(CUdeviceptr to, type value, size_t n, CUstream stream) { \
    return fill(sim_null_thread(stream), ROW(bytes), false); \
  } \
  CUresult cuMemsetD2D##bits(CUdeviceptr_v1 to, unsigned int pitch, type value, unsigned int width, \
                             unsigned int height) { \
    return fill(CU_STREAM_LEGACY, BOX(bytes), true); \
  } \
  CUresult cuMemsetD2D##bits##_v2(CUdeviceptr to, size_t pitch, type value, size_t width, size_t height) { \
    return fill(CU_STREAM_LEGACY, BOX(bytes), true); \
  } \
  CUresult cuMemsetD2D##bits##_v2_ptds(CUdeviceptr to, size_t pitch, type value, size_t width, size_t height) { \
    return fill(CU_STREAM_PER_THREAD, BOX(bytes), true); \
  } \
  CUresult cuMemsetD2D##bits##Async(CUdeviceptr to, size_t pitch, type value, size_t width, size_t height, \
                                    CUstream stream) { \
    return fill(sim_null_legacy(stream), BOX(bytes), false); \
  } \
  CUresult cuMemsetD2D##bits##Async_ptsz(CUdeviceptr to, size_t pitch, type value, size_t width, size_t height, \
                                         CUstream stream) { \
    return fill(sim_null_thread(stream), BOX(bytes), false); \
  }
SIM_ELEMENTS(DEFINE_FILLS)

/* cuda_memcpy.c - the linear copy functions, and the way that all copies take.
 *
 * Which calls wait (CUDA Driver API, "API synchronization behavior"): synchronous copies that touch
 * host memory; asynchronous ones into pageable memory, or from more than 64 KiB of it. Smaller
 * pageable sources are staged at the call. Copies within a card never wait.
 */
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

#define STAGED_BYTES (64u << 10)

/* A pageable source may change as soon as the call returns. */
static CUresult stage(struct sim_copy *copy, uint64_t bytes) {
  CUDA_MEMCPY3D_PEER *c = &copy->description;
  const char *from = c->srcMemoryType == CU_MEMORYTYPE_HOST ? c->srcHost : (const char *)(uintptr_t)c->srcDevice;
  copy->staging = malloc(bytes);
  if (!copy->staging)
    return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(copy->staging, from + c->srcXInBytes, bytes);
  c->srcMemoryType = CU_MEMORYTYPE_HOST;
  c->srcHost = copy->staging;
  c->srcXInBytes = 0;
  c->srcPitch = 0;
  return CUDA_SUCCESS;
}

static bool stageable(const CUDA_MEMCPY3D_PEER *c, const struct sim_copy_hosts *hosts) {
  return hosts->source_pageable && !hosts->destination_pageable && hosts->bytes <= STAGED_BYTES && c->Height == 1 &&
         c->Depth == 1 && c->srcY == 0 && c->srcZ == 0;
}

static CUresult submit_copy(CUstream stream, const struct sim_copy *copy, const struct sim_copy_hosts *hosts,
                            bool synchronous) {
  struct sim_work work = {.kind = SIM_WORK_COPY, .copy = *copy};
  bool wait = synchronous ? hosts->source || hosts->destination : hosts->source_pageable || hosts->destination_pageable;
  if (stream->context->flags & CU_CTX_SYNC_MEMOPS)
    wait = wait || synchronous;
  CUresult result = CUDA_SUCCESS;
  if (!synchronous && stageable(&copy->description, hosts)) {
    result = stage(&work.copy, hosts->bytes);
    wait = false;
  }
  if (result == CUDA_SUCCESS) {
    result = sim_enqueue(stream, &work);
    if (result != CUDA_SUCCESS)
      free(work.copy.staging);
  }
  return result == CUDA_SUCCESS && wait ? sim_stream_wait(stream) : result;
}

CUresult sim_copy_call(CUstream handle, const struct sim_copy *copy, bool synchronous) {
  CUstream stream;
  struct sim_copy_hosts hosts;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_copy_hosts(copy, &hosts);
  if (result == CUDA_SUCCESS && stream->capture) {
    const struct sim_work work = {.kind = SIM_WORK_COPY, .copy = *copy};
    result = synchronous ? sim_capture_refuse_sync(stream) : sim_capture_add(stream, &work);
  } else if (result == CUDA_SUCCESS && hosts.bytes) {
    result = submit_copy(stream, copy, &hosts, synchronous);
  }
  sim_stream_put_back(stream);
  return result;
}

/* ---- linear copies ---- */

struct end {
  CUmemorytype type;
  const void *host;
  CUdeviceptr device;
  CUarray array;
  size_t offset;
  CUcontext context;
};

static struct end host_end(const void *pointer) { return (struct end){.type = CU_MEMORYTYPE_HOST, .host = pointer}; }
static struct end card_end(CUdeviceptr pointer) { return (struct end){.type = CU_MEMORYTYPE_DEVICE, .device = pointer}; }
static struct end any_end(CUdeviceptr pointer) { return (struct end){.type = CU_MEMORYTYPE_UNIFIED, .device = pointer}; }
static struct end array_end(CUarray array, size_t offset) {
  return (struct end){.type = CU_MEMORYTYPE_ARRAY, .array = array, .offset = offset};
}

static CUresult linear(CUstream handle, struct end to, struct end from, size_t bytes, bool synchronous) {
  const struct sim_copy copy = {
      .description = {
          .srcMemoryType = from.type, .srcHost = from.host, .srcDevice = from.device, .srcArray = from.array,
          .srcXInBytes = from.offset, .srcContext = from.context,
          .dstMemoryType = to.type, .dstHost = (void *)(uintptr_t)to.host, .dstDevice = to.device,
          .dstArray = to.array, .dstXInBytes = to.offset, .dstContext = to.context,
          .WidthInBytes = bytes, .Height = 1, .Depth = 1,
      }};
  return sim_copy_call(handle, &copy, synchronous);
}

/* name, parameters as since CUDA 3.2, parameters before that, destination, source, bytes */
#define SIM_COPIES(X) \
  X(cuMemcpyHtoD, (CUdeviceptr to, const void *from, size_t n), (CUdeviceptr_v1 to, const void *from, unsigned n), \
    card_end(to), host_end(from)) \
  X(cuMemcpyDtoH, (void *to, CUdeviceptr from, size_t n), (void *to, CUdeviceptr_v1 from, unsigned n), \
    host_end(to), card_end(from)) \
  X(cuMemcpyDtoD, (CUdeviceptr to, CUdeviceptr from, size_t n), \
    (CUdeviceptr_v1 to, CUdeviceptr_v1 from, unsigned n), card_end(to), card_end(from)) \
  X(cuMemcpyDtoA, (CUarray to, size_t at, CUdeviceptr from, size_t n), \
    (CUarray to, unsigned at, CUdeviceptr_v1 from, unsigned n), array_end(to, at), card_end(from)) \
  X(cuMemcpyAtoD, (CUdeviceptr to, CUarray from, size_t at, size_t n), \
    (CUdeviceptr_v1 to, CUarray from, unsigned at, unsigned n), card_end(to), array_end(from, at)) \
  X(cuMemcpyHtoA, (CUarray to, size_t at, const void *from, size_t n), \
    (CUarray to, unsigned at, const void *from, unsigned n), array_end(to, at), host_end(from)) \
  X(cuMemcpyAtoH, (void *to, CUarray from, size_t at, size_t n), (void *to, CUarray from, unsigned at, unsigned n), \
    host_end(to), array_end(from, at)) \
  X(cuMemcpyAtoA, (CUarray to, size_t at, CUarray from, size_t start, size_t n), \
    (CUarray to, unsigned at, CUarray from, unsigned start, unsigned n), array_end(to, at), array_end(from, start))

#define DEFINE_COPY(name, parameters, old_parameters, to, from) \
  CUresult name old_parameters { return linear(CU_STREAM_LEGACY, to, from, n, true); } \
  CUresult name##_v2 parameters { return linear(CU_STREAM_LEGACY, to, from, n, true); } \
  CUresult name##_v2_ptds parameters { return linear(CU_STREAM_PER_THREAD, to, from, n, true); }
SIM_COPIES(DEFINE_COPY)

#define SIM_ASYNC_COPIES(X) \
  X(cuMemcpyHtoDAsync, (CUdeviceptr to, const void *from, size_t n, CUstream stream), \
    (CUdeviceptr_v1 to, const void *from, unsigned n, CUstream stream), card_end(to), host_end(from)) \
  X(cuMemcpyDtoHAsync, (void *to, CUdeviceptr from, size_t n, CUstream stream), \
    (void *to, CUdeviceptr_v1 from, unsigned n, CUstream stream), host_end(to), card_end(from)) \
  X(cuMemcpyDtoDAsync, (CUdeviceptr to, CUdeviceptr from, size_t n, CUstream stream), \
    (CUdeviceptr_v1 to, CUdeviceptr_v1 from, unsigned n, CUstream stream), card_end(to), card_end(from)) \
  X(cuMemcpyHtoAAsync, (CUarray to, size_t at, const void *from, size_t n, CUstream stream), \
    (CUarray to, unsigned at, const void *from, unsigned n, CUstream stream), array_end(to, at), host_end(from)) \
  X(cuMemcpyAtoHAsync, (void *to, CUarray from, size_t at, size_t n, CUstream stream), \
    (void *to, CUarray from, unsigned at, unsigned n, CUstream stream), host_end(to), array_end(from, at))

#define DEFINE_ASYNC_COPY(name, parameters, old_parameters, to, from) \
  CUresult name old_parameters { return linear(sim_null_legacy(stream), to, from, n, false); } \
  CUresult name##_v2 parameters { return linear(sim_null_legacy(stream), to, from, n, false); } \
  CUresult name##_v2_ptsz parameters { return linear(sim_null_thread(stream), to, from, n, false); }
SIM_ASYNC_COPIES(DEFINE_ASYNC_COPY)

/* ---- copies between unified addresses, and between contexts ---- */

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) {
  return linear(CU_STREAM_LEGACY, any_end(dst), any_end(src), ByteCount, true);
}
CUresult cuMemcpy_ptds(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) {
  return linear(CU_STREAM_PER_THREAD, any_end(dst), any_end(src), ByteCount, true);
}
CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream) {
  return linear(sim_null_legacy(hStream), any_end(dst), any_end(src), ByteCount, false);
}
CUresult cuMemcpyAsync_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream) {
  return linear(sim_null_thread(hStream), any_end(dst), any_end(src), ByteCount, false);
}

static CUresult peer(CUstream handle, CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                     size_t bytes, bool synchronous) {
  if (!sim_context_valid(to_context) || !sim_context_valid(from_context))
    return CUDA_ERROR_INVALID_CONTEXT;
  struct end destination = any_end(to), source = any_end(from);
  destination.context = to_context;
  source.context = from_context;
  return linear(handle, destination, source, bytes, synchronous);
}

CUresult cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext,
                      size_t ByteCount) {
  return peer(CU_STREAM_LEGACY, dstDevice, dstContext, srcDevice, srcContext, ByteCount, true);
}
CUresult cuMemcpyPeer_ptds(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext,
                           size_t ByteCount) {
  return peer(CU_STREAM_PER_THREAD, dstDevice, dstContext, srcDevice, srcContext, ByteCount, true);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext,
                           size_t ByteCount, CUstream hStream) {
  return peer(sim_null_legacy(hStream), dstDevice, dstContext, srcDevice, srcContext, ByteCount, false);
}
CUresult cuMemcpyPeerAsync_ptsz(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                                CUcontext srcContext, size_t ByteCount, CUstream hStream) {
  return peer(sim_null_thread(hStream), dstDevice, dstContext, srcDevice, srcContext, ByteCount, false);
}

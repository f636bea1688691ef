/* cuda_memcpy_box.c - two- and three-dimensional copies, and batches. */
#include "cuda_internal.h"

#include "cuda_process.h"

/* The fields that all generations of the description share. */
#define SIM_COMMON(c) \
  .srcXInBytes = (c)->srcXInBytes, .srcY = (c)->srcY, .srcMemoryType = (c)->srcMemoryType, \
  .srcHost = (c)->srcHost, .srcDevice = (c)->srcDevice, .srcArray = (c)->srcArray, .srcPitch = (c)->srcPitch, \
  .dstXInBytes = (c)->dstXInBytes, .dstY = (c)->dstY, .dstMemoryType = (c)->dstMemoryType, \
  .dstHost = (c)->dstHost, .dstDevice = (c)->dstDevice, .dstArray = (c)->dstArray, .dstPitch = (c)->dstPitch, \
  .WidthInBytes = (c)->WidthInBytes, .Height = (c)->Height

#define SIM_DEPTH(c) \
  .srcZ = (c)->srcZ, .srcLOD = (c)->srcLOD, .srcHeight = (c)->srcHeight, \
  .dstZ = (c)->dstZ, .dstLOD = (c)->dstLOD, .dstHeight = (c)->dstHeight, .Depth = (c)->Depth

#define DEFINE_FLAT(name, type) \
  static CUresult name(CUstream handle, const type *c, bool synchronous) { \
    if (!c) \
      return CUDA_ERROR_INVALID_VALUE; \
    const struct sim_copy copy = {.description = {SIM_COMMON(c), .Depth = 1}}; \
    return sim_copy_call(handle, &copy, synchronous); \
  }
#define DEFINE_DEEP(name, type) \
  static CUresult name(CUstream handle, const type *c, bool synchronous) { \
    if (!c || c->srcLOD || c->dstLOD) \
      return CUDA_ERROR_INVALID_VALUE; \
    const struct sim_copy copy = {.description = {SIM_COMMON(c), SIM_DEPTH(c)}}; \
    return sim_copy_call(handle, &copy, synchronous); \
  }
DEFINE_FLAT(flat, CUDA_MEMCPY2D)
DEFINE_FLAT(flat_v1, CUDA_MEMCPY2D_v1)
DEFINE_DEEP(deep, CUDA_MEMCPY3D)
DEFINE_DEEP(deep_v1, CUDA_MEMCPY3D_v1)

static CUresult deep_peer(CUstream handle, const CUDA_MEMCPY3D_PEER *c, bool synchronous) {
  if (!c || c->srcLOD || c->dstLOD)
    return CUDA_ERROR_INVALID_VALUE;
  bool source_named = c->srcMemoryType == CU_MEMORYTYPE_DEVICE;
  bool destination_named = c->dstMemoryType == CU_MEMORYTYPE_DEVICE;
  if ((source_named && !sim_context_valid(c->srcContext)) || (destination_named && !sim_context_valid(c->dstContext)))
    return CUDA_ERROR_INVALID_CONTEXT;
  const struct sim_copy copy = {.description = *c, .peer = true};
  return sim_copy_call(handle, &copy, synchronous);
}

#define SIM_BOXES(X) \
  X(cuMemcpy2D_v2, cuMemcpy2DAsync_v2, flat, CUDA_MEMCPY2D) \
  X(cuMemcpy3D_v2, cuMemcpy3DAsync_v2, deep, CUDA_MEMCPY3D) \
  X(cuMemcpy3DPeer, cuMemcpy3DPeerAsync, deep_peer, CUDA_MEMCPY3D_PEER)

#define DEFINE_BOX(name, async_name, call, type) \
  CUresult name(const type *c) { return call(CU_STREAM_LEGACY, c, true); } \
  CUresult name##_ptds(const type *c) { return call(CU_STREAM_PER_THREAD, c, true); } \
  CUresult async_name(const type *c, CUstream stream) { return call(sim_null_legacy(stream), c, false); } \
  CUresult async_name##_ptsz(const type *c, CUstream stream) { return call(sim_null_thread(stream), c, false); }
SIM_BOXES(DEFINE_BOX)

CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy) { return flat(CU_STREAM_LEGACY, pCopy, true); }
CUresult cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D *pCopy) { return flat(CU_STREAM_PER_THREAD, pCopy, true); }
CUresult cuMemcpy2D(const CUDA_MEMCPY2D_v1 *pCopy) { return flat_v1(CU_STREAM_LEGACY, pCopy, true); }
CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D_v1 *pCopy) { return flat_v1(CU_STREAM_LEGACY, pCopy, true); }
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D_v1 *pCopy, CUstream hStream) {
  return flat_v1(sim_null_legacy(hStream), pCopy, false);
}
CUresult cuMemcpy3D(const CUDA_MEMCPY3D_v1 *pCopy) { return deep_v1(CU_STREAM_LEGACY, pCopy, true); }
CUresult cuMemcpy3DAsync(const CUDA_MEMCPY3D_v1 *pCopy, CUstream hStream) {
  return deep_v1(sim_null_legacy(hStream), pCopy, false);
}

/* ---- batches: the copies of one run in any order; here one after the other ---- */

static bool batch_stream(CUstream handle) { return handle && handle != CU_STREAM_LEGACY; }

static CUresult one_of_batch(CUstream handle, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  const struct sim_copy copy = {.description = {
      .srcMemoryType = CU_MEMORYTYPE_UNIFIED, .srcDevice = from, .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
      .dstDevice = to, .WidthInBytes = bytes, .Height = 1, .Depth = 1}};
  return bytes ? sim_copy_call(handle, &copy, false) : CUDA_ERROR_INVALID_VALUE;
}

struct batch {
  CUdeviceptr *to, *from;
  size_t *sizes, count;
  CUmemcpyAttributes *attributes;
  size_t *attribute_starts, attribute_count, *failed;
};

/* Attributes cover the copies from their start index on; the first must start at 0. */
static bool sound_attributes(const struct batch *batch) {
  if (!batch->attribute_count || batch->attribute_count > batch->count || !batch->attributes ||
      !batch->attribute_starts || batch->attribute_starts[0] != 0)
    return false;
  for (size_t i = 1; i < batch->attribute_count; i++)
    if (batch->attribute_starts[i] <= batch->attribute_starts[i - 1] || batch->attribute_starts[i] >= batch->count)
      return false;
  return true;
}

static CUresult copy_batch(CUstream handle, const struct batch *batch) {
  if (batch->failed)
    *batch->failed = SIZE_MAX;
  if (!batch_stream(handle) || !batch->to || !batch->from || !batch->sizes || !batch->count || !sound_attributes(batch))
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < batch->count; i++) {
    CUresult result = one_of_batch(handle, batch->to[i], batch->from[i], batch->sizes[i]);
    if (result != CUDA_SUCCESS) {
      if (batch->failed)
        *batch->failed = i;
      return result;
    }
  }
  return CUDA_SUCCESS;
}

#define BATCH_PARAMETERS \
  CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count, CUmemcpyAttributes *attrs, size_t *attrsIdxs, \
      size_t numAttrs
#define BATCH(failed) \
  (&(const struct batch){dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, failed})

CUresult cuMemcpyBatchAsync(BATCH_PARAMETERS, size_t *failIdx, CUstream hStream) {
  return copy_batch(hStream, BATCH(failIdx));
}
CUresult cuMemcpyBatchAsync_ptsz(BATCH_PARAMETERS, size_t *failIdx, CUstream hStream) {
  return copy_batch(sim_null_thread(hStream), BATCH(failIdx));
}
CUresult cuMemcpyBatchAsync_v2(BATCH_PARAMETERS, CUstream hStream) { return copy_batch(hStream, BATCH(NULL)); }
CUresult cuMemcpyBatchAsync_v2_ptsz(BATCH_PARAMETERS, CUstream hStream) {
  return copy_batch(sim_null_thread(hStream), BATCH(NULL));
}

/* Extents and offsets count the elements of the array that takes part, or bytes if none does. */
static size_t element_of(const CUDA_MEMCPY3D_BATCH_OP *op) {
  const CUmemcpy3DOperand *operands[] = {&op->src, &op->dst};
  for (int i = 0; i < 2; i++)
    if (operands[i]->type == CU_MEMCPY_OPERAND_TYPE_ARRAY && operands[i]->op.array.array &&
        operands[i]->op.array.array->magic == SIM_MAGIC_ARRAY)
      return operands[i]->op.array.array->element_bytes;
  return 1;
}

static CUresult one_box_of_batch(CUstream handle, const CUDA_MEMCPY3D_BATCH_OP *op) {
  size_t element = element_of(op);
  CUDA_MEMCPY3D_PEER c = {.WidthInBytes = op->extent.width * element, .Height = op->extent.height,
                          .Depth = op->extent.depth};
  if (op->src.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
    c.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    c.srcArray = op->src.op.array.array;
    c.srcXInBytes = op->src.op.array.offset.x * element;
    c.srcY = op->src.op.array.offset.y;
    c.srcZ = op->src.op.array.offset.z;
  } else {
    c.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
    c.srcDevice = op->src.op.ptr.ptr;
    c.srcPitch = op->src.op.ptr.rowLength * element;
    c.srcHeight = op->src.op.ptr.layerHeight;
  }
  if (op->dst.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
    c.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    c.dstArray = op->dst.op.array.array;
    c.dstXInBytes = op->dst.op.array.offset.x * element;
    c.dstY = op->dst.op.array.offset.y;
    c.dstZ = op->dst.op.array.offset.z;
  } else {
    c.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    c.dstDevice = op->dst.op.ptr.ptr;
    c.dstPitch = op->dst.op.ptr.rowLength * element;
    c.dstHeight = op->dst.op.ptr.layerHeight;
  }
  const struct sim_copy copy = {.description = c};
  return sim_copy_call(handle, &copy, false);
}

static CUresult box_batch(CUstream handle, size_t count, const CUDA_MEMCPY3D_BATCH_OP *ops, size_t *failed,
                          unsigned long long flags) {
  if (failed)
    *failed = SIZE_MAX;
  if (!batch_stream(handle) || !count || !ops || flags)
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    CUresult result = one_box_of_batch(handle, &ops[i]);
    if (result != CUDA_SUCCESS) {
      if (failed)
        *failed = i;
      return result;
    }
  }
  return CUDA_SUCCESS;
}

CUresult cuMemcpy3DBatchAsync(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx, unsigned long long flags,
                              CUstream hStream) {
  return box_batch(hStream, numOps, opList, failIdx, flags);
}
CUresult cuMemcpy3DBatchAsync_ptsz(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx,
                                   unsigned long long flags, CUstream hStream) {
  return box_batch(sim_null_thread(hStream), numOps, opList, failIdx, flags);
}
CUresult cuMemcpy3DBatchAsync_v2(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, unsigned long long flags,
                                 CUstream hStream) {
  return box_batch(hStream, numOps, opList, NULL, flags);
}
CUresult cuMemcpy3DBatchAsync_v2_ptsz(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, unsigned long long flags,
                                      CUstream hStream) {
  return box_batch(sim_null_thread(hStream), numOps, opList, NULL, flags);
}

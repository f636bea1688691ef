/* cuda_memop.c - stream memory operations: a stream writes a word of memory, or waits for one.
 *
 * The word may be written by anybody: the host, another stream, another process, another card. The
 * first versions of these functions (before CUDA 11.7) differ from the second ones in the switch that
 * enabled them on a real driver, not in what they do.
 */
#include <stdlib.h>

#include "cuda_internal.h"

#define MOST_OPERATIONS 256u /* cuStreamBatchMemOp's limit */

static unsigned word_bytes(CUstreamBatchMemOpType operation) {
  return operation == CU_STREAM_MEM_OP_WAIT_VALUE_64 || operation == CU_STREAM_MEM_OP_WRITE_VALUE_64 ? 8 : 4;
}

static CUresult resolve_word(CUdeviceptr address, unsigned bytes, bool write, void **alias) {
  bool pageable;
  if (address % bytes != 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_resolve(address, bytes, write, alias, &pageable);
  return result == CUDA_SUCCESS && pageable ? CUDA_ERROR_INVALID_VALUE : result;
}

static CUresult check_operation(const CUstreamBatchMemOpParams *operation) {
  void *alias;
  switch (operation->operation) {
  case CU_STREAM_MEM_OP_WAIT_VALUE_32:
  case CU_STREAM_MEM_OP_WAIT_VALUE_64:
    if ((operation->waitValue.flags & CU_STREAM_WAIT_VALUE_FLUSH) != 0)
      return CUDA_ERROR_NOT_SUPPORTED; /* CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES is 0 */
    if (operation->waitValue.flags > CU_STREAM_WAIT_VALUE_NOR)
      return CUDA_ERROR_INVALID_VALUE;
    return resolve_word(operation->waitValue.address, word_bytes(operation->operation), false, &alias);
  case CU_STREAM_MEM_OP_WRITE_VALUE_32:
  case CU_STREAM_MEM_OP_WRITE_VALUE_64:
    if (operation->writeValue.flags > CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER)
      return CUDA_ERROR_INVALID_VALUE;
    return resolve_word(operation->writeValue.address, word_bytes(operation->operation), true, &alias);
  case CU_STREAM_MEM_OP_BARRIER:
    return operation->memoryBarrier.flags <= CU_STREAM_MEMORY_BARRIER_TYPE_GPU ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
  case CU_STREAM_MEM_OP_ATOMIC_REDUCTION:
    return CUDA_ERROR_NOT_SUPPORTED;
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult sim_memop_check(const struct sim_memop *memop) {
  if (memop->count == 0 || memop->count > MOST_OPERATIONS || memop->operations == NULL || memop->flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_SUCCESS;
  for (unsigned i = 0; i < memop->count && result == CUDA_SUCCESS; i++)
    result = check_operation(&memop->operations[i]);
  return result;
}

/* ---- into a stream ---- */

struct word_write {
  void *alias;
  unsigned bytes;
  uint64_t value;
};

static void write_word(void *argument) {
  const struct word_write *write = argument;
  if (write->bytes == 8)
    __atomic_store_n((uint64_t *)write->alias, write->value, __ATOMIC_RELEASE);
  else
    __atomic_store_n((uint32_t *)write->alias, (uint32_t)write->value, __ATOMIC_RELEASE);
}

static CUresult put_write(CUstream stream, const CUstreamBatchMemOpParams *operation) {
  struct word_write *write = calloc(1, sizeof *write);
  if (write == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  write->bytes = word_bytes(operation->operation);
  write->value = write->bytes == 8 ? operation->writeValue.value64 : operation->writeValue.value;
  CUresult result = resolve_word(operation->writeValue.address, write->bytes, true, &write->alias);
  if (result == CUDA_SUCCESS)
    result = sim_stream_local(stream, SG_ENGINE_NONE, 0, write_word, free, write);
  if (result != CUDA_SUCCESS)
    free(write);
  return result;
}

static CUresult put_wait(CUstream stream, const CUstreamBatchMemOpParams *operation) {
  void *alias;
  struct sim_watch watch = {
      .bytes = word_bytes(operation->operation),
      .condition = (CUstreamWaitValue_flags)operation->waitValue.flags,
      .context = stream->context,
  };
  watch.value = watch.bytes == 8 ? operation->waitValue.value64 : operation->waitValue.value;
  CUresult result = resolve_word(operation->waitValue.address, watch.bytes, false, &alias);
  watch.alias = alias;
  return result == CUDA_SUCCESS ? sim_stream_watch(stream, &watch, false, NULL, NULL) : result;
}

/* A barrier needs nothing: effects are in order, and writes are releases. */
CUresult sim_memop_put(CUstream stream, const struct sim_memop *memop) {
  CUresult result = CUDA_SUCCESS;
  for (unsigned i = 0; i < memop->count && result == CUDA_SUCCESS; i++) {
    const CUstreamBatchMemOpParams *operation = &memop->operations[i];
    if (operation->operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 || operation->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64)
      result = put_wait(stream, operation);
    else if (operation->operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 ||
             operation->operation == CU_STREAM_MEM_OP_WRITE_VALUE_64)
      result = put_write(stream, operation);
  }
  return result;
}

/* ---- the driver's functions ---- */

static CUresult batch(CUstream handle, unsigned count, CUstreamBatchMemOpParams *operations, unsigned flags) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  const struct sim_work work = {.kind = SIM_WORK_MEMOP,
                                .memop = {.count = count, .flags = flags, .operations = operations}};
  result = sim_memop_check(&work.memop);
  if (result == CUDA_SUCCESS)
    result = sim_enqueue(stream, &work);
  sim_stream_put_back(stream);
  return result;
}

static CUresult wait_value(CUstream stream, CUstreamBatchMemOpType operation, CUdeviceptr address, uint64_t value,
                           unsigned flags) {
  CUstreamBatchMemOpParams parameters = {
      .waitValue = {.operation = operation, .address = address, .value64 = value, .flags = flags}};
  return batch(stream, 1, &parameters, 0);
}

static CUresult write_value(CUstream stream, CUstreamBatchMemOpType operation, CUdeviceptr address, uint64_t value,
                            unsigned flags) {
  CUstreamBatchMemOpParams parameters = {
      .writeValue = {.operation = operation, .address = address, .value64 = value, .flags = flags}};
  return batch(stream, 1, &parameters, 0);
}

/* One set of entry points; `null` says what the null stream stands for. */
#define SG_MEMOP_ENTRIES(suffix, null)                                                                              \
  CUresult CUDAAPI cuStreamWaitValue32##suffix(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned flags) { \
    return wait_value(null(stream), CU_STREAM_MEM_OP_WAIT_VALUE_32, addr, value, flags);                            \
  }                                                                                                                 \
  CUresult CUDAAPI cuStreamWaitValue64##suffix(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned flags) { \
    return wait_value(null(stream), CU_STREAM_MEM_OP_WAIT_VALUE_64, addr, value, flags);                            \
  }                                                                                                                 \
  CUresult CUDAAPI cuStreamWriteValue32##suffix(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned flags) { \
    return write_value(null(stream), CU_STREAM_MEM_OP_WRITE_VALUE_32, addr, value, flags);                          \
  }                                                                                                                 \
  CUresult CUDAAPI cuStreamWriteValue64##suffix(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned flags) { \
    return write_value(null(stream), CU_STREAM_MEM_OP_WRITE_VALUE_64, addr, value, flags);                          \
  }                                                                                                                 \
  CUresult CUDAAPI cuStreamBatchMemOp##suffix(CUstream stream, unsigned count, CUstreamBatchMemOpParams *paramArray, \
                                              unsigned flags) {                                                     \
    return batch(null(stream), count, paramArray, flags);                                                           \
  }
SG_MEMOP_ENTRIES(, sim_null_legacy)
SG_MEMOP_ENTRIES(_ptsz, sim_null_thread)
SG_MEMOP_ENTRIES(_v2, sim_null_legacy)
SG_MEMOP_ENTRIES(_v2_ptsz, sim_null_thread)

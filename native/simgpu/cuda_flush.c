/* cuda_flush.c - writes of other devices through GPUDirect RDMA: nothing here writes to a simulated card
 * past its driver, so whatever was written is visible, which the device attributes say, too. */
#include "cuda_internal.h"

CUresult cuFlushGPUDirectRDMAWrites(CUflushGPUDirectRDMAWritesTarget target, CUflushGPUDirectRDMAWritesScope scope) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  bool known_scope =
      scope == CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER || scope == CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_ALL_DEVICES;
  if (target != CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX || !known_scope)
    return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

/* cuda_occupancy.c - how many blocks of a kernel fit on one SM at a time.
 *
 * The model is that of the CUDA C++ Programming Guide, "Hardware Implementation" and the occupancy
 * calculator in its simplest form; each resource of the SM gives a bound, and the least one holds:
 *   blocks      max_blocks_per_sm
 *   threads     max_threads_per_sm / warps of the block, in whole warps of 32
 *   registers   registers_per_sm / (warps * registers of a warp, allocated in steps of 256)
 *   shared      shared_per_sm / (static + dynamic shared memory + what the system reserves per block)
 * A block larger than the kernel allows fits nowhere (0 blocks). Clusters are not modelled.
 */
#include "cuda_internal.h"

enum { WARP_THREADS = 32, REGISTER_STEP = 256 };

struct sm_limits { /* of one SM of the current context's device */
  int blocks, threads, registers, shared, reserved_shared, multiprocessors, block_threads;
};

static CUresult read_sm_limits(struct sm_limits *limits) {
  CUdevice device;
  CUresult result = cuCtxGetDevice(&device);
  if (result != CUDA_SUCCESS)
    return result;
  const struct {
    CUdevice_attribute attribute;
    int *value;
  } wanted[] = {
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, &limits->blocks},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, &limits->threads},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, &limits->registers},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, &limits->shared},
      {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, &limits->reserved_shared},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &limits->multiprocessors},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &limits->block_threads},
  };
  for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
    result = cuDeviceGetAttribute(wanted[i].value, wanted[i].attribute, device);
    if (result != CUDA_SUCCESS)
      return result;
  }
  return CUDA_SUCCESS;
}

struct kernel_needs {
  int registers, static_shared, block_threads;
};

static CUresult read_kernel_needs(CUfunction function, struct kernel_needs *needs) {
  CUresult result = cuFuncGetAttribute(&needs->registers, CU_FUNC_ATTRIBUTE_NUM_REGS, function);
  if (result == CUDA_SUCCESS)
    result = cuFuncGetAttribute(&needs->static_shared, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function);
  if (result == CUDA_SUCCESS)
    result = cuFuncGetAttribute(&needs->block_threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function);
  return result;
}

static int lesser(int a, int b) { return a < b ? a : b; }

static int warps_of(int block_threads) { return (block_threads + WARP_THREADS - 1) / WARP_THREADS; }

/* Blocks per SM, shared memory aside. */
static int blocks_without_shared(const struct sm_limits *sm, const struct kernel_needs *kernel, int block_threads) {
  if (block_threads > kernel->block_threads || block_threads > sm->block_threads)
    return 0;
  int warps = warps_of(block_threads);
  int blocks = lesser(sm->blocks, sm->threads / (warps * WARP_THREADS));
  int warp_registers = (kernel->registers * WARP_THREADS + REGISTER_STEP - 1) / REGISTER_STEP * REGISTER_STEP;
  if (warp_registers > 0)
    blocks = lesser(blocks, sm->registers / (warps * warp_registers));
  return blocks;
}

static int blocks_per_sm(const struct sm_limits *sm, const struct kernel_needs *kernel, int block_threads,
                         size_t dynamic_shared) {
  int blocks = blocks_without_shared(sm, kernel, block_threads);
  size_t shared = (size_t)kernel->static_shared + dynamic_shared;
  if (shared == 0)
    return blocks;
  size_t fit = (size_t)sm->shared / (shared + (size_t)sm->reserved_shared);
  return fit < (size_t)blocks ? (int)fit : blocks;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, CUfunction func, int blockSize,
                                                                      size_t dynamicSMemSize, unsigned int flags) {
  struct sm_limits sm;
  struct kernel_needs kernel;
  if (numBlocks == NULL || blockSize <= 0 || (flags & ~(unsigned)CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = read_sm_limits(&sm);
  if (result == CUDA_SUCCESS)
    result = read_kernel_needs(func, &kernel);
  if (result == CUDA_SUCCESS)
    *numBlocks = blocks_per_sm(&sm, &kernel, blockSize, dynamicSMemSize);
  return result;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func, int blockSize,
                                                             size_t dynamicSMemSize) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize, dynamicSMemSize, 0);
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize, CUfunction func,
                                                           CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                           size_t dynamicSMemSize, int blockSizeLimit,
                                                           unsigned int flags) {
  struct sm_limits sm;
  struct kernel_needs kernel;
  if (minGridSize == NULL || blockSize == NULL || blockSizeLimit < 0 ||
      (flags & ~(unsigned)CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = read_sm_limits(&sm);
  if (result == CUDA_SUCCESS)
    result = read_kernel_needs(func, &kernel);
  if (result != CUDA_SUCCESS)
    return result;
  int largest = lesser(sm.block_threads, kernel.block_threads), best_threads = 0, best_blocks = 0, best_size = 0;
  if (blockSizeLimit > 0)
    largest = lesser(largest, blockSizeLimit);
  for (int size = largest; size > 0; size = (size - 1) / WARP_THREADS * WARP_THREADS) {
    size_t shared = blockSizeToDynamicSMemSize ? blockSizeToDynamicSMemSize(size) : dynamicSMemSize;
    int blocks = blocks_per_sm(&sm, &kernel, size, shared);
    if (blocks * size > best_threads) {
      best_threads = blocks * size;
      best_blocks = blocks;
      best_size = size;
    }
  }
  *blockSize = best_size;
  *minGridSize = best_blocks * sm.multiprocessors;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func,
                                                  CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                  size_t dynamicSMemSize, int blockSizeLimit) {
  return cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func, blockSizeToDynamicSMemSize,
                                                   dynamicSMemSize, blockSizeLimit, 0);
}

CUresult CUDAAPI cuOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, CUfunction func, int numBlocks,
                                                         int blockSize) {
  struct sm_limits sm;
  struct kernel_needs kernel;
  if (dynamicSmemSize == NULL || numBlocks <= 0 || blockSize <= 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = read_sm_limits(&sm);
  if (result == CUDA_SUCCESS)
    result = read_kernel_needs(func, &kernel);
  if (result != CUDA_SUCCESS)
    return result;
  if (blocks_without_shared(&sm, &kernel, blockSize) < numBlocks)
    return CUDA_ERROR_INVALID_VALUE;
  int left = sm.shared / numBlocks - sm.reserved_shared - kernel.static_shared;
  *dynamicSmemSize = left > 0 ? (size_t)left : 0;
  return CUDA_SUCCESS;
}

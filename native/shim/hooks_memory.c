/* hooks_memory.c - device memory by the pointer: linear, pitched, managed; and the tenant's view of it.
 *
 * What is charged is what the card gives out. Blocks from 1 MiB on have granules of 2 MiB to
 * themselves; the driver packs smaller ones into shared granules, which are charged when the first
 * block lies on them and returned with the last.
 */
#include "pools.h"
#include "share.h"

struct allocation {
  int gpu;
  enum cg_verdict verdict;
  uint64_t bytes; /* of the block */
  uint64_t reserved_bytes;
  bool managed;
};

/* Reserves for a block of so many bytes; what the driver answers when that is refused, or success. */
static CUresult begin(struct allocation *allocation, uint64_t bytes, bool managed) {
  allocation->gpu = cg_gpu_current();
  allocation->bytes = bytes;
  allocation->reserved_bytes = !bytes ? 0 : bytes < CG_SMALL_BYTES ? CG_GRANULE_BYTES : cg_granules(bytes);
  allocation->managed = managed;
  if (managed && cg_refuses_managed()) {
    cg_note_denied(allocation->gpu);
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  allocation->verdict = cg_reserve(allocation->gpu, allocation->reserved_bytes);
  return allocation->verdict == CG_REFUSED ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

/* Settles a reserve with what became of it. A block of which no note can be taken is given up. */
static CUresult finish(const struct allocation *allocation, CUresult result, CUdeviceptr pointer) {
  if (allocation->verdict != CG_GRANTED) return result;
  const struct cg_driver *driver = cg_driver();
  if (result != CUDA_SUCCESS) {
    cg_return(allocation->gpu, allocation->reserved_bytes);
    return result;
  }
  CUcontext context = NULL;
  driver->x_cuCtxGetCurrent(&context);
  bool small = allocation->bytes < CG_SMALL_BYTES;
  struct cg_block block = {.key = pointer,
                           .bytes = small ? allocation->bytes : allocation->reserved_bytes,
                           .context = context,
                           .kind = CG_KIND_POINTER,
                           .gpu = (uint8_t)allocation->gpu,
                           .references = allocation->managed ? CG_MANAGED_REFERENCE : 0};
  uint64_t charged = small ? cg_pages_enter(pointer, block.bytes) * CG_GRANULE_BYTES : block.bytes;
  if (charged > allocation->reserved_bytes) cg_charge_truth(allocation->gpu, charged - allocation->reserved_bytes);
  else cg_return(allocation->gpu, allocation->reserved_bytes - charged);
  if (allocation->managed) cg_note_managed(allocation->gpu, (int64_t)charged);
  if (cg_block_add(&block)) return result;
  driver->cuMemFree_v2(pointer);
  cg_block_return(&block);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CG_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
  CG_DRIVER(cuMemAlloc_v2);
  struct allocation allocation;
  CUresult result = begin(&allocation, bytesize, false);
  if (result != CUDA_SUCCESS) return result;
  result = driver->cuMemAlloc_v2(dptr, bytesize);
  return finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0);
}

CG_EXPORT CUresult cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize) {
  CG_DRIVER(cuMemAlloc);
  struct allocation allocation;
  CUresult result = begin(&allocation, bytesize, false);
  if (result != CUDA_SUCCESS) return result;
  result = driver->cuMemAlloc(dptr, bytesize);
  return finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0);
}

/* The pitch is known after the call; until then rows are taken to be padded to the largest alignment
 * that a driver uses. */
#define PITCH_BYTES 512u
static uint64_t pitched(uint64_t width, uint64_t height) {
  uint64_t bytes;
  if (width > UINT64_MAX - PITCH_BYTES) return UINT64_MAX;
  width = (width + PITCH_BYTES - 1) / PITCH_BYTES * PITCH_BYTES;
  return __builtin_mul_overflow(width, height, &bytes) ? UINT64_MAX : bytes;
}

/* Corrects a reserve to the true pitch. */
static void repitch(struct allocation *allocation, uint64_t bytes) {
  if (allocation->verdict != CG_GRANTED || bytes == allocation->bytes) return;
  uint64_t needed = bytes < CG_SMALL_BYTES ? CG_GRANULE_BYTES : cg_granules(bytes);
  if (needed > allocation->reserved_bytes) cg_charge_truth(allocation->gpu, needed - allocation->reserved_bytes);
  else cg_return(allocation->gpu, allocation->reserved_bytes - needed);
  allocation->reserved_bytes = needed;
  allocation->bytes = bytes;
}

CG_EXPORT CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                                      unsigned int ElementSizeBytes) {
  CG_DRIVER(cuMemAllocPitch_v2);
  struct allocation allocation;
  CUresult result = begin(&allocation, pitched(WidthInBytes, Height), false);
  if (result != CUDA_SUCCESS) return result;
  result = driver->cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
  if (result == CUDA_SUCCESS) repitch(&allocation, *pPitch * Height);
  return finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0);
}

CG_EXPORT CUresult cuMemAllocPitch(CUdeviceptr_v1 *dptr, unsigned int *pPitch, unsigned int WidthInBytes,
                                   unsigned int Height, unsigned int ElementSizeBytes) {
  CG_DRIVER(cuMemAllocPitch);
  struct allocation allocation;
  CUresult result = begin(&allocation, pitched(WidthInBytes, Height), false);
  if (result != CUDA_SUCCESS) return result;
  result = driver->cuMemAllocPitch(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
  if (result == CUDA_SUCCESS) repitch(&allocation, (uint64_t)*pPitch * Height);
  return finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0);
}

/* Managed memory lives wherever it was touched last; it is charged in full, as if all of it were on
 * the card at once. */
CG_EXPORT CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags) {
  CG_DRIVER(cuMemAllocManaged);
  struct allocation allocation;
  CUresult result = begin(&allocation, bytesize, true);
  if (result != CUDA_SUCCESS) return result;
  result = driver->cuMemAllocManaged(dptr, bytesize, flags);
  return finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0);
}

/* The block is taken out before the call: right after it another thread may get the same address. */
static CUresult free_pointer(CUresult (*real)(CUdeviceptr), CUdeviceptr pointer) {
  struct cg_block block;
  bool known = cg_block_take(CG_KIND_POINTER, pointer, &block) || cg_block_take(CG_KIND_STOCKED, pointer, &block) ||
               cg_block_take(CG_KIND_IMPORTED, pointer, &block); /* of another process's pool */
  CUresult result = real(pointer);
  if (!known) return result;
  if (result != CUDA_SUCCESS) {
    cg_block_add(&block);
  } else if (block.kind == CG_KIND_IMPORTED) {
    cg_export_leave(block.bytes);
  } else if (block.kind == CG_KIND_POINTER) {
    cg_exported_block_return(&block);
  } else {
    cg_pool_took(&block, CU_STREAM_LEGACY);
    cg_pools_refresh(cg_gpu_current());
  }
  return result;
}

CG_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr) {
  CG_DRIVER(cuMemFree_v2);
  return free_pointer(driver->cuMemFree_v2, dptr);
}

static CUresult free_v1(CUdeviceptr pointer) { return cg_driver()->cuMemFree((CUdeviceptr_v1)pointer); }

CG_EXPORT CUresult cuMemFree(CUdeviceptr_v1 dptr) {
  CG_DRIVER(cuMemFree);
  return free_pointer(free_v1, dptr);
}

/* ---- the tenant's view ---- */

/* Turns the card's figures into the share's: never more than the card has. */
static void share_of(int gpu, uint64_t *free_bytes, uint64_t *total_bytes) {
  uint64_t used, quota;
  cg_usage_now(gpu, &used, &quota);
  if (gpu < 0 || !cg_is_tenant()) return;
  uint64_t left = used < quota ? quota - used : 0;
  if (free_bytes && left < *free_bytes) *free_bytes = left;
  if (quota < *total_bytes) *total_bytes = quota;
}

CG_EXPORT CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
  CG_DRIVER(cuMemGetInfo_v2);
  CUresult result = driver->cuMemGetInfo_v2(free, total);
  if (result != CUDA_SUCCESS || !free || !total) return result;
  uint64_t share_free = *free, share_total = *total;
  share_of(cg_gpu_current(), &share_free, &share_total);
  *free = share_free;
  *total = share_total;
  return result;
}

CG_EXPORT CUresult cuMemGetInfo(unsigned int *free, unsigned int *total) {
  CG_DRIVER(cuMemGetInfo);
  CUresult result = driver->cuMemGetInfo(free, total);
  if (result != CUDA_SUCCESS || !free || !total) return result;
  uint64_t share_free = *free, share_total = *total;
  share_of(cg_gpu_current(), &share_free, &share_total);
  *free = (unsigned int)share_free;
  *total = (unsigned int)share_total;
  return result;
}

CG_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
  CG_DRIVER(cuDeviceTotalMem_v2);
  CUresult result = driver->cuDeviceTotalMem_v2(bytes, dev);
  if (result != CUDA_SUCCESS || !bytes) return result;
  uint64_t total = *bytes;
  share_of(cg_gpu_of_device(dev), NULL, &total);
  *bytes = total;
  return result;
}

CG_EXPORT CUresult cuDeviceTotalMem(unsigned int *bytes, CUdevice dev) {
  CG_DRIVER(cuDeviceTotalMem);
  CUresult result = driver->cuDeviceTotalMem(bytes, dev);
  if (result != CUDA_SUCCESS || !bytes) return result;
  uint64_t total = *bytes;
  share_of(cg_gpu_of_device(dev), NULL, &total);
  *bytes = (unsigned int)total;
  return result;
}

/* hooks_pool.c - stream-ordered memory: allocated from pools, which keep what is freed into them.
 *
 * A pool is charged what it holds (CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT). Before an allocation the
 * pool's likely growth is reserved, and settled after it. When that is refused, although everything
 * in stock has been given back, the pool may still keep what was freed on a stream that has not come
 * to it. Whether it would use that for the new block is its own affair, so the stream is waited for,
 * and the reserve tried again: a wait at the edge of the quota, instead of a card that holds too much.
 *
 * Allocations on a stream that is being captured become nodes of a graph; see hooks_graph.c.
 */
#include "pools.h"
#include "process.h"
#include "share.h"

struct allocation {
  CUmemoryPool pool;
  int gpu;
  uint64_t bytes, spare_bytes;
};

/* False: refused. Without an account the pool is null. */
static bool begin(struct allocation *allocation, CUmemoryPool pool, uint64_t bytes, CUstream stream) {
  const struct cg_driver *driver = cg_driver();
  *allocation = (struct allocation){.gpu = -1, .bytes = bytes};
  enum cg_region_state state = cg_region()->state;
  if (state == CG_REGION_NONE) return true;
  if (state == CG_REGION_BROKEN) return false;
  if (cg_capturing(stream)) return true;
  if (!pool) {
    struct cg_stream_scope scope;
    CUdevice device;
    cg_stream_enter(&scope, stream);
    if (driver->x_cuCtxGetDevice(&device) != CUDA_SUCCESS || driver->x_cuDeviceGetMemPool(&pool, device) != CUDA_SUCCESS)
      pool = NULL;
    cg_stream_leave(&scope);
  }
  allocation->gpu = cg_pool_gpu(pool);
  if (allocation->gpu < 0) return true;
  allocation->pool = pool;
  allocation->spare_bytes = bytes ? cg_pool_growth(pool, bytes) : 0;
  if (cg_try_reserve(allocation->gpu, allocation->spare_bytes) == CG_GRANTED) return true;
  if (cg_pool_keeps(pool)) cg_stream_wait(stream);
  return cg_reserve(allocation->gpu, allocation->spare_bytes) == CG_GRANTED;
}

static CUresult finish(const struct allocation *allocation, CUresult result, CUdeviceptr pointer) {
  if (!allocation->pool) return result;
  if (result == CUDA_SUCCESS) cg_pool_gave(allocation->pool, pointer, allocation->bytes);
  cg_pool_settle(allocation->pool, allocation->gpu, allocation->spare_bytes);
  return result;
}

CG_EXPORT CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
  CG_DRIVER(cuMemAllocAsync);
  struct allocation allocation;
  if (!begin(&allocation, NULL, bytesize, CG_NULL(hStream))) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuMemAllocAsync(dptr, bytesize, hStream);
  return finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0);
}

CG_EXPORT CUresult cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
  CG_DRIVER(cuMemAllocAsync_ptsz);
  struct allocation allocation;
  if (!begin(&allocation, NULL, bytesize, CG_PTSZ(hStream))) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuMemAllocAsync_ptsz(dptr, bytesize, hStream);
  return finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0);
}

CG_EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream) {
  CG_DRIVER(cuMemAllocFromPoolAsync);
  struct allocation allocation;
  if (pool && !begin(&allocation, pool, bytesize, CG_NULL(hStream))) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuMemAllocFromPoolAsync(dptr, bytesize, pool, hStream);
  return pool ? finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0) : result;
}

CG_EXPORT CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                                CUstream hStream) {
  CG_DRIVER(cuMemAllocFromPoolAsync_ptsz);
  struct allocation allocation;
  if (pool && !begin(&allocation, pool, bytesize, CG_PTSZ(hStream))) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuMemAllocFromPoolAsync_ptsz(dptr, bytesize, pool, hStream);
  return pool ? finish(&allocation, result, result == CUDA_SUCCESS ? *dptr : 0) : result;
}

/* A pool's block goes back to its pool, and nothing changes for the card; one of cuMemAlloc is freed
 * when the stream comes to it. */
static CUresult free_async(CUresult (*real)(CUdeviceptr, CUstream), CUdeviceptr pointer, CUstream given, CUstream stream) {
  struct cg_block block, export;
  if (!cg_is_tenant() || cg_capturing(stream)) return real(pointer, given);
  bool known = cg_block_take(CG_KIND_STOCKED, pointer, &block) || cg_block_take(CG_KIND_POINTER, pointer, &block) ||
               cg_block_take(CG_KIND_IMPORTED, pointer, &block);
  CUresult result = real(pointer, given);
  if (!known) return result;
  if (result != CUDA_SUCCESS) cg_block_add(&block);
  else if (block.kind == CG_KIND_IMPORTED) cg_export_leave(block.bytes);
  else if (block.kind == CG_KIND_STOCKED) cg_pool_took(&block, stream);
  else if (cg_block_find(CG_KIND_IPC, pointer, &export)) cg_exported_block_return(&block);
  else cg_free_deferred(&block, stream);
  return result;
}

CG_EXPORT CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
  CG_DRIVER(cuMemFreeAsync);
  return free_async(driver->cuMemFreeAsync, dptr, hStream, CG_NULL(hStream));
}

CG_EXPORT CUresult cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream) {
  CG_DRIVER(cuMemFreeAsync_ptsz);
  return free_async(driver->cuMemFreeAsync_ptsz, dptr, hStream, CG_PTSZ(hStream));
}

/* ---- pools themselves ---- */

/* A new pool holds nothing yet. Pools of host memory are the host's affair; a managed pool is charged
 * to the device that it prefers, or to the current one. */
CG_EXPORT CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps) {
  CG_DRIVER(cuMemPoolCreate);
  if (!cg_is_tenant() || !poolProps) {
    if (poolProps && cg_region()->state == CG_REGION_BROKEN) return CUDA_ERROR_OUT_OF_MEMORY;
    return driver->cuMemPoolCreate(pool, poolProps);
  }
  bool managed = poolProps->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED;
  int gpu = cg_gpu_of_location(&poolProps->location);
  if (managed && gpu < 0) gpu = cg_gpu_current();
  if (managed && cg_refuses_managed()) {
    cg_note_denied(gpu);
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  CUresult result = driver->cuMemPoolCreate(pool, poolProps);
  if (result != CUDA_SUCCESS) return result;
  cg_pool_note(*pool, gpu);
  if (gpu >= 0) cg_pool_settle(*pool, gpu, 0);
  return result;
}

CG_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  CG_DRIVER(cuMemPoolDestroy);
  if (!pool || !cg_is_tenant()) return driver->cuMemPoolDestroy(pool);
  uint64_t name = cg_pool_destroying(pool);
  CUresult result = driver->cuMemPoolDestroy(pool);
  cg_pool_destroyed(pool, name, result);
  return result;
}

CG_EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
  CG_DRIVER(cuMemPoolTrimTo);
  CUresult result = driver->cuMemPoolTrimTo(pool, minBytesToKeep);
  int gpu = result == CUDA_SUCCESS && cg_is_tenant() ? cg_pool_gpu(pool) : -1;
  if (gpu >= 0) cg_pool_settle(pool, gpu, 0);
  return result;
}

/* A lower release threshold may release memory; nothing that can be set makes a pool grow. */
CG_EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
  CG_DRIVER(cuMemPoolSetAttribute);
  CUresult result = driver->cuMemPoolSetAttribute(pool, attr, value);
  int gpu = result == CUDA_SUCCESS && cg_is_tenant() ? cg_pool_gpu(pool) : -1;
  if (gpu >= 0) cg_pool_settle(pool, gpu, 0);
  return result;
}

/* Which pool a device allocates from next: each pool is charged by itself, whichever that is. */
CG_EXPORT CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
  CG_DRIVER(cuDeviceSetMemPool);
  CUresult result = driver->cuDeviceSetMemPool(dev, pool);
  if (result == CUDA_SUCCESS && cg_is_tenant()) cg_pool_gpu(pool); /* takes note of it */
  return result;
}

CG_EXPORT CUresult cuMemPoolExportToShareableHandle(void *handle_out, CUmemoryPool pool,
                                                    CUmemAllocationHandleType handleType, unsigned long long flags) {
  CG_DRIVER(cuMemPoolExportToShareableHandle);
  CUresult result = driver->cuMemPoolExportToShareableHandle(handle_out, pool, handleType, flags);
  if (result != CUDA_SUCCESS || !cg_is_tenant()) return result;
  uint64_t digest = cg_digest_shareable(handle_out, handleType, false);
  cg_export_offer(digest, (uint64_t)(uintptr_t)pool, cg_shareable_descriptor(handle_out, handleType));
  cg_pool_shared(pool, digest);
  return result;
}

CG_EXPORT CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool *pool_out, void *handle,
                                                      CUmemAllocationHandleType handleType, unsigned long long flags) {
  CG_DRIVER(cuMemPoolImportFromShareableHandle);
  uint64_t digest = cg_digest_shareable(handle, handleType, true);
  if (!cg_export_open(digest)) {
    cg_note_denied(cg_gpu_current());
    return CUDA_ERROR_INVALID_VALUE;
  }
  CUresult result = driver->cuMemPoolImportFromShareableHandle(pool_out, handle, handleType, flags);
  if (result == CUDA_SUCCESS && cg_is_tenant()) {
    cg_pool_note(*pool_out, CG_UNCHARGED_GPU); /* the exporter is charged */
    cg_pool_shared(*pool_out, digest);
  } else {
    cg_export_leave(digest);
  }
  return result;
}

/* A block of another process's pool, known by what is handed over. Its memory outlives its exporter's
 * free while others have it; see pools.c. */
CG_EXPORT CUresult cuMemPoolImportPointer(CUdeviceptr *ptr_out, CUmemoryPool pool, CUmemPoolPtrExportData *shareData) {
  CG_DRIVER(cuMemPoolImportPointer);
  if (!cg_is_tenant() || !shareData) return driver->cuMemPoolImportPointer(ptr_out, pool, shareData);
  uint64_t digest = cg_digest(shareData, sizeof *shareData);
  if (!cg_export_open(digest)) {
    cg_note_denied(cg_gpu_current());
    return CUDA_ERROR_INVALID_VALUE;
  }
  CUresult result = driver->cuMemPoolImportPointer(ptr_out, pool, shareData);
  if (result != CUDA_SUCCESS) {
    cg_export_leave(digest);
    return result;
  }
  struct cg_block import = {.key = *ptr_out, .bytes = digest, .kind = CG_KIND_IMPORTED, .references = 1};
  driver->x_cuCtxGetCurrent(&import.context);
  cg_block_add(&import);
  return result;
}

CG_EXPORT CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr) {
  CG_DRIVER(cuMemPoolExportPointer);
  CUresult result = driver->cuMemPoolExportPointer(shareData_out, ptr);
  if (result != CUDA_SUCCESS || !cg_is_tenant()) return result;
  if (cg_block_add(&(struct cg_block){.key = ptr, .kind = CG_KIND_IPC}))
    cg_export_offer(cg_digest(shareData_out, sizeof *shareData_out), ptr, -1);
  return result;
}

/* hooks_vmm.c - physical memory by the handle, mapped where the program likes.
 *
 * It lives, and stays charged, until every reference is gone: the handle as created, each time it was
 * retained, each mapping, and what other processes have imported. The driver guarantees that
 * retaining by address gives the same handle value, so the handle names the memory.
 */
#include "process.h"
#include "share.h"

/* A row of the table of physical memory, by handle: bytes; references:56 | gpu:8; of imported memory,
 * which has UNCHARGED for its gpu because the exporter is charged, the digest; of other memory, whether
 * it was exported. */
enum { BYTES, STATE, SHARED };
#define UNCHARGED 0xffu
#define REFERENCE 0x100u

/* A row of the table of mappings, by first address. */
enum { HANDLE, SIZE };

static void remember(CUmemGenericAllocationHandle handle, uint64_t bytes, unsigned gpu, uint64_t shared) {
  struct cg_process *process = cg_process();
  struct cg_row row = {handle, {bytes, REFERENCE | gpu, shared}};
  cg_lock_take(&process->physical_lock);
  cg_table_put(&process->physical, &row); /* without memory for it: charged for good */
  cg_lock_give(&process->physical_lock);
}

/* With physical_lock held. The row as it was is left in `gone` when this was the last reference. */
static void drop_reference(struct cg_process *process, uint64_t handle, struct cg_row *gone) {
  struct cg_row *row = cg_table_find(&process->physical, handle);
  if (!row) return;
  row->value[STATE] -= REFERENCE;
  if (row->value[STATE] >= REFERENCE) return;
  *gone = *row;
  cg_table_remove(&process->physical, row);
}

static bool add_reference(uint64_t handle) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->physical_lock);
  struct cg_row *row = cg_table_find(&process->physical, handle);
  if (row) row->value[STATE] += REFERENCE;
  cg_lock_give(&process->physical_lock);
  return row != NULL;
}

static void release(const struct cg_row *gone) {
  if (!gone->key) return;
  unsigned gpu = gone->value[STATE] & 0xff;
  if (gpu == UNCHARGED) cg_export_leave(gone->value[SHARED]);
  else cg_exported_return((int)gpu, gone->value[BYTES], gone->key, gone->value[SHARED]);
}

CG_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                               unsigned long long flags) {
  CG_DRIVER(cuMemCreate);
  int gpu = prop ? cg_gpu_of_location(&prop->location) : -1;
  enum cg_verdict verdict = cg_reserve(gpu, size); /* the driver takes multiples of its granularity only */
  if (verdict == CG_REFUSED) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuMemCreate(handle, size, prop, flags);
  if (verdict != CG_GRANTED) return result;
  if (result == CUDA_SUCCESS) remember(*handle, size, (unsigned)gpu, 0);
  else cg_return(gpu, size);
  return result;
}

/* The reference is dropped before the call and taken again if it fails: right after the call another
 * thread may be given the same handle. */
CG_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  CG_DRIVER(cuMemRelease);
  struct cg_process *process = cg_process();
  struct cg_row gone = {0};
  cg_lock_take(&process->physical_lock);
  drop_reference(process, handle, &gone);
  cg_lock_give(&process->physical_lock);
  CUresult result = driver->cuMemRelease(handle);
  if (result == CUDA_SUCCESS) {
    release(&gone);
  } else if (gone.key) {
    cg_lock_take(&process->physical_lock);
    gone.value[STATE] += REFERENCE;
    cg_table_put(&process->physical, &gone);
    cg_lock_give(&process->physical_lock);
  } else {
    add_reference(handle);
  }
  return result;
}

CG_EXPORT CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                            unsigned long long flags) {
  CG_DRIVER(cuMemMap);
  bool known = add_reference(handle); /* before: another thread may release the handle at once after */
  CUresult result = driver->cuMemMap(ptr, size, offset, handle, flags);
  if (!known) return result;
  struct cg_process *process = cg_process();
  struct cg_row gone = {0}, mapping = {ptr, {handle, size, 0}};
  cg_lock_take(&process->physical_lock);
  if (result != CUDA_SUCCESS) drop_reference(process, handle, &gone);
  else cg_table_put(&process->mappings, &mapping);
  cg_lock_give(&process->physical_lock);
  release(&gone);
  return result;
}

/* A range may hold several mappings, one after another; all of them go. */
CG_EXPORT CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) {
  CG_DRIVER(cuMemUnmap);
  struct cg_process *process = cg_process();
  struct cg_table taken = {0};
  cg_lock_take(&process->physical_lock);
  for (CUdeviceptr at = ptr; at - ptr < size;) {
    struct cg_row *mapping = cg_table_find(&process->mappings, at);
    if (!mapping) break;
    at += mapping->value[SIZE];
    if (!cg_table_put(&taken, mapping)) break;
    cg_table_remove(&process->mappings, mapping);
  }
  cg_lock_give(&process->physical_lock);
  CUresult result = driver->cuMemUnmap(ptr, size);
  for (size_t i = 0; i < taken.capacity; i++) {
    struct cg_row gone = {0};
    if (!taken.rows[i].key) continue;
    cg_lock_take(&process->physical_lock);
    if (result == CUDA_SUCCESS) drop_reference(process, taken.rows[i].value[HANDLE], &gone);
    else cg_table_put(&process->mappings, &taken.rows[i]);
    cg_lock_give(&process->physical_lock);
    release(&gone);
  }
  cg_table_clear(&taken);
  return result;
}

/* ---- what is bound to sparse arrays and multicast objects ----
 *
 * These hold physical memory past its release and its unmapping, until they end or something else is
 * bound, which the driver alone can follow. What was ever bound stays charged while its process lives. */

static void unbind(uint64_t handle) {
  struct cg_process *process = cg_process();
  struct cg_row gone = {0};
  cg_lock_take(&process->physical_lock);
  drop_reference(process, handle, &gone);
  cg_lock_give(&process->physical_lock);
  release(&gone);
}

static CUresult bound(bool known, uint64_t handle, CUresult result) {
  if (known && result != CUDA_SUCCESS) unbind(handle);
  return result;
}

static bool binds(const CUarrayMapInfo *map) {
  return map->memOperationType == CU_MEM_OPERATION_TYPE_MAP && map->memHandleType == CU_MEM_HANDLE_TYPE_GENERIC;
}

typedef CUresult map_arrays_function(CUarrayMapInfo *, unsigned int, CUstream);

static CUresult map_arrays(map_arrays_function *real, CUarrayMapInfo *maps, unsigned count, CUstream stream) {
  for (unsigned i = 0; maps && i < count; i++) {
    if (binds(&maps[i])) add_reference(maps[i].memHandle.memHandle);
  }
  CUresult result = real(maps, count, stream);
  for (unsigned i = 0; maps && i < count && result != CUDA_SUCCESS; i++) {
    if (binds(&maps[i])) unbind(maps[i].memHandle.memHandle);
  }
  return result;
}

CG_EXPORT CUresult cuMemMapArrayAsync(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream) {
  CG_DRIVER(cuMemMapArrayAsync);
  return map_arrays(driver->cuMemMapArrayAsync, mapInfoList, count, hStream);
}

CG_EXPORT CUresult cuMemMapArrayAsync_ptsz(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream) {
  CG_DRIVER(cuMemMapArrayAsync_ptsz);
  return map_arrays(driver->cuMemMapArrayAsync_ptsz, mapInfoList, count, hStream);
}

CG_EXPORT CUresult cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                      CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
                                      unsigned long long flags) {
  CG_DRIVER(cuMulticastBindMem);
  bool known = add_reference(memHandle);
  return bound(known, memHandle, driver->cuMulticastBindMem(mcHandle, mcOffset, memHandle, memOffset, size, flags));
}

CG_EXPORT CUresult cuMulticastBindMem_v2(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset,
                                         CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
                                         unsigned long long flags) {
  CG_DRIVER(cuMulticastBindMem_v2);
  bool known = add_reference(memHandle);
  return bound(known, memHandle,
               driver->cuMulticastBindMem_v2(mcHandle, dev, mcOffset, memHandle, memOffset, size, flags));
}

/* The handle that is mapped at an address, 0 if none of ours is. Looks at every mapping: binding by
 * address is done a few times in a program's life. */
static uint64_t handle_at(CUdeviceptr address) {
  struct cg_process *process = cg_process();
  uint64_t handle = 0;
  cg_lock_take(&process->physical_lock);
  for (size_t i = 0; i < process->mappings.capacity && !handle; i++) {
    const struct cg_row *mapping = &process->mappings.rows[i];
    if (mapping->key && address - mapping->key < mapping->value[SIZE]) handle = mapping->value[HANDLE];
  }
  cg_lock_give(&process->physical_lock);
  return handle;
}

CG_EXPORT CUresult cuMulticastBindAddr(CUmemGenericAllocationHandle mcHandle, size_t mcOffset, CUdeviceptr memptr,
                                       size_t size, unsigned long long flags) {
  CG_DRIVER(cuMulticastBindAddr);
  uint64_t handle = handle_at(memptr);
  bool known = handle && add_reference(handle);
  return bound(known, handle, driver->cuMulticastBindAddr(mcHandle, mcOffset, memptr, size, flags));
}

CG_EXPORT CUresult cuMulticastBindAddr_v2(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset,
                                          CUdeviceptr memptr, size_t size, unsigned long long flags) {
  CG_DRIVER(cuMulticastBindAddr_v2);
  uint64_t handle = handle_at(memptr);
  bool known = handle && add_reference(handle);
  return bound(known, handle, driver->cuMulticastBindAddr_v2(mcHandle, dev, mcOffset, memptr, size, flags));
}

CG_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr) {
  CG_DRIVER(cuMemRetainAllocationHandle);
  CUresult result = driver->cuMemRetainAllocationHandle(handle, addr);
  if (result == CUDA_SUCCESS) add_reference(*handle);
  return result;
}

CG_EXPORT CUresult cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                                                CUmemAllocationHandleType handleType, unsigned long long flags) {
  CG_DRIVER(cuMemExportToShareableHandle);
  CUresult result = driver->cuMemExportToShareableHandle(shareableHandle, handle, handleType, flags);
  if (result != CUDA_SUCCESS || !cg_is_tenant()) return result;
  struct cg_process *process = cg_process();
  uint64_t digest = cg_digest_shareable(shareableHandle, handleType, false);
  cg_lock_take(&process->physical_lock);
  struct cg_row *row = cg_table_find(&process->physical, handle);
  bool own = row && (row->value[STATE] & 0xff) != UNCHARGED;
  if (own) row->value[SHARED] = true;
  cg_lock_give(&process->physical_lock);
  if (own) cg_export_offer(digest, handle, cg_shareable_descriptor(shareableHandle, handleType));
  return result;
}

/* Within the tenant the exporter is charged; what no process of the tenant has offered is not its to
 * open, and gets the driver's answer to a handle that it does not know. */
CG_EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle,
                                                  CUmemAllocationHandleType shHandleType) {
  CG_DRIVER(cuMemImportFromShareableHandle);
  uint64_t digest = cg_digest_shareable(osHandle, shHandleType, true);
  if (!cg_export_open(digest)) {
    cg_note_denied(cg_gpu_current());
    return CUDA_ERROR_INVALID_VALUE;
  }
  CUresult result = driver->cuMemImportFromShareableHandle(handle, osHandle, shHandleType);
  if (result != CUDA_SUCCESS) cg_export_leave(digest);
  else if (cg_is_tenant() && !add_reference(*handle)) remember(*handle, 0, UNCHARGED, digest);
  return result;
}

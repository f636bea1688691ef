/* hooks_share.c - memory of other owners: legacy IPC, and what comes from outside CUDA.
 *
 * How each of these is charged:
 *   cuIpcOpenMemHandle, _v2    to the exporter, if that is a process of this tenant; otherwise refused
 *   cuImportExternalMemory     not: the memory is that of the graphics driver or another allocator,
 *                              which the agent sees as overhead of the process that made it
 *   cuExternalMemoryGetMapped* not: addresses of what was imported
 *   cuMulticastCreate          not: an object without memory of its own; what is bound to it has been
 *                              charged by cuMemCreate or cuMemAlloc
 *   cuCheckpointProcessRestore not: a checkpoint leaves the charges of its process in place, so what a
 *                              restore brings back onto the card is still charged
 */
#include "share.h"

CG_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr) {
  CG_DRIVER(cuIpcGetMemHandle);
  CUresult result = driver->cuIpcGetMemHandle(pHandle, dptr);
  if (result != CUDA_SUCCESS || !cg_is_tenant()) return result;
  /* The handle is of the whole block; a pointer into it names the same. */
  CUdeviceptr base = dptr;
  size_t size;
  if (driver->x_cuMemGetAddressRange_v2(&base, &size, dptr) != CUDA_SUCCESS) base = dptr;
  if (cg_block_add(&(struct cg_block){.key = base, .kind = CG_KIND_IPC}))
    cg_export_offer(cg_digest(pHandle, sizeof *pHandle), base, -1);
  return result;
}

/* What no living process of the tenant has exported gets the driver's answer to a stale handle. */
static CUresult open_block(CUresult (*real)(CUdeviceptr *, CUipcMemHandle, unsigned int), CUdeviceptr *pointer,
                           CUipcMemHandle handle, unsigned int flags) {
  if (!cg_is_tenant()) return real(pointer, handle, flags);
  uint64_t digest = cg_digest(&handle, sizeof handle);
  if (!cg_export_open(digest)) {
    cg_note_denied(cg_gpu_current());
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUresult result = real(pointer, handle, flags);
  if (result != CUDA_SUCCESS) {
    cg_export_leave(digest);
  } else if (cg_block_count(CG_KIND_IMPORTED, *pointer, 1) < 0) { /* opened again, it is the same address */
    struct cg_block import = {.key = *pointer, .bytes = digest, .kind = CG_KIND_IMPORTED, .references = 1};
    cg_driver()->x_cuCtxGetCurrent(&import.context);
    cg_block_add(&import);
  }
  return result;
}

CG_EXPORT CUresult cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
  CG_DRIVER(cuIpcOpenMemHandle);
  return open_block(driver->cuIpcOpenMemHandle, pdptr, handle, Flags);
}

CG_EXPORT CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
  CG_DRIVER(cuIpcOpenMemHandle_v2);
  return open_block(driver->cuIpcOpenMemHandle_v2, pdptr, handle, Flags);
}

CG_EXPORT CUresult cuIpcCloseMemHandle(CUdeviceptr dptr) {
  CG_DRIVER(cuIpcCloseMemHandle);
  struct cg_block import;
  bool known = cg_block_find(CG_KIND_IMPORTED, dptr, &import);
  CUresult result = driver->cuIpcCloseMemHandle(dptr);
  if (!known || result != CUDA_SUCCESS) return result;
  cg_block_count(CG_KIND_IMPORTED, dptr, -1);
  cg_export_leave(import.bytes);
  return result;
}

CG_EXPORT CUresult cuImportExternalMemory(CUexternalMemory *extMem_out, const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *memHandleDesc) {
  CG_DRIVER(cuImportExternalMemory);
  return driver->cuImportExternalMemory(extMem_out, memHandleDesc);
}

CG_EXPORT CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr *devPtr, CUexternalMemory extMem,
                                                   const CUDA_EXTERNAL_MEMORY_BUFFER_DESC *bufferDesc) {
  CG_DRIVER(cuExternalMemoryGetMappedBuffer);
  return driver->cuExternalMemoryGetMappedBuffer(devPtr, extMem, bufferDesc);
}

CG_EXPORT CUresult cuExternalMemoryGetMappedMipmappedArray(CUmipmappedArray *mipmap, CUexternalMemory extMem,
                                                           const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC *mipmapDesc) {
  CG_DRIVER(cuExternalMemoryGetMappedMipmappedArray);
  return driver->cuExternalMemoryGetMappedMipmappedArray(mipmap, extMem, mipmapDesc);
}

CG_EXPORT CUresult cuMulticastCreate(CUmemGenericAllocationHandle *mcHandle, const CUmulticastObjectProp *prop) {
  CG_DRIVER(cuMulticastCreate);
  return driver->cuMulticastCreate(mcHandle, prop);
}

CG_EXPORT CUresult cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs *args) {
  CG_DRIVER(cuCheckpointProcessRestore);
  return driver->cuCheckpointProcessRestore(pid, args);
}

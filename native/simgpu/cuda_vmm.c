/* cuda_vmm.c - handles of physical memory: create, retain, release, export and import. */
#include "cuda_vmm.h"

#include <search.h>
#include <stdlib.h>

#include "cuda_share.h"

static pthread_mutex_t vmm_mutex = PTHREAD_MUTEX_INITIALIZER;
static void *physicals; /* search.h tree of struct vmm_physical by address, guarded by vmm_mutex */

void vmm_lock(void) { pthread_mutex_lock(&vmm_mutex); }
void vmm_unlock(void) { pthread_mutex_unlock(&vmm_mutex); }

static int compare_pointers(const void *left, const void *right) {
  return (uintptr_t)left < (uintptr_t)right ? -1 : (uintptr_t)left > (uintptr_t)right;
}

struct vmm_physical *vmm_physical_of(CUmemGenericAllocationHandle handle) {
  struct vmm_physical *key = (struct vmm_physical *)(uintptr_t)handle;
  if (tfind(key, &physicals, compare_pointers) == NULL || key->handles == 0)
    return NULL;
  return key;
}

void vmm_end_if_unused(struct vmm_physical *physical) {
  if (physical->handles != 0 || physical->mappings != 0 || physical->exports != 0)
    return;
  tdelete(physical, &physicals, compare_pointers);
  sg_phys_release(physical->object);
  physical->magic = 0;
  free(physical);
}

/* Takes over the reference to the object; on failure it is given back. */
static CUresult publish(sg_phys object, int card, uint64_t bytes, const CUmemAllocationProp *properties,
                        CUmemGenericAllocationHandle *handle) {
  struct vmm_physical *physical = calloc(1, sizeof *physical);
  if (physical) {
    *physical = (struct vmm_physical){
        .magic = SIM_MAGIC_PHYSICAL, .object = object, .bytes = bytes, .card = card, .properties = *properties, .handles = 1};
    vmm_lock();
    void *entered = tsearch(physical, &physicals, compare_pointers);
    vmm_unlock();
    if (entered) {
      *handle = vmm_handle_of(physical);
      return CUDA_SUCCESS;
    }
  }
  free(physical);
  sg_phys_release(object);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

/* Pinned memory of one device, exportable as a descriptor or not at all. */
static CUresult check_properties(const CUmemAllocationProp *properties, int *card) {
  if (properties == NULL || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED || properties->win32HandleMetaData != NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if ((properties->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return properties->location.type == CU_MEM_LOCATION_TYPE_INVALID ? CUDA_ERROR_INVALID_VALUE
                                                                     : CUDA_ERROR_NOT_SUPPORTED;
  CUresult result = sim_device_card(properties->location.id, card);
  return result;
}

CUresult CUDAAPI cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                               CUmemAllocationGranularity_flags option) {
  int card;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (granularity == NULL ||
      (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM && option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
    return CUDA_ERROR_INVALID_VALUE;
  result = check_properties(prop, &card);
  if (result == CUDA_SUCCESS)
    *granularity = SG_GRANULE_BYTES;
  return result;
}

/* The size must be a multiple of the granularity: nothing is rounded here. */
CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                             unsigned long long flags) {
  int card;
  sg_phys object;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (handle == NULL || flags != 0 || size == 0 || size % SG_GRANULE_BYTES != 0)
    return CUDA_ERROR_INVALID_VALUE;
  result = check_properties(prop, &card);
  if (result != CUDA_SUCCESS)
    return result;
  sg_fault_point(card);
  result = sim_result(sg_phys_create(card, size, &object));
  if (result != CUDA_SUCCESS)
    return result;
  CUmemAllocationProp granted = *prop;
  granted.allocFlags.compressionType = CU_MEM_ALLOCATION_COMP_NONE; /* a hint that is not followed */
  return publish(object, card, size, &granted, handle);
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  vmm_lock();
  struct vmm_physical *physical = vmm_physical_of(handle);
  if (physical) {
    physical->handles--;
    vmm_end_if_unused(physical);
  }
  vmm_unlock();
  return physical ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Any address inside a mapping will do. The handle is released separately, also when it is the same. */
CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (handle == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  vmm_lock();
  struct vmm_physical *physical = vmm_mapped_at((uint64_t)(uintptr_t)addr);
  if (physical) {
    physical->handles++;
    *handle = vmm_handle_of(physical);
  }
  vmm_unlock();
  return physical ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (prop == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  vmm_lock();
  const struct vmm_physical *physical = vmm_physical_of(handle);
  if (physical)
    *prop = physical->properties;
  vmm_unlock();
  return physical ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- other processes ---- */

static void export_closed(void *argument) {
  struct vmm_physical *physical = argument;
  vmm_lock();
  physical->exports--;
  vmm_end_if_unused(physical);
  vmm_unlock();
}

CUresult CUDAAPI cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                                              CUmemAllocationHandleType handleType, unsigned long long flags) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (shareableHandle == NULL || flags != 0 || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return CUDA_ERROR_INVALID_VALUE;
  result = CUDA_ERROR_INVALID_VALUE;
  vmm_lock();
  struct vmm_physical *physical = vmm_physical_of(handle);
  if (physical && (physical->properties.requestedHandleTypes & handleType) != 0) {
    const struct sim_share record = {
        .kind = SIM_SHARE_PHYSICAL, .card = physical->card, .object = physical->object, .bytes = physical->bytes};
    physical->exports++;
    int descriptor = sim_share_export(&record, export_closed, physical);
    if (descriptor >= 0)
      *(int *)shareableHandle = descriptor;
    else
      physical->exports--;
    result = descriptor >= 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
  }
  vmm_unlock();
  return result;
}

CUresult CUDAAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle,
                                                CUmemAllocationHandleType shHandleType) {
  struct sim_share record;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (handle == NULL || shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
      !sim_share_import((int)(intptr_t)osHandle, SIM_SHARE_PHYSICAL, &record))
    return CUDA_ERROR_INVALID_VALUE;
  const CUdevice device = sim_card_device(record.card);
  if (device < 0)
    return CUDA_ERROR_INVALID_DEVICE;
  if (sg_phys_retain(record.object) != SG_OK)
    return CUDA_ERROR_INVALID_VALUE; /* gone: no process holds it any more */
  const CUmemAllocationProp properties = {
      .type = CU_MEM_ALLOCATION_TYPE_PINNED,
      .requestedHandleTypes = shHandleType,
      .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
  };
  return publish(record.object, record.card, record.bytes, &properties, handle);
}

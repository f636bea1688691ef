/* cuda_pointer.c - what the driver knows about an address. */
#include "cuda_internal.h"

#include <string.h>

#include "cuda_process.h"

static bool is_host(const struct sim_block *block) {
  return block->kind == SIM_MEMORY_HOST || block->kind == SIM_MEMORY_REGISTERED;
}

/* A copy of the block around the address; INVALID_VALUE when the driver does not know it. */
static CUresult find(CUdeviceptr address, struct sim_block *copy) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  const struct sim_block *block = sim_block_find(address);
  bool known = block && block->kind != SIM_MEMORY_ARRAY;
  if (known)
    *copy = *block;
  sim_unlock();
  return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr) {
  struct sim_block block;
  CUresult result = find(dptr, &block);
  if (result == CUDA_ERROR_INVALID_VALUE)
    return CUDA_ERROR_NOT_FOUND;
  if (result != CUDA_SUCCESS)
    return result;
  if (pbase)
    *pbase = block.address;
  if (psize)
    *psize = block.bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange(CUdeviceptr_v1 *pbase, unsigned int *psize, CUdeviceptr_v1 dptr) {
  CUdeviceptr base;
  size_t size;
  CUresult result = cuMemGetAddressRange_v2(&base, &size, dptr);
  if (result != CUDA_SUCCESS)
    return result;
  if (pbase)
    *pbase = (CUdeviceptr_v1)base;
  if (psize)
    *psize = (unsigned)size;
  return CUDA_SUCCESS;
}

/* ---- attributes: each is a value of its own size ---- */

static CUresult put(void *data, const void *value, size_t bytes) {
  memcpy(data, value, bytes);
  return CUDA_SUCCESS;
}

static CUresult put_bool(void *data, bool value) { return put(data, &value, sizeof value); }
static CUresult put_int(void *data, int value) { return put(data, &value, sizeof value); }
static CUresult put_u64(void *data, uint64_t value) { return put(data, &value, sizeof value); }

static CUdevice device_of(const struct sim_block *block) {
  if (block->card >= 0)
    return sim_card_device(block->card);
  return block->context ? block->context->device : CU_DEVICE_INVALID;
}

static CUresult host_pointer(void *data, const struct sim_block *block, CUdeviceptr address) {
  if (!is_host(block) && block->kind != SIM_MEMORY_MANAGED)
    return CUDA_ERROR_INVALID_VALUE;
  return put_u64(data, address);
}

static unsigned access_flags(const struct sim_block *block) {
  if (!block->accessible)
    return CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE;
  return block->read_only ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
}

static CUresult get(void *data, CUpointer_attribute attribute, const struct sim_block *block, CUdeviceptr address) {
  switch (attribute) {
  case CU_POINTER_ATTRIBUTE_CONTEXT:
    return block->context ? put(data, &block->context, sizeof block->context) : CUDA_ERROR_INVALID_VALUE;
  case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    return put_int(data, is_host(block) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
  case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    return put_u64(data, address);
  case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    return host_pointer(data, block, address);
  case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    return put_bool(data, block->sync_memops);
  case CU_POINTER_ATTRIBUTE_BUFFER_ID:
  case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
    return put_u64(data, block->buffer_id);
  case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    return put_bool(data, block->kind == SIM_MEMORY_MANAGED);
  case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    return put_int(data, device_of(block));
  case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    return put_bool(data, block->kind == SIM_MEMORY_DEVICE);
  case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
  case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    return put_u64(data, block->address);
  case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
  case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    return put_u64(data, block->bytes);
  case CU_POINTER_ATTRIBUTE_MAPPED:
    return put_bool(data, true);
  case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    return put_u64(data, block->kind == SIM_MEMORY_MAPPED ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0);
  case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
  case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
    return put_bool(data, false);
  case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
    return put_int(data, (int)access_flags(block));
  case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    return put_u64(data, block->kind == SIM_MEMORY_POOL ? (uint64_t)(uintptr_t)block->owner : 0);
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr) {
  struct sim_block block;
  CUresult result = find(ptr, &block);
  if (result != CUDA_SUCCESS)
    return result;
  return data ? get(data, attribute, &block, ptr) : CUDA_ERROR_INVALID_VALUE;
}

/* Unlike the single query this one succeeds for unknown addresses, with zeros (cuda.h). */
static void get_default(void *data, CUpointer_attribute attribute) {
  switch (attribute) {
  case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    put_int(data, CU_DEVICE_INVALID);
    break;
  case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
  case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
    put_int(data, 0);
    break;
  case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
  case CU_POINTER_ATTRIBUTE_IS_MANAGED:
  case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
  case CU_POINTER_ATTRIBUTE_MAPPED:
  case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
  case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
    put_bool(data, false);
    break;
  default:
    put_u64(data, 0);
  }
}

CUresult cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes, void **data,
                                CUdeviceptr ptr) {
  struct sim_block block;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!numAttributes || !attributes || !data)
    return CUDA_ERROR_INVALID_VALUE;
  bool known = find(ptr, &block) == CUDA_SUCCESS;
  for (unsigned i = 0; i < numAttributes; i++) {
    if (!data[i] || attributes[i] < CU_POINTER_ATTRIBUTE_CONTEXT ||
        attributes[i] > CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL || attributes[i] == CU_POINTER_ATTRIBUTE_P2P_TOKENS)
      return CUDA_ERROR_INVALID_VALUE;
    if (!known || get(data[i], attributes[i], &block, ptr) != CUDA_SUCCESS)
      get_default(data[i], attributes[i]);
  }
  return CUDA_SUCCESS;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr ptr) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!value || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
    return CUDA_ERROR_INVALID_VALUE;
  sim_lock();
  struct sim_block *block = sim_block_find(ptr);
  if (block)
    block->sync_memops = *(const unsigned *)value != 0;
  sim_unlock();
  return block ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

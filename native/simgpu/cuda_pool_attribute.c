/* cuda_pool_attribute.c - attributes of memory pools, and which devices may reach their memory. */
#include "cuda_pool.h"

static CUresult lock_pool(CUmemoryPool pool) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  pool_lock();
  result = pool_check(pool);
  if (result != CUDA_SUCCESS)
    pool_unlock();
  return result;
}

static CUresult set_attribute(CUmemoryPool pool, CUmemPool_attribute attribute, const void *value) {
  switch (attribute) {
  case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    pool->follow_events = *(const int *)value != 0;
    return CUDA_SUCCESS;
  case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    pool->opportunistic = *(const int *)value != 0;
    return CUDA_SUCCESS;
  case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
    pool->internal_dependencies = *(const int *)value != 0;
    return CUDA_SUCCESS;
  case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
    pool->release_threshold = *(const cuuint64_t *)value;
    return CUDA_SUCCESS;
  case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: /* only the reset to the current value is allowed */
    if (*(const cuuint64_t *)value != 0)
      return CUDA_ERROR_INVALID_VALUE;
    pool->reserved_high = pool->reserved;
    return CUDA_SUCCESS;
  case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
    if (*(const cuuint64_t *)value != 0)
      return CUDA_ERROR_INVALID_VALUE;
    pool->used_high = pool->used;
    return CUDA_SUCCESS;
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

/* The types are those that cuda.h gives with each attribute. */
static CUresult get_attribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
  int *flag = value;
  cuuint64_t *amount = value;
  switch (attribute) {
  case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES: *flag = pool->follow_events; break;
  case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC: *flag = pool->opportunistic; break;
  case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES: *flag = pool->internal_dependencies; break;
  case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *amount = pool->release_threshold; break;
  case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: *amount = pool->reserved; break;
  case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: *amount = pool->reserved_high; break;
  case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *amount = pool->used; break;
  case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *amount = pool->used_high; break;
  case CU_MEMPOOL_ATTR_ALLOCATION_TYPE: *(CUmemAllocationType *)value = pool->properties.allocType; break;
  case CU_MEMPOOL_ATTR_EXPORT_HANDLE_TYPES: *(CUmemAllocationHandleType *)value = pool->properties.handleTypes; break;
  case CU_MEMPOOL_ATTR_LOCATION_ID: *flag = pool->properties.location.id; break;
  case CU_MEMPOOL_ATTR_LOCATION_TYPE: *(CUmemLocationType *)value = pool->properties.location.type; break;
  case CU_MEMPOOL_ATTR_MAX_POOL_SIZE: *amount = pool->properties.maxSize; break;
  case CU_MEMPOOL_ATTR_HW_DECOMPRESS_ENABLED: *flag = 0; break;
  default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
  if (value == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = lock_pool(pool);
  if (result != CUDA_SUCCESS)
    return result;
  result = pool->imported ? CUDA_ERROR_INVALID_VALUE : set_attribute(pool, attr, value);
  pool_unlock();
  return result;
}

CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
  if (value == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = lock_pool(pool);
  if (result != CUDA_SUCCESS)
    return result;
  result = get_attribute(pool, attr, value);
  pool_unlock();
  return result;
}

/* One row of cuMemPoolSetAccess; the pool's own device always has access. */
static CUresult set_access(CUmemoryPool pool, const CUmemAccessDesc *row) {
  int card;
  if (row->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_device_card(row->location.id, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (card == pool->card)
    return row->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  const uint32_t bit = 1u << card;
  pool->access &= ~bit;
  pool->read_only_access &= ~bit;
  switch (row->flags) {
  case CU_MEM_ACCESS_FLAGS_PROT_NONE: return CUDA_SUCCESS;
  case CU_MEM_ACCESS_FLAGS_PROT_READ: pool->read_only_access |= bit; return CUDA_SUCCESS;
  case CU_MEM_ACCESS_FLAGS_PROT_READWRITE: pool->access |= bit; return CUDA_SUCCESS;
  default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult CUDAAPI cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
  if (map == NULL || count == 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = lock_pool(pool);
  if (result != CUDA_SUCCESS)
    return result;
  for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
    result = set_access(pool, &map[i]);
  pool_unlock();
  return result;
}

CUresult CUDAAPI cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool, CUmemLocation *location) {
  int card;
  if (flags == NULL || location == NULL || location->type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_device_card(location->id, &card);
  if (result == CUDA_SUCCESS)
    result = lock_pool(memPool);
  if (result != CUDA_SUCCESS)
    return result;
  const uint32_t bit = 1u << card;
  if (card == memPool->card || (memPool->access & bit) != 0)
    *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  else
    *flags = (memPool->read_only_access & bit) != 0 ? CU_MEM_ACCESS_FLAGS_PROT_READ : CU_MEM_ACCESS_FLAGS_PROT_NONE;
  pool_unlock();
  return result;
}

/* cuda_memory.c - device and managed memory of a context, and how much there is. */
#include "cuda_internal.h"

#include <stdlib.h>

#include "cuda_process.h"

#define OWN_GRANULES_FROM (1u << 20) /* smaller blocks share a slab */
#define PITCH_ALIGNMENT 512

static uint64_t taken(uint64_t bytes) {
  return (bytes + SG_GRANULE_BYTES - 1) / SG_GRANULE_BYTES * SG_GRANULE_BYTES;
}

/* ---- allocation ---- */

static CUresult find_memory(struct sim_block *block, bool low) {
  CUcontext context = block->context;
  bool managed = block->kind == SIM_MEMORY_MANAGED;
  if (low)
    return sim_segment_create_low(context->card, block->bytes, &block->object, &block->address);
  if (managed)
    return sim_segment_create_managed(context->card, block->bytes, &block->object, &block->address);
  if (block->bytes >= OWN_GRANULES_FROM)
    return sim_segment_create(context->card, block->bytes, false, &block->object, &block->address);
  CUresult result = sim_slab_take(context, block->bytes, &block->slab, &block->address);
  if (result == CUDA_SUCCESS)
    block->object = sim_slab_object(block->slab, block->address, &block->offset);
  return result;
}

static void give_memory_back(struct sim_block *block) {
  if (block->slab)
    sim_slab_give(block->slab, block->address, block->bytes);
  else
    sim_segment_destroy(block->object, block->address, taken(block->bytes));
}

static CUresult allocate(CUcontext context, uint64_t bytes, enum sim_memory kind, bool low, struct sim_block **out) {
  struct sim_block *block = calloc(1, sizeof *block);
  if (!block)
    return CUDA_ERROR_OUT_OF_MEMORY;
  block->bytes = bytes;
  block->kind = kind;
  block->card = context->card;
  block->context = context;
  block->accessible = true;
  block->preferred.type = block->prefetched.type = CU_MEM_LOCATION_TYPE_INVALID;
  CUresult result = bytes > sg_card(context->card)->total_bytes ? CUDA_ERROR_OUT_OF_MEMORY : find_memory(block, low);
  if (result == CUDA_SUCCESS) {
    result = sim_block_insert(block);
    if (result != CUDA_SUCCESS)
      give_memory_back(block);
  }
  if (result != CUDA_SUCCESS) {
    free(block);
    return result;
  }
  *out = block;
  return CUDA_SUCCESS;
}

CUresult sim_memory_alloc(CUcontext context, uint64_t bytes, enum sim_memory kind, struct sim_block **block) {
  return allocate(context, bytes, kind, false, block);
}

void sim_memory_free(struct sim_block *block) {
  sim_disown(&block->owned);
  sim_block_remove(block);
  give_memory_back(block);
  free(block);
}

void sim_memory_owned_destroy(struct sim_owned *owned) {
  sim_memory_free(SIM_CONTAINER_OF(owned, struct sim_block, owned));
}

/* The part that all allocating calls share: what may not be done now, and slowness on demand. */
CUresult sim_allocating_call(CUcontext *context) {
  CUresult result = sim_current(context);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result == CUDA_SUCCESS)
    sg_fault_point((*context)->card);
  return result;
}

static CUresult allocate_for_user(size_t bytes, enum sim_memory kind, unsigned flags, bool low, uint64_t *address) {
  CUcontext context;
  CUresult result = sim_allocating_call(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!address || bytes == 0)
    return CUDA_ERROR_INVALID_VALUE;
  struct sim_block *block;
  result = allocate(context, bytes, kind, low, &block);
  if (result != CUDA_SUCCESS)
    return result;
  block->flags = flags;
  sim_own(context, &block->owned, sim_memory_owned_destroy);
  *address = block->address;
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
  uint64_t address;
  CUresult result = dptr ? allocate_for_user(bytesize, SIM_MEMORY_DEVICE, 0, false, &address) : CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *dptr = address;
  return result;
}

CUresult cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize) {
  uint64_t address;
  CUresult result = dptr ? allocate_for_user(bytesize, SIM_MEMORY_DEVICE, 0, true, &address) : CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *dptr = (CUdeviceptr_v1)address;
  return result;
}

static CUresult allocate_pitch(uint64_t *address, size_t *pitch, size_t width, size_t height, unsigned element,
                               bool low) {
  if (!width || !height || (element != 4 && element != 8 && element != 16) || width > SIZE_MAX - PITCH_ALIGNMENT)
    return CUDA_ERROR_INVALID_VALUE;
  size_t row = (width + PITCH_ALIGNMENT - 1) / PITCH_ALIGNMENT * PITCH_ALIGNMENT;
  if (height > SIZE_MAX / row)
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = allocate_for_user(row * height, SIM_MEMORY_DEVICE, 0, low, address);
  if (result == CUDA_SUCCESS)
    *pitch = row;
  return result;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                            unsigned int ElementSizeBytes) {
  uint64_t address;
  if (!dptr || !pPitch)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = allocate_pitch(&address, pPitch, WidthInBytes, Height, ElementSizeBytes, false);
  if (result == CUDA_SUCCESS)
    *dptr = address;
  return result;
}

CUresult cuMemAllocPitch(CUdeviceptr_v1 *dptr, unsigned int *pPitch, unsigned int WidthInBytes, unsigned int Height,
                         unsigned int ElementSizeBytes) {
  uint64_t address;
  size_t pitch;
  if (!dptr || !pPitch)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = allocate_pitch(&address, &pitch, WidthInBytes, Height, ElementSizeBytes, true);
  if (result == CUDA_SUCCESS) {
    *dptr = (CUdeviceptr_v1)address;
    *pPitch = (unsigned)pitch;
  }
  return result;
}

CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags) {
  uint64_t address;
  if (!dptr || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = allocate_for_user(bytesize, SIM_MEMORY_MANAGED, flags, false, &address);
  if (result == CUDA_SUCCESS)
    *dptr = address;
  return result;
}

/* ---- free: waits for the work of the memory's context, as the real cuMemFree does ---- */

static CUresult free_device(uint64_t address) {
  CUresult result = sim_ready();
  if (result == CUDA_SUCCESS && address == 0)
    return CUDA_SUCCESS;
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  struct sim_block *block = sim_block_find(address);
  bool whole = block && block->address == address;
  enum sim_memory kind = block ? block->kind : SIM_MEMORY_HOST;
  CUcontext context = block ? block->context : NULL;
  sim_unlock();
  if (!whole)
    return CUDA_ERROR_INVALID_VALUE;
  if (kind == SIM_MEMORY_POOL)
    return sim_pool_free_now(block);
  if (kind != SIM_MEMORY_DEVICE && kind != SIM_MEMORY_MANAGED)
    return CUDA_ERROR_INVALID_VALUE;
  result = sim_context_wait(context);
  if (sim_disown(&block->owned))
    sim_memory_free(block);
  return result;
}

CUresult cuMemFree_v2(CUdeviceptr dptr) { return free_device(dptr); }
CUresult cuMemFree(CUdeviceptr_v1 dptr) { return free_device(dptr); }

/* ---- how much there is ---- */

uint64_t sim_usable_bytes(int card) {
  const struct sg_card_info *info = sg_card(card);
  return info->total_bytes - info->reserved_bytes;
}

/* With an r615 limit on this process's cgroup the driver answers for the limit, not for the card. */
static CUresult memory_info(uint64_t *free_bytes, uint64_t *total_bytes) {
  CUcontext context;
  uint64_t used, limit, limit_used;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_context_result(context, sg_memory(context->card, free_bytes, &used));
  if (result != CUDA_SUCCESS)
    return result;
  *total_bytes = sim_usable_bytes(context->card);
  result = sim_context_result(context, sg_memory_limit(context->card, &limit, &limit_used));
  if (result != CUDA_SUCCESS || limit >= *total_bytes)
    return result;
  uint64_t left = limit > limit_used ? limit - limit_used : 0;
  *total_bytes = limit;
  *free_bytes = left < *free_bytes ? left : *free_bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
  uint64_t free_bytes, total_bytes;
  CUresult result = memory_info(&free_bytes, &total_bytes);
  if (result != CUDA_SUCCESS)
    return result;
  if (!free || !total)
    return CUDA_ERROR_INVALID_VALUE;
  *free = free_bytes;
  *total = total_bytes;
  return CUDA_SUCCESS;
}

static unsigned clamp(uint64_t bytes) { return bytes > UINT32_MAX ? UINT32_MAX : (unsigned)bytes; }

CUresult cuMemGetInfo(unsigned int *free, unsigned int *total) {
  uint64_t free_bytes, total_bytes;
  CUresult result = memory_info(&free_bytes, &total_bytes);
  if (result != CUDA_SUCCESS)
    return result;
  if (!free || !total)
    return CUDA_ERROR_INVALID_VALUE;
  *free = clamp(free_bytes);
  *total = clamp(total_bytes);
  return CUDA_SUCCESS;
}

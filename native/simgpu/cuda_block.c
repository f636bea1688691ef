/* cuda_block.c - the index of allocations by address, and what an address means to the driver. */
#include "cuda_internal.h"

#include <search.h>

/* A binary tree (search.h) of disjoint blocks: two compare as equal when they overlap, so that a
 * key of one byte finds the block around it. Guarded by the process lock. */
static void *blocks;

static int compare_blocks(const void *left, const void *right) {
  const struct sim_block *a = left, *b = right;
  if (a->address + a->bytes <= b->address)
    return -1;
  return a->address >= b->address + b->bytes;
}

CUresult sim_block_insert(struct sim_block *block) {
  CUresult result = CUDA_SUCCESS;
  if (!block->buffer_id)
    block->buffer_id = sim_next_id();
  sim_lock();
  struct sim_block **found = tsearch(block, &blocks, compare_blocks);
  if (!found)
    result = CUDA_ERROR_OUT_OF_MEMORY;
  else if (*found != block)
    result = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED; /* only host ranges come from outside */
  sim_unlock();
  return result;
}

void sim_block_remove(struct sim_block *block) {
  sim_lock();
  tdelete(block, &blocks, compare_blocks);
  sim_unlock();
}

struct sim_block *sim_block_find(uint64_t address) {
  const struct sim_block key = {.address = address, .bytes = 1};
  struct sim_block **found = tfind(&key, &blocks, compare_blocks);
  return found ? *found : NULL;
}

/* Device ranges may span neighbouring blocks (several mappings in one reservation). */
static CUresult resolve_device(uint64_t address, uint64_t bytes, bool write) {
  uint64_t end = address + bytes;
  for (uint64_t at = address; at < end;) {
    const struct sim_block *block = sim_block_find(at);
    if (!block || !block->accessible || (write && block->read_only))
      return CUDA_ERROR_INVALID_VALUE;
    at = block->address + block->bytes;
  }
  return CUDA_SUCCESS;
}

CUresult sim_resolve(uint64_t address, uint64_t bytes, bool write, void **alias, bool *pageable) {
  if (address == 0 || address + bytes < address)
    return CUDA_ERROR_INVALID_VALUE;
  bool device = sim_is_device_address(address);
  CUresult result = CUDA_SUCCESS;
  sim_lock();
  if (device)
    result = resolve_device(address, bytes, write);
  if (pageable)
    *pageable = !device && !sim_block_find(address);
  sim_unlock();
  *alias = device ? sim_shadow(address) : (void *)(uintptr_t)address;
  return result;
}

/* cuda_vmm_map.c - reserved addresses, what is mapped into them, and which device may reach it.
 *
 * A fresh mapping is reachable by nobody: copies and kernels on it fail until cuMemSetAccess.
 */
#include <stdlib.h>

#include "cuda_vmm.h"

struct reservation {
  uint64_t address, bytes;
  struct reservation *next;
};

struct mapping {
  struct sim_block block;
  struct vmm_physical *physical;
  uint32_t readers, writers; /* bit per card; a writer reads too */
  struct mapping *next;
};

static struct reservation *reservations; /* both guarded by the lock of cuda_vmm.h */
static struct mapping *mappings;

static bool inside(uint64_t address, uint64_t bytes, uint64_t outer, uint64_t outer_bytes) {
  return address >= outer && bytes <= outer_bytes && address - outer <= outer_bytes - bytes;
}

/* ---- addresses ---- */

CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                     unsigned long long flags) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (ptr == NULL || flags != 0 || size == 0 || size % SG_GRANULE_BYTES != 0 || (alignment & (alignment - 1)) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  struct reservation *fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->bytes = size;
  result = sim_va_reserve(size, alignment, addr, &fresh->address);
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  *ptr = fresh->address;
  vmm_lock();
  fresh->next = reservations;
  reservations = fresh;
  vmm_unlock();
  return CUDA_SUCCESS;
}

/* The whole reservation, once nothing is mapped in it. */
CUresult CUDAAPI cuMemAddressFree(CUdeviceptr ptr, size_t size) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  struct reservation *found = NULL;
  vmm_lock();
  struct reservation **link = &reservations;
  while (*link && !((*link)->address == ptr && (*link)->bytes == size))
    link = &(*link)->next;
  bool mapped = false;
  for (const struct mapping *each = mappings; each; each = each->next)
    mapped |= inside(each->block.address, each->block.bytes, ptr, size);
  if (*link && !mapped) {
    found = *link;
    *link = found->next;
  }
  vmm_unlock();
  if (found == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  sim_va_release(found->address, found->bytes);
  free(found);
  return CUDA_SUCCESS;
}

/* ---- mappings ---- */

struct vmm_physical *vmm_mapped_at(uint64_t address) {
  for (const struct mapping *each = mappings; each; each = each->next)
    if (inside(address, 1, each->block.address, each->block.bytes))
      return each->physical;
  return NULL;
}

static bool can_map(uint64_t address, uint64_t bytes) {
  bool reserved = false;
  for (const struct reservation *each = reservations; each && !reserved; each = each->next)
    reserved = inside(address, bytes, each->address, each->bytes);
  for (const struct mapping *each = mappings; each && reserved; each = each->next)
    reserved = each->block.address >= address + bytes || each->block.address + each->block.bytes <= address;
  return reserved;
}

static CUresult map(uint64_t address, uint64_t bytes, struct vmm_physical *physical) {
  struct mapping *fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = sim_va_back(address, bytes, physical->object, 0, false);
  if (result == CUDA_SUCCESS) {
    fresh->physical = physical;
    fresh->block = (struct sim_block){.address = address,
                                      .bytes = bytes,
                                      .kind = SIM_MEMORY_MAPPED,
                                      .card = physical->card,
                                      .object = physical->object,
                                      .owner = fresh};
    result = sim_block_insert(&fresh->block);
    if (result != CUDA_SUCCESS)
      sim_va_unback(address, bytes);
  }
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  physical->mappings++;
  fresh->next = mappings;
  mappings = fresh;
  return CUDA_SUCCESS;
}

/* `offset` into the physical memory must be 0, as the driver demands up to now. */
CUresult CUDAAPI cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                          unsigned long long flags) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (flags != 0 || offset != 0 || size == 0 || size % SG_GRANULE_BYTES != 0 || ptr % SG_GRANULE_BYTES != 0)
    return CUDA_ERROR_INVALID_VALUE;
  vmm_lock();
  struct vmm_physical *physical = vmm_physical_of(handle);
  if (physical == NULL || size > physical->bytes || !can_map(ptr, size))
    result = CUDA_ERROR_INVALID_VALUE;
  else
    result = map(ptr, size, physical);
  vmm_unlock();
  return result;
}

/* Whether mappings cover the range without a gap; with `exact`, also without reaching beyond it. */
static bool covered(uint64_t address, uint64_t bytes, bool exact) {
  uint64_t sum = 0;
  for (const struct mapping *each = mappings; each; each = each->next) {
    const uint64_t start = each->block.address, end = start + each->block.bytes;
    if (end <= address || start >= address + bytes)
      continue;
    if (exact && !inside(start, each->block.bytes, address, bytes))
      return false;
    const uint64_t from = start > address ? start : address, to = end < address + bytes ? end : address + bytes;
    sum += to - from;
  }
  return sum == bytes;
}

#define MOST_CONTEXTS 64u

struct context_list {
  unsigned count;
  CUcontext contexts[MOST_CONTEXTS];
};

static void list_context(CUcontext context, void *argument) {
  struct context_list *list = argument;
  if (list->count < MOST_CONTEXTS)
    list->contexts[list->count++] = context;
}

/* Queued copies know a mapping by its address. */
static void wait_for_all_work(void) {
  struct context_list list = {0};
  sim_contexts_each(list_context, &list);
  for (unsigned i = 0; i < list.count; i++)
    sim_context_wait(list.contexts[i]); /* a broken context has no more work */
}

/* Takes whole mappings; what is still queued is waited for, since the addresses go away. */
CUresult CUDAAPI cuMemUnmap(CUdeviceptr ptr, size_t size) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (size == 0 || ptr + size < ptr)
    return CUDA_ERROR_INVALID_VALUE;
  wait_for_all_work();
  vmm_lock();
  if (!covered(ptr, size, true)) {
    vmm_unlock();
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (struct mapping **link = &mappings; *link;) {
    struct mapping *each = *link;
    if (!inside(each->block.address, each->block.bytes, ptr, size)) {
      link = &each->next;
      continue;
    }
    *link = each->next;
    sim_block_remove(&each->block);
    sim_va_unback(each->block.address, each->block.bytes);
    each->physical->mappings--;
    vmm_end_if_unused(each->physical);
    free(each);
  }
  vmm_unlock();
  return CUDA_SUCCESS;
}

/* ---- access ---- */

static CUresult access_bit(const CUmemLocation *location, uint32_t *bit) {
  int card;
  if (location->type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_NOT_SUPPORTED;
  CUresult result = sim_device_card(location->id, &card);
  if (result == CUDA_SUCCESS)
    *bit = 1u << card;
  return result;
}

static void grant(struct mapping *mapping, uint32_t bit, CUmemAccess_flags flags) {
  mapping->readers &= ~bit;
  mapping->writers &= ~bit;
  if (flags == CU_MEM_ACCESS_FLAGS_PROT_READ)
    mapping->readers |= bit;
  else if (flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
    mapping->writers |= bit;
  sim_lock();
  mapping->block.accessible = (mapping->readers | mapping->writers) != 0;
  mapping->block.read_only = mapping->writers == 0;
  sim_unlock();
}

CUresult CUDAAPI cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (desc == NULL || count == 0 || size == 0 || ptr + size < ptr)
    return CUDA_ERROR_INVALID_VALUE;
  uint32_t bit;
  for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    result = access_bit(&desc[i].location, &bit);
    if (desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
      result = CUDA_ERROR_INVALID_VALUE;
  }
  if (result != CUDA_SUCCESS)
    return result;
  vmm_lock();
  if (!covered(ptr, size, true))
    result = CUDA_ERROR_INVALID_VALUE;
  for (struct mapping *each = mappings; each && result == CUDA_SUCCESS; each = each->next)
    if (inside(each->block.address, each->block.bytes, ptr, size))
      for (size_t i = 0; i < count && access_bit(&desc[i].location, &bit) == CUDA_SUCCESS; i++)
        grant(each, bit, desc[i].flags);
  vmm_unlock();
  return result;
}

CUresult CUDAAPI cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr) {
  uint32_t bit;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (flags == NULL || location == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  result = access_bit(location, &bit);
  if (result != CUDA_SUCCESS)
    return result;
  result = CUDA_ERROR_INVALID_VALUE;
  vmm_lock();
  for (const struct mapping *each = mappings; each; each = each->next)
    if (inside(ptr, 1, each->block.address, each->block.bytes)) {
      *flags = (each->writers & bit) != 0   ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
               : (each->readers & bit) != 0 ? CU_MEM_ACCESS_FLAGS_PROT_READ
                                            : CU_MEM_ACCESS_FLAGS_PROT_NONE;
      result = CUDA_SUCCESS;
    }
  vmm_unlock();
  return result;
}

/* cuda_address.c - device addresses of one process, what backs them, and slabs for small blocks.
 *
 *   base                     base + bytes               base + 2*bytes
 *    | device addresses        | shadow: the same memory  |
 *    | PROT_NONE for host code | as the driver reaches it |
 *
 * A second, small range lies below 4 GiB (its shadow lies elsewhere), for the first versions of
 * functions, whose device pointers have 32 bits.
 */
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda_process.h"

#define LARGEST (4ull << 40) /* more than sixteen of the largest cards */
#define SMALLEST (8ull << 30) /* what valgrind has left for a client */
#define LOW_BASE (1ull << 30)
#define LOW_BYTES (1ull << 30)

/* Free addresses, in order and merged. Guarded by the process lock. */
struct extent {
  uint64_t address, bytes;
  struct extent *next;
};

struct range {
  uint64_t base, bytes, shadow_offset;
  struct extent *free;
};

static struct range wide, low;

#define SLAB_UNIT 512u
#define SLAB_UNITS (SG_GRANULE_BYTES / SLAB_UNIT)

struct sim_slab {
  struct sim_slab *next;
  CUcontext context;
  sg_phys object;
  uint64_t address;
  unsigned used;
  uint64_t taken[SLAB_UNITS / 64]; /* bit per unit */
};

static void *reserve(void *hint, uint64_t bytes) {
  void *place = mmap(hint, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return place == MAP_FAILED ? NULL : place;
}

static bool open_range(struct range *range, void *place, uint64_t bytes, uint64_t shadow) {
  struct extent *all = malloc(sizeof *all);
  if (!all)
    return false;
  range->base = ((uint64_t)(uintptr_t)place + SG_GRANULE_BYTES - 1) / SG_GRANULE_BYTES * SG_GRANULE_BYTES;
  range->bytes = bytes;
  range->shadow_offset = shadow ? shadow - range->base : bytes;
  *all = (struct extent){.address = range->base, .bytes = bytes};
  range->free = all;
  return true;
}

/* Without it (the addresses are taken) the 32-bit functions are out of memory from the start. */
static void open_low_range(void) {
  void *hint = (void *)(uintptr_t)LOW_BASE, *place = reserve(hint, LOW_BYTES);
  void *shadow = place == hint ? reserve(NULL, LOW_BYTES) : NULL;
  if (shadow && open_range(&low, place, LOW_BYTES, (uint64_t)(uintptr_t)shadow))
    return;
  if (place)
    munmap(place, LOW_BYTES);
  if (shadow)
    munmap(shadow, LOW_BYTES);
}

CUresult sim_address_space_open(void) {
  if (wide.bytes)
    return CUDA_SUCCESS;
  /* Address space may be limited (ulimit -v): take what there is. */
  for (uint64_t size = LARGEST; size >= SMALLEST; size /= 2) {
    void *place = reserve(NULL, 2 * size + SG_GRANULE_BYTES);
    if (!place)
      continue;
    if (!open_range(&wide, place, size, 0)) {
      munmap(place, 2 * size + SG_GRANULE_BYTES);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    open_low_range();
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_OUT_OF_MEMORY;
}

static struct range *range_of(uint64_t address) {
  if (address - wide.base < wide.bytes)
    return &wide;
  return address - low.base < low.bytes ? &low : NULL;
}

bool sim_is_device_address(uint64_t address) { return range_of(address) != NULL; }

void *sim_shadow(uint64_t device_address) {
  return (void *)(uintptr_t)(device_address + range_of(device_address)->shadow_offset);
}

static uint64_t granules(uint64_t bytes) { return (bytes + SG_GRANULE_BYTES - 1) / SG_GRANULE_BYTES * SG_GRANULE_BYTES; }

/* Cuts [address, address+bytes) out of the extent *link. */
static CUresult cut(struct extent **link, uint64_t address, uint64_t bytes) {
  struct extent *extent = *link;
  uint64_t before = address - extent->address, after = extent->bytes - before - bytes;
  if (before && after) {
    struct extent *rest = malloc(sizeof *rest);
    if (!rest)
      return CUDA_ERROR_OUT_OF_MEMORY;
    *rest = (struct extent){.address = address + bytes, .bytes = after, .next = extent->next};
    extent->bytes = before;
    extent->next = rest;
  } else if (before) {
    extent->bytes = before;
  } else if (after) {
    extent->address += bytes;
    extent->bytes = after;
  } else {
    *link = extent->next;
    free(extent);
  }
  return CUDA_SUCCESS;
}

/* The first free place, or the place `wanted` when it is not 0. */
static CUresult take_addresses(struct range *range, uint64_t bytes, uint64_t alignment, uint64_t wanted,
                               uint64_t *address) {
  for (struct extent **link = &range->free; *link; link = &(*link)->next) {
    struct extent *extent = *link;
    uint64_t at = wanted ? wanted : (extent->address + alignment - 1) / alignment * alignment;
    uint64_t end = extent->address + extent->bytes;
    if (at < extent->address || at >= end || bytes > end - at)
      continue;
    CUresult result = cut(link, at, bytes);
    if (result == CUDA_SUCCESS)
      *address = at;
    return result;
  }
  return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult reserve_in(struct range *range, uint64_t bytes, uint64_t alignment, uint64_t hint, uint64_t *address) {
  if (bytes == 0 || (alignment & (alignment - 1)))
    return CUDA_ERROR_INVALID_VALUE;
  if (bytes > range->bytes)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (alignment < SG_GRANULE_BYTES)
    alignment = SG_GRANULE_BYTES;
  bytes = granules(bytes);
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  sim_lock();
  if (hint && hint % alignment == 0)
    result = take_addresses(range, bytes, alignment, hint, address);
  if (result != CUDA_SUCCESS)
    result = take_addresses(range, bytes, alignment, 0, address);
  sim_unlock();
  return result;
}

CUresult sim_va_reserve(uint64_t bytes, uint64_t alignment, uint64_t hint, uint64_t *address) {
  return reserve_in(&wide, bytes, alignment, hint, address);
}

void sim_va_release(uint64_t address, uint64_t bytes) {
  bytes = granules(bytes);
  struct extent *fresh = malloc(sizeof *fresh);
  if (!fresh)
    return; /* the addresses are lost to this process, the memory behind them is not */
  sim_lock();
  struct extent **link = &range_of(address)->free, *before = NULL;
  while (*link && (*link)->address < address) {
    before = *link;
    link = &before->next;
  }
  *fresh = (struct extent){.address = address, .bytes = bytes, .next = *link};
  *link = fresh;
  struct extent *after = fresh->next;
  if (after && after->address == address + bytes) {
    fresh->bytes += after->bytes;
    fresh->next = after->next;
    free(after);
  }
  if (before && before->address + before->bytes == address) {
    before->bytes += fresh->bytes;
    before->next = fresh->next;
    free(fresh);
  }
  sim_unlock();
}

/* Device memory does not follow a fork, neither as memory nor as a claim on it. */
static int map_object(uint64_t address, uint64_t bytes, sg_phys object, uint64_t offset) {
  void *place = (void *)(uintptr_t)address;
  int mapped = sg_phys_map(object, offset, place, bytes, PROT_READ | PROT_WRITE);
  if (mapped == SG_OK)
    madvise(place, bytes, MADV_DONTFORK);
  return mapped;
}

static void map_nothing(uint64_t address, uint64_t bytes) {
  void *place = (void *)(uintptr_t)address;
  mmap(place, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

CUresult sim_va_back(uint64_t address, uint64_t bytes, sg_phys object, uint64_t offset, bool host_visible) {
  bytes = granules(bytes);
  int mapped = map_object((uint64_t)(uintptr_t)sim_shadow(address), bytes, object, offset);
  if (mapped == SG_OK && host_visible)
    mapped = map_object(address, bytes, object, offset);
  if (mapped != SG_OK)
    sim_va_unback(address, bytes);
  return sim_result(mapped);
}

void sim_va_unback(uint64_t address, uint64_t bytes) {
  bytes = granules(bytes);
  map_nothing(address, bytes);
  map_nothing((uint64_t)(uintptr_t)sim_shadow(address), bytes);
}

typedef int create_phys(int card, uint64_t bytes, sg_phys *object);

static CUresult create_in(struct range *range, create_phys *create, int card, uint64_t bytes, bool host_visible,
                          sg_phys *object, uint64_t *address) {
  CUresult result = reserve_in(range, bytes, 0, 0, address);
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_result(create(card, granules(bytes), object));
  if (result == CUDA_SUCCESS) {
    result = sim_va_back(*address, bytes, *object, 0, host_visible);
    if (result == CUDA_SUCCESS)
      return CUDA_SUCCESS;
    sg_phys_release(*object);
  }
  sim_va_release(*address, bytes);
  return result;
}

CUresult sim_segment_create(int card, uint64_t bytes, bool host_visible, sg_phys *object, uint64_t *address) {
  return create_in(&wide, sg_phys_create, card, bytes, host_visible, object, address);
}

CUresult sim_segment_create_low(int card, uint64_t bytes, sg_phys *object, uint64_t *address) {
  return create_in(&low, sg_phys_create, card, bytes, false, object, address);
}

CUresult sim_segment_create_managed(int card, uint64_t bytes, sg_phys *object, uint64_t *address) {
  return create_in(&wide, sg_phys_create_managed, card, bytes, true, object, address);
}

void sim_segment_destroy(sg_phys object, uint64_t address, uint64_t bytes) {
  sim_va_unback(address, bytes);
  sg_phys_release(object);
  sim_va_release(address, bytes);
}

/* ---- slabs ---- */

/* The first of `units` free units in a row, or SLAB_UNITS. */
static unsigned find_run(const struct sim_slab *slab, unsigned units) {
  unsigned run = 0;
  for (unsigned unit = 0; unit < SLAB_UNITS; unit++) {
    if (unit % 64 == 0 && slab->taken[unit / 64] == UINT64_MAX) {
      run = 0;
      unit += 63;
      continue;
    }
    run = slab->taken[unit / 64] >> (unit % 64) & 1 ? 0 : run + 1;
    if (run == units)
      return unit + 1 - units;
  }
  return SLAB_UNITS;
}

static void mark_units(struct sim_slab *slab, unsigned first, unsigned units, bool take) {
  for (unsigned unit = first; unit < first + units; unit++) {
    uint64_t bit = 1ull << (unit % 64);
    slab->taken[unit / 64] = take ? slab->taken[unit / 64] | bit : slab->taken[unit / 64] & ~bit;
  }
  slab->used += take ? units : -units;
}

static unsigned units_of(uint64_t bytes) { return (unsigned)((bytes + SLAB_UNIT - 1) / SLAB_UNIT); }

static bool take_from(struct sim_slab *slab, unsigned units, uint64_t *address) {
  if (slab->used + units > SLAB_UNITS)
    return false;
  unsigned first = find_run(slab, units);
  if (first == SLAB_UNITS)
    return false;
  mark_units(slab, first, units, true);
  *address = slab->address + (uint64_t)first * SLAB_UNIT;
  return true;
}

CUresult sim_slab_take(CUcontext context, uint64_t bytes, struct sim_slab **slab, uint64_t *address) {
  unsigned units = units_of(bytes);
  sim_lock();
  for (struct sim_slab *each = context->slabs; each; each = each->next)
    if (take_from(each, units, address)) {
      sim_unlock();
      *slab = each;
      return CUDA_SUCCESS;
    }
  sim_unlock();
  struct sim_slab *fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = sim_segment_create(context->card, SG_GRANULE_BYTES, false, &fresh->object, &fresh->address);
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  fresh->context = context;
  sim_lock();
  take_from(fresh, units, address);
  fresh->next = context->slabs;
  context->slabs = fresh;
  sim_unlock();
  *slab = fresh;
  return CUDA_SUCCESS;
}

void sim_slab_give(struct sim_slab *slab, uint64_t address, uint64_t bytes) {
  bool empty = false;
  sim_lock();
  mark_units(slab, (unsigned)((address - slab->address) / SLAB_UNIT), units_of(bytes), false);
  if (slab->used == 0) {
    struct sim_slab **link = &slab->context->slabs;
    while (*link != slab)
      link = &(*link)->next;
    *link = slab->next;
    empty = true;
  }
  sim_unlock();
  if (empty) {
    sim_segment_destroy(slab->object, slab->address, SG_GRANULE_BYTES);
    free(slab);
  }
}

sg_phys sim_slab_object(const struct sim_slab *slab, uint64_t address, uint64_t *offset) {
  *offset = address - slab->address;
  return slab->object;
}

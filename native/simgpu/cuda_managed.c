/* cuda_managed.c - advice and prefetches for managed memory.
 *
 * Simplification: managed memory lives on the card of the context that allocated it from the start
 * and for good (real drivers move it page by page). Advice and prefetches are remembered and told,
 * and a prefetch takes its place in the stream; no data moves.
 */
#include "cuda_internal.h"

#include <string.h>

#include "cuda_process.h"

static CUmemLocation location_of(CUdevice device) {
  return (CUmemLocation){.type = device == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE,
                         .id = device == CU_DEVICE_CPU ? 0 : device};
}

static CUresult check_location(const CUmemLocation *location) {
  int card;
  switch (location->type) {
  case CU_MEM_LOCATION_TYPE_DEVICE:
    return sim_device_card(location->id, &card);
  case CU_MEM_LOCATION_TYPE_HOST:
  case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
    return CUDA_SUCCESS;
  case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    return location->id == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

/* The managed block that holds the whole range; call with the process lock held. */
static struct sim_block *managed(CUdeviceptr address, size_t count) {
  struct sim_block *block = sim_block_find(address);
  bool whole = block && block->kind == SIM_MEMORY_MANAGED && count && count <= block->address + block->bytes - address;
  return whole ? block : NULL;
}

static bool apply_advice(struct sim_block *block, CUmem_advise advice, const CUmemLocation *location) {
  switch (advice) {
  case CU_MEM_ADVISE_SET_READ_MOSTLY:
  case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
    block->read_mostly = advice == CU_MEM_ADVISE_SET_READ_MOSTLY;
    return true;
  case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
    block->preferred = *location;
    return true;
  case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
    block->preferred = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_INVALID};
    return true;
  case CU_MEM_ADVISE_SET_ACCESSED_BY:
    block->accessed_by |= location->type == CU_MEM_LOCATION_TYPE_DEVICE ? 1u << location->id : 0;
    return true;
  case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
    block->accessed_by &= location->type == CU_MEM_LOCATION_TYPE_DEVICE ? ~(1u << location->id) : UINT32_MAX;
    return true;
  default:
    return false;
  }
}

static CUresult advise(CUdeviceptr address, size_t count, CUmem_advise advice, CUmemLocation location) {
  bool located = advice == CU_MEM_ADVISE_SET_PREFERRED_LOCATION || advice == CU_MEM_ADVISE_SET_ACCESSED_BY ||
                 advice == CU_MEM_ADVISE_UNSET_ACCESSED_BY;
  CUresult result = sim_ready();
  if (result == CUDA_SUCCESS && located)
    result = check_location(&location);
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  struct sim_block *block = managed(address, count);
  if (!block || !apply_advice(block, advice, &location))
    result = CUDA_ERROR_INVALID_VALUE;
  sim_unlock();
  return result;
}

CUresult cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device) {
  return advise(devPtr, count, advice, location_of(device));
}
CUresult cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUmemLocation location) {
  return advise(devPtr, count, advice, location);
}

/* ---- prefetches and discards, in stream order ---- */

static CUresult enqueue_nothing(CUstream handle) {
  const struct sim_work work = {.kind = SIM_WORK_EMPTY};
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  result = stream->capture ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : sim_enqueue(stream, &work);
  sim_stream_put_back(stream);
  return result;
}

static CUresult prefetch(CUdeviceptr address, size_t count, CUmemLocation location, unsigned flags, CUstream handle) {
  CUresult result = flags ? CUDA_ERROR_INVALID_VALUE : check_location(&location);
  if (result == CUDA_SUCCESS)
    result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  struct sim_block *block = managed(address, count);
  if (block)
    block->prefetched = location;
  sim_unlock();
  return block ? enqueue_nothing(handle) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream) {
  return prefetch(devPtr, count, location_of(dstDevice), 0, sim_null_legacy(hStream));
}
CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream) {
  return prefetch(devPtr, count, location_of(dstDevice), 0, sim_null_thread(hStream));
}
CUresult cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags,
                               CUstream hStream) {
  return prefetch(devPtr, count, location, flags, sim_null_legacy(hStream));
}
CUresult cuMemPrefetchAsync_v2_ptsz(CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags,
                                    CUstream hStream) {
  return prefetch(devPtr, count, location, flags, sim_null_thread(hStream));
}

struct batch {
  CUdeviceptr *addresses;
  size_t *sizes, count;
  CUmemLocation *locations; /* NULL: a discard alone */
  size_t *starts, location_count;
  unsigned long long flags;
};

static bool sound_batch(const struct batch *batch) {
  if (!batch->addresses || !batch->sizes || !batch->count || batch->flags)
    return false;
  if (!batch->locations)
    return true;
  return batch->starts && batch->location_count && batch->location_count <= batch->count && batch->starts[0] == 0;
}

/* Contents of discarded memory are undefined; here they stay. */
static CUresult run_batch(const struct batch *batch, CUstream handle) {
  if (!sound_batch(batch))
    return CUDA_ERROR_INVALID_VALUE;
  size_t location = 0;
  for (size_t i = 0; i < batch->count; i++) {
    CUresult result;
    while (batch->locations && location + 1 < batch->location_count && batch->starts[location + 1] <= i)
      location++;
    if (batch->locations) {
      result = prefetch(batch->addresses[i], batch->sizes[i], batch->locations[location], 0, handle);
    } else {
      sim_lock();
      bool known = managed(batch->addresses[i], batch->sizes[i]) != NULL;
      sim_unlock();
      result = known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    if (result != CUDA_SUCCESS)
      return result;
  }
  return batch->locations ? CUDA_SUCCESS : enqueue_nothing(handle);
}

#define PREFETCH_PARAMETERS \
  CUdeviceptr *dptrs, size_t *sizes, size_t count, CUmemLocation *prefetchLocs, size_t *prefetchLocIdxs, \
      size_t numPrefetchLocs, unsigned long long flags, CUstream hStream
#define PREFETCH_BATCH (&(const struct batch){dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs, flags})

static CUresult prefetch_batch(const struct batch *batch, CUstream handle) {
  return batch->locations ? run_batch(batch, handle) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemPrefetchBatchAsync(PREFETCH_PARAMETERS) { return prefetch_batch(PREFETCH_BATCH, sim_null_legacy(hStream)); }
CUresult cuMemPrefetchBatchAsync_ptsz(PREFETCH_PARAMETERS) {
  return prefetch_batch(PREFETCH_BATCH, sim_null_thread(hStream));
}
CUresult cuMemDiscardAndPrefetchBatchAsync(PREFETCH_PARAMETERS) {
  return prefetch_batch(PREFETCH_BATCH, sim_null_legacy(hStream));
}
CUresult cuMemDiscardAndPrefetchBatchAsync_ptsz(PREFETCH_PARAMETERS) {
  return prefetch_batch(PREFETCH_BATCH, sim_null_thread(hStream));
}
CUresult cuMemDiscardBatchAsync(CUdeviceptr *dptrs, size_t *sizes, size_t count, unsigned long long flags,
                                CUstream hStream) {
  return run_batch(&(const struct batch){.addresses = dptrs, .sizes = sizes, .count = count, .flags = flags},
                   sim_null_legacy(hStream));
}
CUresult cuMemDiscardBatchAsync_ptsz(CUdeviceptr *dptrs, size_t *sizes, size_t count, unsigned long long flags,
                                     CUstream hStream) {
  return run_batch(&(const struct batch){.addresses = dptrs, .sizes = sizes, .count = count, .flags = flags},
                   sim_null_thread(hStream));
}

/* ---- what was advised ---- */

static CUresult put_int(void *data, size_t bytes, int value) {
  if (bytes != sizeof value)
    return CUDA_ERROR_INVALID_VALUE;
  memcpy(data, &value, sizeof value);
  return CUDA_SUCCESS;
}

static int as_device(const CUmemLocation *location) {
  if (location->type == CU_MEM_LOCATION_TYPE_DEVICE)
    return location->id;
  return location->type == CU_MEM_LOCATION_TYPE_INVALID ? CU_DEVICE_INVALID : CU_DEVICE_CPU;
}

/* Fills `bytes` with device ordinals, the rest with CU_DEVICE_INVALID. */
static CUresult accessed_by(void *data, size_t bytes, uint32_t devices) {
  if (bytes == 0 || bytes % sizeof(int))
    return CUDA_ERROR_INVALID_VALUE;
  int *out = data;
  size_t room = bytes / sizeof(int), used = 0;
  for (int device = 0; device < SG_MAX_CARDS && used < room; device++)
    if (devices >> device & 1)
      out[used++] = device;
  while (used < room)
    out[used++] = CU_DEVICE_INVALID;
  return CUDA_SUCCESS;
}

static CUresult get(void *data, size_t bytes, CUmem_range_attribute attribute, const struct sim_block *block) {
  switch (attribute) {
  case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
    return put_int(data, bytes, block->read_mostly);
  case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
    return put_int(data, bytes, as_device(&block->preferred));
  case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY:
    return accessed_by(data, bytes, block->accessed_by);
  case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
    return put_int(data, bytes, as_device(&block->prefetched));
  case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
    return put_int(data, bytes, (int)block->preferred.type);
  case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
    return put_int(data, bytes, block->preferred.id);
  case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
    return put_int(data, bytes, (int)block->prefetched.type);
  case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
    return put_int(data, bytes, block->prefetched.id);
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuMemRangeGetAttribute(void *data, size_t dataSize, CUmem_range_attribute attribute, CUdeviceptr devPtr,
                                size_t count) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!data)
    return CUDA_ERROR_INVALID_VALUE;
  sim_lock();
  const struct sim_block *block = managed(devPtr, count);
  result = block ? get(data, dataSize, attribute, block) : CUDA_ERROR_INVALID_VALUE;
  sim_unlock();
  return result;
}

CUresult cuMemRangeGetAttributes(void **data, size_t *dataSizes, CUmem_range_attribute *attributes,
                                 size_t numAttributes, CUdeviceptr devPtr, size_t count) {
  if (!data || !dataSizes || !attributes || !numAttributes)
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < numAttributes; i++) {
    CUresult result = cuMemRangeGetAttribute(data[i], dataSizes[i], attributes[i], devPtr, count);
    if (result != CUDA_SUCCESS)
      return result;
  }
  return CUDA_SUCCESS;
}

/* cuda_pool.c - memory pools: their handles, attributes and place among the devices; stream-ordered
 * allocation. (CUDA driver API, "Stream Ordered Memory Allocator".)
 */
#include <stdlib.h>

#include "cuda_pool.h"
#include "cuda_process.h"
#include "cuda_share.h"

static pthread_mutex_t pools_mutex = PTHREAD_MUTEX_INITIALIZER;
static CUmemoryPool pools;                        /* all that are alive or not yet empty */
static CUmemoryPool default_pools[SG_MAX_CARDS];  /* made at first need */
static CUmemoryPool current_pools[SG_MAX_CARDS];  /* NULL: the default pool */

/* A forked child has one thread, and perhaps a lock that one of the parent's held. */
void pool_lock(void) {
  if (!sim_forked())
    pthread_mutex_lock(&pools_mutex);
}

void pool_unlock(void) {
  if (!sim_forked())
    pthread_mutex_unlock(&pools_mutex);
}

void pool_each(void (*visit)(CUmemoryPool pool, void *argument), void *argument) {
  for (CUmemoryPool each = pools, next; each; each = next) {
    next = each->next; /* the visit may end the pool */
    visit(each, argument);
  }
}

CUresult pool_check(CUmemoryPool handle) {
  for (CUmemoryPool each = pools; each && handle; each = each->next)
    if (each == handle)
      return each->destroyed ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  return CUDA_ERROR_INVALID_VALUE;
}

CUmemoryPool pool_new(const CUmemPoolProps *properties, int card, CUdevice device) {
  CUmemoryPool pool = calloc(1, sizeof *pool);
  if (pool == NULL)
    return NULL;
  pool->magic = SIM_MAGIC_POOL;
  pool->properties = *properties;
  pool->card = card;
  pool->device = device;
  pool->follow_events = pool->opportunistic = pool->internal_dependencies = 1;
  sim_share_token(pool->token);
  return pool;
}

void pool_publish(CUmemoryPool pool) {
  pool->next = pools;
  pools = pool;
}

void pool_end_if_unused(CUmemoryPool pool) {
  if (!pool->destroyed)
    return;
  pool_trim(pool, 0);
  if (pool->live != 0 || pool->exports != 0)
    return;
  CUmemoryPool *link = &pools;
  while (*link != pool)
    link = &(*link)->next;
  *link = pool->next;
  pool->magic = 0;
  free(pool);
}

/* ---- the pools of a device ---- */

static CUresult default_pool(CUdevice device, CUmemoryPool *pool) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (default_pools[card] == NULL) {
    const CUmemPoolProps properties = {
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
    };
    CUmemoryPool fresh = pool_new(&properties, card, device);
    if (fresh == NULL)
      return CUDA_ERROR_OUT_OF_MEMORY;
    fresh->is_default = true;
    pool_publish(fresh);
    default_pools[card] = fresh;
  }
  *pool = default_pools[card];
  return CUDA_SUCCESS;
}

static CUresult current_pool(CUdevice device, CUmemoryPool *pool) {
  CUresult result = default_pool(device, pool);
  if (result == CUDA_SUCCESS && current_pools[(*pool)->card])
    *pool = current_pools[(*pool)->card];
  return result;
}

CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev) {
  if (pool_out == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  pool_lock();
  CUresult result = default_pool(dev, pool_out);
  pool_unlock();
  return result;
}

CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev) {
  if (pool == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  pool_lock();
  CUresult result = current_pool(dev, pool);
  pool_unlock();
  return result;
}

CUresult CUDAAPI cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  pool_lock();
  result = pool_check(pool);
  if (result == CUDA_SUCCESS && (pool->card != card || pool->imported))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    current_pools[card] = pool;
  pool_unlock();
  return result;
}

/* The newer forms name a location and a kind of memory; the pools here are of pinned device memory. */
static CUresult pool_location(const CUmemLocation *location, CUmemAllocationType type) {
  if (location == NULL || type == CU_MEM_ALLOCATION_TYPE_INVALID)
    return CUDA_ERROR_INVALID_VALUE;
  bool modelled = location->type == CU_MEM_LOCATION_TYPE_DEVICE && type == CU_MEM_ALLOCATION_TYPE_PINNED;
  return modelled ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult CUDAAPI cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location, CUmemAllocationType type) {
  CUresult result = pool_location(location, type);
  return result == CUDA_SUCCESS ? cuDeviceGetDefaultMemPool(pool_out, location->id) : result;
}

CUresult CUDAAPI cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
  CUresult result = pool_location(location, type);
  return result == CUDA_SUCCESS ? cuDeviceGetMemPool(pool, location->id) : result;
}

CUresult CUDAAPI cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool) {
  CUresult result = pool_location(location, type);
  return result == CUDA_SUCCESS ? cuDeviceSetMemPool(location->id, pool) : result;
}

/* ---- create and destroy ---- */

static CUresult check_properties(const CUmemPoolProps *properties, int *card) {
  if (properties->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (properties->allocType != CU_MEM_ALLOCATION_TYPE_PINNED || properties->win32SecurityAttributes != NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if ((properties->handleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return properties->location.type == CU_MEM_LOCATION_TYPE_INVALID ? CUDA_ERROR_INVALID_VALUE
                                                                     : CUDA_ERROR_NOT_SUPPORTED;
  CUresult result = sim_device_card(properties->location.id, card);
  return result == CUDA_ERROR_INVALID_DEVICE ? CUDA_ERROR_INVALID_VALUE : result;
}

CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps) {
  int card;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (pool == NULL || poolProps == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  result = check_properties(poolProps, &card);
  if (result != CUDA_SUCCESS)
    return result;
  CUmemoryPool fresh = pool_new(poolProps, card, poolProps->location.id);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  pool_lock();
  pool_publish(fresh);
  pool_unlock();
  *pool = fresh;
  return CUDA_SUCCESS;
}

/* What is still in use keeps the pool's memory until it is freed; the handle is invalid at once. */
CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  pool_lock();
  result = pool_check(pool);
  if (result == CUDA_SUCCESS && pool->is_default)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS) {
    if (current_pools[pool->card] == pool)
      current_pools[pool->card] = NULL;
    pool->destroyed = true;
    pool_end_if_unused(pool);
  }
  pool_unlock();
  return result;
}

CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  pool_lock();
  result = pool_check(pool);
  if (result == CUDA_SUCCESS && pool->imported)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    pool_trim(pool, minBytesToKeep);
  pool_unlock();
  return result;
}

/* ---- synchronisation points and the ends of contexts ---- */

static void trim_to_threshold(CUmemoryPool pool, void *unused) {
  (void)unused;
  pool_trim(pool, pool->release_threshold);
}

void sim_pools_synchronized(void) {
  pool_lock();
  pool_each(trim_to_threshold, NULL);
  pool_unlock();
}

struct context_end {
  CUcontext context;
  int card;
  bool last; /* no other context of this process is left on the card */
};

static void find_other(CUcontext context, void *argument) {
  struct context_end *end = argument;
  if (context->card == end->card && context != end->context)
    end->last = false;
}

static void forget_in_pool(CUmemoryPool pool, void *argument) {
  const struct context_end *end = argument;
  pool_forget_context(pool, end->context);
  if (end->last && pool->card == end->card)
    pool_trim(pool, 0);
  pool_end_if_unused(pool);
}

void sim_pool_context_ends(CUcontext context) {
  struct context_end end = {.context = context, .card = context->card, .last = true};
  sim_contexts_each(find_other, &end);
  pool_lock();
  pool_imports_forget_context(context);
  graph_memory_forget_context(context);
  pool_each(forget_in_pool, &end);
  if (end.last)
    graph_memory_trim(context->card);
  pool_unlock();
}

/* ---- stream-ordered allocation ---- */

static CUresult allocate(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream handle) {
  CUstream stream;
  if (dptr == NULL || bytesize == 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  pool_lock();
  result = pool ? pool_check(pool) : current_pool(stream->context->device, &pool);
  const CUmemPoolProps properties = result == CUDA_SUCCESS ? pool->properties : (CUmemPoolProps){0};
  pool_unlock();
  if (result == CUDA_SUCCESS) {
    if (stream->capture) {
      CUDA_MEM_ALLOC_NODE_PARAMS node = {.poolProps = properties, .bytesize = bytesize};
      result = sim_capture_alloc(stream, &node);
      *dptr = result == CUDA_SUCCESS ? node.dptr : 0;
    } else {
      sg_fault_point(stream->context->card);
      result = pool_take(pool, stream, bytesize, dptr);
    }
  }
  sim_stream_put_back(stream);
  return result;
}

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
  return allocate(dptr, bytesize, NULL, sim_null_legacy(hStream));
}

CUresult CUDAAPI cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
  return allocate(dptr, bytesize, NULL, sim_null_thread(hStream));
}

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream) {
  return pool ? allocate(dptr, bytesize, pool, sim_null_legacy(hStream)) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream) {
  return pool ? allocate(dptr, bytesize, pool, sim_null_thread(hStream)) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult free_in_order(CUdeviceptr dptr, CUstream handle) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  const struct sim_work work = {.kind = SIM_WORK_FREE, .pool = {.address = dptr}};
  result = sim_enqueue(stream, &work);
  sim_stream_put_back(stream);
  return result;
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
  return free_in_order(dptr, sim_null_legacy(hStream));
}

CUresult CUDAAPI cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream) {
  return free_in_order(dptr, sim_null_thread(hStream));
}

/* The allocation that begins at the address, NULL if there is none. Call with the pool lock held. */
static struct pool_hold *hold_at(CUdeviceptr address) {
  sim_lock();
  struct sim_block *block = sim_block_find(address);
  bool found = block && block->kind == SIM_MEMORY_POOL && block->address == address;
  sim_unlock();
  return found ? SIM_CONTAINER_OF(block, struct pool_hold, block) : NULL;
}

/* ALLOC nodes of a graph got their memory before the graph was launched (cuda_graph_memory.c). */
CUresult sim_pool_put(CUstream stream, const struct sim_work *work) {
  if (work->kind == SIM_WORK_ALLOC)
    return CUDA_SUCCESS;
  pool_lock();
  struct pool_hold *hold = hold_at(work->pool.address);
  if (hold && hold->kind == POOL_HOLD_PIECE)
    return pool_free_later(hold, stream);
  if (hold && hold->kind == POOL_HOLD_GRAPH)
    return graph_memory_free_later(hold, stream);
  if (hold)
    return pool_import_free_later(hold, stream);
  pool_unlock();
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_pool_free_now(struct sim_block *block) {
  CUresult result = CUDA_SUCCESS;
  if (block->kind != SIM_MEMORY_POOL)
    return CUDA_ERROR_INVALID_VALUE;
  pool_lock();
  struct pool_hold *hold = hold_at(block->address);
  if (hold == NULL)
    result = CUDA_ERROR_INVALID_VALUE;
  else if (hold->kind == POOL_HOLD_PIECE)
    result = pool_free_now(hold);
  else if (hold->kind == POOL_HOLD_GRAPH)
    result = graph_memory_free_now(hold);
  else
    result = pool_import_free_now(hold);
  pool_unlock();
  return result;
}

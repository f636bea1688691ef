/* pools.c - what the driver keeps in stock for this process, and how to have some of it back. */
#include "pools.h"

#include "process.h"
#include "share.h"

/* A pool grows by more than it is asked for. Until its step has been seen, this is reserved. */
#define FIRST_GROWTH_BYTES (32ull << 20)

/* A row of the table of pools: */
enum { CHARGED, GROWTH, STATE };        /* bytes; largest step seen; gpu:8 | version:56 */
#define STATE_GPU(row) ((int)((row)->value[STATE] & 0xff))
#define VERSION_STEP 0x100
#define POOL_KEY(pool) ((uint64_t)(uintptr_t)(pool))

/* ---- streams ---- */

void cg_stream_enter(struct cg_stream_scope *scope, CUstream stream) {
  const struct cg_driver *driver = cg_driver();
  CUcontext own = NULL, current = NULL;
  scope->pushed = NULL;
  if (!stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD || !driver->x_cuStreamGetCtx) return;
  if (driver->x_cuStreamGetCtx(stream, &own) != CUDA_SUCCESS || driver->x_cuCtxGetCurrent(&current) != CUDA_SUCCESS)
    return;
  if (own && own != current && driver->x_cuCtxPushCurrent_v2(own) == CUDA_SUCCESS) scope->pushed = own;
}

void cg_stream_leave(struct cg_stream_scope *scope) {
  CUcontext popped;
  if (scope->pushed) cg_driver()->x_cuCtxPopCurrent_v2(&popped);
}

/* Asking the legacy stream while another one captures is an error that harms nobody's capture. */
bool cg_capturing(CUstream stream) {
  const struct cg_driver *driver = cg_driver();
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return driver->x_cuStreamIsCapturing && driver->x_cuStreamIsCapturing(stream, &status) == CUDA_SUCCESS &&
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* ---- pools ---- */

void cg_pool_note(CUmemoryPool pool, int gpu) {
  struct cg_process *process = cg_process();
  struct cg_row row = {POOL_KEY(pool), {0, 0, (uint8_t)(gpu < 0 ? CG_UNCHARGED_GPU : gpu)}};
  cg_stocks_watch();
  cg_lock_take(&process->pool_lock);
  if (!cg_table_find(&process->pools, row.key)) cg_table_put(&process->pools, &row);
  cg_lock_give(&process->pool_lock);
}

/* A pool that is met for the first time here was not made by cuMemPoolCreate: a device's own. */
static int gpu_of_default_pool(CUmemoryPool pool) {
  const struct cg_driver *driver = cg_driver();
  int count = 0;
  if (!driver->x_cuDeviceGetDefaultMemPool || driver->x_cuDeviceGetCount(&count) != CUDA_SUCCESS) return -1;
  for (CUdevice device = 0; device < count; device++) {
    CUmemoryPool own;
    if (driver->x_cuDeviceGetDefaultMemPool(&own, device) == CUDA_SUCCESS && own == pool)
      return cg_gpu_of_device(device);
  }
  return -1;
}

int cg_pool_gpu(CUmemoryPool pool) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = pool ? cg_table_find(&process->pools, POOL_KEY(pool)) : NULL;
  int gpu = row ? STATE_GPU(row) : -1;
  cg_lock_give(&process->pool_lock);
  if (!row && pool) {
    gpu = gpu_of_default_pool(pool);
    if (gpu >= 0) cg_pool_note(pool, gpu);
  }
  return gpu == CG_UNCHARGED_GPU ? -1 : gpu;
}

static bool read_pool(CUmemoryPool pool, CUmemPool_attribute attribute, uint64_t *bytes) {
  const struct cg_driver *driver = cg_driver();
  cuuint64_t value = 0;
  if (!driver->x_cuMemPoolGetAttribute || driver->x_cuMemPoolGetAttribute(pool, attribute, &value) != CUDA_SUCCESS)
    return false;
  *bytes = value;
  return true;
}

bool cg_pool_settle(CUmemoryPool pool, int gpu, uint64_t spare_bytes) {
  struct cg_process *process = cg_process();
  for (;;) {
    cg_lock_take(&process->pool_lock);
    struct cg_row *row = cg_table_find(&process->pools, POOL_KEY(pool));
    uint64_t state = row ? row->value[STATE] : 0;
    cg_lock_give(&process->pool_lock);
    uint64_t holds = 0;
    bool told = row && read_pool(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &holds);
    if (!row) {
      cg_return(gpu, spare_bytes);
      return true;
    }
    cg_lock_take(&process->pool_lock);
    row = cg_table_find(&process->pools, POOL_KEY(pool));
    if (!row || row->value[STATE] != state) { /* somebody settled it meanwhile, perhaps with a newer figure */
      cg_lock_give(&process->pool_lock);
      continue;
    }
    uint64_t charged = row->value[CHARGED];
    if (!told) holds = charged + spare_bytes;
    if (holds > charged && holds - charged > row->value[GROWTH]) row->value[GROWTH] = holds - charged;
    row->value[CHARGED] = holds;
    row->value[STATE] += VERSION_STEP;
    cg_lock_give(&process->pool_lock);
    if (holds <= charged + spare_bytes) {
      cg_return(gpu, charged + spare_bytes - holds);
      return true;
    }
    uint64_t used, quota;
    cg_charge_truth(gpu, holds - charged - spare_bytes);
    cg_usage_now(gpu, &used, &quota);
    return used <= quota;
  }
}

uint64_t cg_pool_growth(CUmemoryPool pool, uint64_t bytes) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = cg_table_find(&process->pools, POOL_KEY(pool));
  uint64_t step = row && row->value[GROWTH] ? row->value[GROWTH] : FIRST_GROWTH_BYTES;
  cg_lock_give(&process->pool_lock);
  if (step > FIRST_GROWTH_BYTES) step = FIRST_GROWTH_BYTES; /* it once grew for one large block */
  return cg_granules(bytes) > step ? cg_granules(bytes) : step;
}

bool cg_pool_has_room(CUmemoryPool pool, uint64_t bytes) {
  uint64_t holds, used;
  return read_pool(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &holds) &&
         read_pool(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used) && holds >= used && holds - used >= bytes;
}

/* An exported pool's memory may stay with those who imported it. */
void cg_pool_forget(CUmemoryPool pool) {
  struct cg_process *process = cg_process();
  struct cg_block export = {0};
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = cg_table_find(&process->pools, POOL_KEY(pool)), was = {0};
  if (row) {
    was = *row;
    cg_table_remove(&process->pools, row);
  }
  cg_lock_give(&process->pool_lock);
  bool shared = cg_block_take(CG_KIND_POOL, POOL_KEY(pool), &export);
  if (was.key && STATE_GPU(&was) != CG_UNCHARGED_GPU)
    cg_exported_return(STATE_GPU(&was), was.value[CHARGED], POOL_KEY(pool), shared);
  else if (shared) cg_export_leave(export.bytes); /* it was another process's */
}

void cg_pool_shared(CUmemoryPool pool, uint64_t digest) {
  cg_block_add(&(struct cg_block){.key = POOL_KEY(pool), .bytes = digest, .kind = CG_KIND_POOL});
}

/* The next pool of a GPU after *cursor places of the table; null at its end. */
static CUmemoryPool next_pool(int gpu, size_t *cursor) {
  struct cg_process *process = cg_process();
  uint64_t key = 0;
  cg_lock_take(&process->pool_lock);
  while (!key && *cursor < process->pools.capacity) {
    const struct cg_row *row = &process->pools.rows[(*cursor)++];
    if (row->key && STATE_GPU(row) == gpu) key = row->key;
  }
  cg_lock_give(&process->pool_lock);
  return (CUmemoryPool)(uintptr_t)key;
}

/* ---- frees in stream order ---- */

void cg_free_deferred(const struct cg_block *block, CUstream stream) {
  const struct cg_driver *driver = cg_driver();
  struct cg_stream_scope scope;
  CUevent event = NULL;
  cg_stocks_watch();
  cg_stream_enter(&scope, stream);
  struct cg_block waiting = {.context = block->context, .kind = CG_KIND_DEFERRED, .gpu = block->gpu,
                             .references = block->references, .bytes = block->bytes};
  if (driver->x_cuEventCreate(&event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS &&
      driver->x_cuEventRecord(event, stream) == CUDA_SUCCESS) {
    waiting.key = (uint64_t)(uintptr_t)event;
    if (block->bytes < CG_SMALL_BYTES) waiting.bytes = cg_pages_leave(block->key, block->bytes) * CG_GRANULE_BYTES;
    if (waiting.bytes && !cg_block_add(&waiting)) cg_return(waiting.gpu, waiting.bytes);
  } else {
    if (event) driver->x_cuEventDestroy_v2(event);
    cg_block_return(block); /* the context has failed; what it held is gone */
  }
  cg_stream_leave(&scope);
}

static bool settle_deferred(int gpu) {
  const struct cg_driver *driver = cg_driver();
  struct cg_block waiting;
  bool any = false;
  for (size_t cursor = 0; cg_block_next(CG_KIND_DEFERRED, &cursor, &waiting);) {
    CUevent event = (CUevent)(uintptr_t)waiting.key;
    if (waiting.gpu != gpu || driver->x_cuEventQuery(event) == CUDA_ERROR_NOT_READY) continue;
    if (!cg_block_take(CG_KIND_DEFERRED, waiting.key, &waiting)) continue; /* another thread did */
    driver->x_cuEventDestroy_v2(event);
    cg_return(gpu, waiting.bytes);
    any = true;
  }
  return any;
}

/* ---- for everybody ---- */

/* Our own calls must not disturb a capture of the user's, in whichever thread: in relaxed mode no call
 * of this thread is held against it. */
static CUstreamCaptureMode relax(void) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  cg_driver()->x_cuThreadExchangeStreamCaptureMode(&mode);
  return mode;
}
static void restore(CUstreamCaptureMode mode) { cg_driver()->x_cuThreadExchangeStreamCaptureMode(&mode); }

void cg_pools_refresh(int gpu) {
  struct cg_process *process = cg_process();
  if (gpu < 0 || !atomic_load_explicit(&process->stocks, memory_order_relaxed)) return;
  CUstreamCaptureMode mode = relax();
  CUmemoryPool pool;
  for (size_t cursor = 0; (pool = next_pool(gpu, &cursor));) cg_pool_settle(pool, gpu, 0);
  cg_graph_settle(gpu, 0);
  settle_deferred(gpu);
  cg_exports_settle(gpu);
  restore(mode);
}

void cg_stocks_synchronized(void) {
  if (atomic_load_explicit(&cg_process()->stocks, memory_order_relaxed)) cg_pools_refresh(cg_gpu_current());
}

/* What the driver keeps for reuse is given back before an allocation is refused. */
bool cg_stocks_relieve(int gpu) {
  const struct cg_driver *driver = cg_driver();
  uint64_t before, after, quota;
  cg_usage_now(gpu, &before, &quota);
  CUstreamCaptureMode mode = relax();
  CUmemoryPool pool;
  for (size_t cursor = 0; (pool = next_pool(gpu, &cursor));)
    if (driver->cuMemPoolTrimTo && driver->cuMemPoolTrimTo(pool, 0) == CUDA_SUCCESS) cg_pool_settle(pool, gpu, 0);
  cg_graph_trim(gpu);
  settle_deferred(gpu);
  cg_exports_settle(gpu);
  restore(mode);
  cg_usage_now(gpu, &after, &quota);
  return after < before;
}

/* pools.c - memory pools: what each of them holds is what it is charged. */
#include "pools.h"

#include "process.h"
#include "share.h"

/* A pool grows by more than it is asked for, but no more than this. Until its step has been seen, so
 * much is reserved. */
#define GROWTH_BYTES (32ull << 20)

/* A row of the table of pools: bytes charged; bytes handed out and not freed yet by a call, whether or
 * not the stream has come to it; version:48 | largest step in granules:8 | gpu:8. */
enum { CHARGED, LIVE, STATE };
#define STATE_GPU(row) ((int)((row)->value[STATE] & 0xff))
#define STATE_STEP(row) ((row)->value[STATE] >> 8 & 0xff)
#define STEP_MASK 0xff00ull
#define VERSION_STEP 0x10000
#define POOL_KEY(pool) ((uint64_t)(uintptr_t)(pool))
#define DESTROYED(key) ((key) >> 63) /* no handle has such a value */

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
  if (DESTROYED(POOL_KEY(pool)) || !driver->x_cuMemPoolGetAttribute || driver->x_cuMemPoolGetAttribute(pool, attribute, &value) != CUDA_SUCCESS)
    return false;
  *bytes = value;
  return true;
}

static void note_growth(struct cg_row *row, uint64_t bytes) {
  uint64_t step = (bytes < GROWTH_BYTES ? bytes : GROWTH_BYTES) / CG_GRANULE_BYTES;
  if (step > STATE_STEP(row)) row->value[STATE] = (row->value[STATE] & ~STEP_MASK) | step << 8;
}

void cg_pool_settle(CUmemoryPool pool, int gpu, uint64_t spare_bytes) {
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
      return;
    }
    cg_lock_take(&process->pool_lock);
    row = cg_table_find(&process->pools, POOL_KEY(pool));
    if (!row || row->value[STATE] != state) { /* somebody settled it meanwhile, perhaps with a newer figure */
      cg_lock_give(&process->pool_lock);
      continue;
    }
    uint64_t charged = row->value[CHARGED];
    if (!told) holds = charged + spare_bytes;
    if (holds > charged) note_growth(row, holds - charged);
    row->value[CHARGED] = holds;
    row->value[STATE] += VERSION_STEP;
    cg_lock_give(&process->pool_lock);
    if (holds <= charged + spare_bytes) cg_return(gpu, charged + spare_bytes - holds);
    else cg_charge_truth(gpu, holds - charged - spare_bytes);
    return;
  }
}

uint64_t cg_pool_growth(CUmemoryPool pool, uint64_t bytes) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = cg_table_find(&process->pools, POOL_KEY(pool));
  uint64_t step = row && STATE_STEP(row) ? STATE_STEP(row) * CG_GRANULE_BYTES : GROWTH_BYTES;
  cg_lock_give(&process->pool_lock);
  return cg_granules(bytes) > step ? cg_granules(bytes) : step;
}

/* ---- the end of a pool ----
 *
 * A destroyed pool lives on until the last block is freed and the stream has come to it. Its handle is
 * the driver's to use again, so before the call its row and its blocks get a name that no handle has. */

static void rename_pool(uint64_t from, uint64_t to) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = cg_table_find(&process->pools, from), moved;
  if (row) {
    moved = *row;
    moved.key = to;
    cg_table_remove(&process->pools, row);
    cg_table_put(&process->pools, &moved);
  }
  cg_lock_give(&process->pool_lock);
  if (row) cg_blocks_move_context((CUcontext)(uintptr_t)from, (CUcontext)(uintptr_t)to);
}

uint64_t cg_pool_destroying(CUmemoryPool pool) {
  struct cg_process *process = cg_process();
  int gpu = cg_pool_gpu(pool);
  if (gpu >= 0 && cg_driver()->cuMemPoolTrimTo(pool, 0) == CUDA_SUCCESS) cg_pool_settle(pool, gpu, 0);
  uint64_t name = ~atomic_fetch_add_explicit(&process->pools_destroyed, 1, memory_order_relaxed);
  rename_pool(POOL_KEY(pool), name);
  return name;
}

/* Removes the row of a pool that has been destroyed when nothing of it is handed out any more. */
static bool bury(uint64_t name, struct cg_row *buried) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = cg_table_find(&process->pools, name);
  bool over = row && !row->value[LIVE];
  if (row) *buried = *row;
  if (over) cg_table_remove(&process->pools, row);
  cg_lock_give(&process->pool_lock);
  return over;
}

/* What is still held then are blocks whose frees no stream has come to. */
static void return_buried(const struct cg_row *buried, CUstream stream) {
  if (STATE_GPU(buried) == CG_UNCHARGED_GPU || !buried->value[CHARGED]) return;
  struct cg_block rest = {.key = 1, .bytes = buried->value[CHARGED], .kind = CG_KIND_STOCKED, .gpu = (uint8_t)STATE_GPU(buried)};
  cg_driver()->x_cuCtxGetCurrent(&rest.context);
  cg_free_deferred(&rest, stream);
}

/* ---- what pools have handed out ---- */

static void change_live(CUmemoryPool pool, uint64_t more, uint64_t less) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = cg_table_find(&process->pools, POOL_KEY(pool));
  if (row) row->value[LIVE] += more - less;
  cg_lock_give(&process->pool_lock);
}

void cg_pool_gave(CUmemoryPool pool, CUdeviceptr pointer, uint64_t bytes) {
  struct cg_block block = {.key = pointer, .bytes = bytes, .context = (CUcontext)pool, .kind = CG_KIND_STOCKED}, stale;
  if (cg_block_take(CG_KIND_STOCKED, pointer, &stale)) cg_pool_took(&stale, CU_STREAM_LEGACY); /* its context has ended */
  if (cg_block_add(&block)) change_live(pool, bytes, 0);
}

/* Importers must free a block before its exporter does, and the driver keeps it for those who do not:
 * no figure of the pool tells that, nor how much of the pool the block's memory was a part of. So all
 * that the pool is charged is charged once more, until the last importer lets go. */
static void keep_for_importers(const struct cg_block *block) {
  struct cg_process *process = cg_process();
  struct cg_block export;
  if (!cg_block_take(CG_KIND_IPC, block->key, &export) || !cg_exported_held(block->key)) return;
  cg_lock_take(&process->pool_lock);
  const struct cg_row *row = cg_table_find(&process->pools, POOL_KEY(block->context));
  uint64_t bytes = row ? row->value[CHARGED] : 0;
  int gpu = row ? STATE_GPU(row) : CG_UNCHARGED_GPU;
  cg_lock_give(&process->pool_lock);
  if (gpu == CG_UNCHARGED_GPU) return;
  cg_charge_truth(gpu, bytes);
  cg_exported_return(gpu, bytes, block->key, true);
}

void cg_pool_took(const struct cg_block *block, CUstream stream) {
  struct cg_row row;
  keep_for_importers(block);
  change_live((CUmemoryPool)block->context, 0, block->bytes);
  if (DESTROYED((uint64_t)(uintptr_t)block->context) && bury((uint64_t)(uintptr_t)block->context, &row))
    return_buried(&row, stream);
}

bool cg_pool_keeps(CUmemoryPool pool) {
  struct cg_process *process = cg_process();
  uint64_t holds = 0;
  cg_lock_take(&process->pool_lock);
  struct cg_row *row = cg_table_find(&process->pools, POOL_KEY(pool));
  uint64_t live = row ? row->value[LIVE] : UINT64_MAX;
  cg_lock_give(&process->pool_lock);
  return read_pool(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &holds) && holds > live;
}

void cg_pool_destroyed(CUmemoryPool pool, uint64_t name, CUresult result) {
  struct cg_block export;
  struct cg_row row = {0};
  if (result != CUDA_SUCCESS) {
    rename_pool(name, POOL_KEY(pool));
    return;
  }
  bool shared = cg_block_take(CG_KIND_POOL, POOL_KEY(pool), &export), over = bury(name, &row);
  if (!row.key) return;
  if (shared && STATE_GPU(&row) == CG_UNCHARGED_GPU) cg_export_leave(export.bytes); /* another process's */
  else if (shared && over) cg_exported_return(STATE_GPU(&row), row.value[CHARGED], POOL_KEY(pool), true);
  else if (over) return_buried(&row, CU_STREAM_LEGACY);
}

void cg_pool_shared(CUmemoryPool pool, uint64_t digest) {
  cg_block_add(&(struct cg_block){.key = POOL_KEY(pool), .bytes = digest, .kind = CG_KIND_POOL});
}

CUmemoryPool cg_pool_next(int gpu, size_t *cursor) {
  struct cg_process *process = cg_process();
  uint64_t key = 0;
  cg_lock_take(&process->pool_lock);
  while (!key && *cursor < process->pools.capacity) {
    const struct cg_row *row = &process->pools.rows[(*cursor)++];
    if (row->key && !DESTROYED(row->key) && STATE_GPU(row) == gpu) key = row->key;
  }
  cg_lock_give(&process->pool_lock);
  return (CUmemoryPool)(uintptr_t)key;
}

/* stocks.c - what the driver keeps for this process beyond what is in use, and having it back: streams
 * and what was freed on them, pools, graph memory, exports that others have let go. */
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pools.h"
#include "process.h"
#include "share.h"

#define STREAM_POLL_NS 100000u
#define STREAM_WAIT_NS 1000000000ull /* work that waits for this very thread must not wait for ever */

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

/* Our own calls must not disturb a capture of the user's, in whichever thread: in relaxed mode no call
 * of this thread is held against it. */
static CUstreamCaptureMode relax(void) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  cg_driver()->x_cuThreadExchangeStreamCaptureMode(&mode);
  return mode;
}
static void restore(CUstreamCaptureMode mode) { cg_driver()->x_cuThreadExchangeStreamCaptureMode(&mode); }

bool cg_stream_wait(CUstream stream) {
  const struct cg_driver *driver = cg_driver();
  const struct timespec pause = {.tv_nsec = STREAM_POLL_NS};
  struct cg_stream_scope scope;
  CUevent event = NULL;
  CUresult result = CUDA_ERROR_UNKNOWN;
  int saved = errno;
  cg_stream_enter(&scope, stream);
  CUstreamCaptureMode mode = relax();
  if (driver->x_cuEventCreate(&event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS)
    result = driver->x_cuEventRecord(event, stream);
  for (uint64_t waited = 0; result == CUDA_SUCCESS && waited < STREAM_WAIT_NS; waited += STREAM_POLL_NS) {
    if (driver->x_cuEventQuery(event) != CUDA_ERROR_NOT_READY) break;
    syscall(SYS_nanosleep, &pause, NULL); /* the function would be a cancellation point */
  }
  if (event) driver->x_cuEventDestroy_v2(event);
  restore(mode);
  cg_stream_leave(&scope);
  errno = saved;
  return result == CUDA_SUCCESS;
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
    if (block->kind == CG_KIND_POINTER && block->bytes < CG_SMALL_BYTES)
      waiting.bytes = cg_pages_leave(block->key, block->bytes) * CG_GRANULE_BYTES;
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

/* ---- all that is in stock ---- */

void cg_pools_refresh(int gpu) {
  struct cg_process *process = cg_process();
  if (gpu < 0 || !atomic_load_explicit(&process->stocks, memory_order_relaxed)) return;
  CUstreamCaptureMode mode = relax();
  CUmemoryPool pool;
  for (size_t cursor = 0; (pool = cg_pool_next(gpu, &cursor));) cg_pool_settle(pool, gpu, 0);
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
  for (size_t cursor = 0; (pool = cg_pool_next(gpu, &cursor));)
    if (driver->cuMemPoolTrimTo && driver->cuMemPoolTrimTo(pool, 0) == CUDA_SUCCESS) cg_pool_settle(pool, gpu, 0);
  cg_graph_trim(gpu);
  settle_deferred(gpu);
  cg_exports_settle(gpu);
  restore(mode);
  cg_usage_now(gpu, &after, &quota);
  return after < before;
}

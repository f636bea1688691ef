/* hooks_context.c - contexts: each takes memory of its own, and frees at its end all that was made in it.
 *
 * A context has no size that could be asked for; its GPU's context_bytes (from the agent, which
 * measures) is reserved as an estimate. A device's primary context is charged when it comes to life
 * and returned when it is inactive again, whoever retained and released it in between.
 */
#include <string.h>

#include "memory.h"
#include "process.h"
#include "share.h"

/* What one more context on the GPU is estimated to take, in whole units. */
static uint64_t context_bytes(int gpu) {
  const struct cg_region *region = cg_region();
  if (gpu < 0 || region->state != CG_REGION_READY) return 0;
  uint64_t bytes = __atomic_load_n(&region->grants->gpu[gpu].context_bytes, __ATOMIC_ACQUIRE);
  return (bytes + CGPU_UNIT_BYTES - 1) / CGPU_UNIT_BYTES * CGPU_UNIT_BYTES;
}

/* ---- contexts that are created and destroyed ---- */

struct creation {
  int gpu;
  enum cg_verdict verdict;
  uint64_t bytes;
};

static bool begin(struct creation *creation, CUdevice device) {
  creation->gpu = cg_gpu_of_device(device);
  creation->bytes = context_bytes(creation->gpu);
  creation->verdict = cg_reserve_estimate(creation->gpu, creation->bytes);
  return creation->verdict != CG_REFUSED;
}

static CUresult finish(const struct creation *creation, CUresult result, CUcontext context) {
  if (creation->verdict != CG_GRANTED) return result;
  struct cg_block block = {.key = (uint64_t)(uintptr_t)context,
                           .bytes = creation->bytes,
                           .kind = CG_KIND_CONTEXT,
                           .gpu = (uint8_t)creation->gpu};
  if (result == CUDA_SUCCESS && !cg_block_add(&block)) {
    cg_driver()->cuCtxDestroy_v2(context);
    result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result == CUDA_SUCCESS) cg_note_contexts(creation->gpu, 1);
  else cg_return_estimate(creation->gpu, creation->bytes);
  return result;
}

CG_EXPORT CUresult cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev) {
  CG_DRIVER(cuCtxCreate);
  struct creation creation;
  if (!begin(&creation, dev)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuCtxCreate(pctx, flags, dev);
  return finish(&creation, result, result == CUDA_SUCCESS ? *pctx : NULL);
}

CG_EXPORT CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev) {
  CG_DRIVER(cuCtxCreate_v2);
  struct creation creation;
  if (!begin(&creation, dev)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuCtxCreate_v2(pctx, flags, dev);
  return finish(&creation, result, result == CUDA_SUCCESS ? *pctx : NULL);
}

CG_EXPORT CUresult cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags,
                                  CUdevice dev) {
  CG_DRIVER(cuCtxCreate_v3);
  struct creation creation;
  if (!begin(&creation, dev)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuCtxCreate_v3(pctx, paramsArray, numParams, flags, dev);
  return finish(&creation, result, result == CUDA_SUCCESS ? *pctx : NULL);
}

CG_EXPORT CUresult cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags, CUdevice dev) {
  CG_DRIVER(cuCtxCreate_v4);
  struct creation creation;
  if (!begin(&creation, dev)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuCtxCreate_v4(pctx, ctxCreateParams, flags, dev);
  return finish(&creation, result, result == CUDA_SUCCESS ? *pctx : NULL);
}

static void drop(CUcontext context) {
  cg_blocks_drop_context(context);
  cg_imports_drop_context(context);
}

/* What a dying context is called meanwhile; handles are aligned, so no living one has this value. */
static CUcontext dying(CUcontext context) { return (CUcontext)((uintptr_t)context | 1); }

static CUresult destroy(CUresult (*real)(CUcontext), CUcontext context) {
  if (!context || !cg_is_tenant()) return real(context);
  struct cg_block block;
  bool known = cg_block_take(CG_KIND_CONTEXT, (uint64_t)(uintptr_t)context, &block);
  cg_gate_forget_context(context);
  cg_blocks_move_context(context, dying(context));
  CUresult result = real(context);
  if (result != CUDA_SUCCESS) {
    cg_blocks_move_context(dying(context), context);
    if (known) cg_block_add(&block);
    return result;
  }
  drop(dying(context));
  if (!known) return result;
  cg_note_contexts(block.gpu, -1);
  cg_block_return(&block);
  return result;
}

CG_EXPORT CUresult cuCtxDestroy_v2(CUcontext ctx) {
  CG_DRIVER(cuCtxDestroy_v2);
  return destroy(driver->cuCtxDestroy_v2, ctx);
}

CG_EXPORT CUresult cuCtxDestroy(CUcontext ctx) {
  CG_DRIVER(cuCtxDestroy);
  return destroy(driver->cuCtxDestroy, ctx);
}

/* Destroys the context only if it was attached once; a context that is gone is current no more. */
CG_EXPORT CUresult cuCtxDetach(CUcontext ctx) {
  CG_DRIVER(cuCtxDetach);
  CUcontext current = NULL;
  CUresult result = driver->cuCtxDetach(ctx);
  if (result != CUDA_SUCCESS || !ctx || !cg_is_tenant()) return result;
  if (driver->x_cuCtxGetCurrent(&current) == CUDA_SUCCESS && current == ctx) return result;
  struct cg_block block;
  if (!cg_block_take(CG_KIND_CONTEXT, (uint64_t)(uintptr_t)ctx, &block)) return result;
  cg_gate_forget_context(ctx);
  drop(ctx);
  cg_note_contexts(block.gpu, -1);
  cg_block_return(&block);
  return result;
}

/* ---- primary contexts ---- */

static bool primary_active(CUdevice device) {
  const struct cg_driver *driver = cg_driver();
  unsigned int flags;
  int active = 0;
  return driver->x_cuDevicePrimaryCtxGetState &&
         driver->x_cuDevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && active;
}

static struct cg_primary *primary_of(struct cg_process *process, CUdevice device) {
  return device >= 0 && device < CG_MAX_DEVICES ? &process->primary[device] : NULL;
}

/* Before something that may bring a primary context to life. */
static bool primary_begin(struct creation *creation, CUdevice device) {
  struct cg_process *process = cg_process();
  struct cg_primary *primary = primary_of(process, device);
  creation->gpu = cg_gpu_of_device(device);
  creation->bytes = 0;
  creation->verdict = CG_PASS;
  if (!primary || (cg_is_tenant() && creation->gpu < 0)) return true;
  cg_lock_take(&process->primary_lock);
  bool charged = primary->charged;
  cg_lock_give(&process->primary_lock);
  if (charged || primary_active(device)) return true;
  creation->bytes = context_bytes(creation->gpu);
  creation->verdict = cg_reserve_estimate(creation->gpu, creation->bytes);
  return creation->verdict != CG_REFUSED;
}

/* After it: one of those that were at it at the same time keeps its reserve. */
static void primary_finish(const struct creation *creation, CUdevice device, CUresult result, CUcontext context) {
  struct cg_process *process = cg_process();
  struct cg_primary *primary = primary_of(process, device);
  if (creation->verdict != CG_GRANTED) return;
  bool keep = false;
  cg_lock_take(&process->primary_lock);
  if (result == CUDA_SUCCESS && !primary->charged) {
    *primary = (struct cg_primary){.charged = true, .context = context, .bytes = creation->bytes};
    keep = true;
  }
  cg_lock_give(&process->primary_lock);
  if (keep) cg_note_contexts(creation->gpu, 1);
  else cg_return_estimate(creation->gpu, creation->bytes);
}

/* What is made while a green context is current has that one's handle (cuCtxFromGreenCtx) for a context
 * and yet lives as long as the primary context. A block without bytes tells which that is. */
static void note_view(CUgreenCtx green, CUdevice device) {
  const struct cg_driver *driver = cg_driver();
  struct cg_process *process = cg_process();
  struct cg_primary *primary = primary_of(process, device);
  struct cg_block block = {.kind = CG_KIND_CONTEXT, .gpu = (uint8_t)cg_gpu_of_device(device)};
  CUcontext view;
  if (!primary || !cg_is_tenant() || !driver->x_cuCtxFromGreenCtx ||
      driver->x_cuCtxFromGreenCtx(&view, green) != CUDA_SUCCESS)
    return;
  block.key = (uint64_t)(uintptr_t)view;
  cg_lock_take(&process->primary_lock);
  block.context = primary->context;
  cg_lock_give(&process->primary_lock);
  if (block.context) cg_block_add(&block); /* without memory for it: what is made in it is charged for good */
}

static bool is_view(const struct cg_block *block) { return block->context && !block->bytes; }

static void adopt(const struct cg_block *view) {
  cg_gate_forget_context((CUcontext)(uintptr_t)view->key);
  cg_blocks_move_context((CUcontext)(uintptr_t)view->key, view->context);
}

static void adopt_all(CUcontext primary) {
  struct cg_block block;
  size_t cursor = 0;
  while (cg_block_next(CG_KIND_CONTEXT, &cursor, &block))
    if (block.context == primary && is_view(&block)) adopt(&block);
}

/* After something that may have ended it. */
static void primary_ended(CUdevice device) {
  struct cg_process *process = cg_process();
  struct cg_primary *primary = primary_of(process, device), was = {0};
  if (!primary || !cg_is_tenant() || primary_active(device)) return;
  cg_lock_take(&process->primary_lock);
  was = *primary;
  memset(primary, 0, sizeof *primary);
  cg_lock_give(&process->primary_lock);
  if (!was.charged) return;
  int gpu = cg_gpu_of_device(device);
  cg_gate_forget_context(was.context);
  adopt_all(was.context);
  drop(was.context);
  cg_note_contexts(gpu, -1);
  cg_return_estimate(gpu, was.bytes);
}

CG_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
  CG_DRIVER(cuDevicePrimaryCtxRetain);
  struct creation creation;
  if (!primary_begin(&creation, dev)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuDevicePrimaryCtxRetain(pctx, dev);
  primary_finish(&creation, dev, result, result == CUDA_SUCCESS ? *pctx : NULL);
  return result;
}

static CUresult primary_end(CUresult (*real)(CUdevice), CUdevice device) {
  CUresult result = real(device);
  if (result == CUDA_SUCCESS) primary_ended(device);
  return result;
}

CG_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice dev) {
  CG_DRIVER(cuDevicePrimaryCtxRelease);
  return primary_end(driver->cuDevicePrimaryCtxRelease, dev);
}

CG_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
  CG_DRIVER(cuDevicePrimaryCtxRelease_v2);
  return primary_end(driver->cuDevicePrimaryCtxRelease_v2, dev);
}

CG_EXPORT CUresult cuDevicePrimaryCtxReset(CUdevice dev) {
  CG_DRIVER(cuDevicePrimaryCtxReset);
  return primary_end(driver->cuDevicePrimaryCtxReset, dev);
}

CG_EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
  CG_DRIVER(cuDevicePrimaryCtxReset_v2);
  return primary_end(driver->cuDevicePrimaryCtxReset_v2, dev);
}

/* ---- green contexts: a part of the device's multiprocessors, in the primary context's memory ---- */

CG_EXPORT CUresult cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev, unsigned int flags) {
  CG_DRIVER(cuGreenCtxCreate);
  struct creation creation;
  if (!primary_begin(&creation, dev)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuGreenCtxCreate(phCtx, desc, dev, flags);
  CUcontext primary = NULL;
  if (result == CUDA_SUCCESS && creation.verdict == CG_GRANTED) {
    /* The green context keeps the primary one alive; retaining it for a moment tells its handle. */
    if (driver->cuDevicePrimaryCtxRetain(&primary, dev) == CUDA_SUCCESS) driver->cuDevicePrimaryCtxRelease_v2(dev);
  }
  primary_finish(&creation, dev, result, primary);
  if (result == CUDA_SUCCESS) note_view(*phCtx, dev);
  return result;
}

CG_EXPORT CUresult cuGreenCtxDestroy(CUgreenCtx hCtx) {
  CG_DRIVER(cuGreenCtxDestroy);
  CUcontext handle = NULL;
  struct cg_block view;
  if (cg_is_tenant() && driver->x_cuCtxFromGreenCtx) driver->x_cuCtxFromGreenCtx(&handle, hCtx);
  bool known = cg_block_take(CG_KIND_CONTEXT, (uint64_t)(uintptr_t)handle, &view);
  if (known) adopt(&view);
  CUresult result = driver->cuGreenCtxDestroy(hCtx);
  if (known && result != CUDA_SUCCESS) cg_block_add(&view);
  for (CUdevice device = 0; result == CUDA_SUCCESS && device < CG_MAX_DEVICES; device++)
    if (cg_process()->primary[device].charged) primary_ended(device);
  return result;
}

/* ---- heaps ---- */

/* Device memory that a limit's value stands for: the device heap and the print buffer have it once, a
 * stack is there for each thread that the card can hold. Other limits take none. */
static uint64_t limit_bytes(CUlimit limit, uint64_t value, CUdevice device) {
  const struct cg_driver *driver = cg_driver();
  int processors = 0, threads = 0;
  if (limit == CU_LIMIT_MALLOC_HEAP_SIZE || limit == CU_LIMIT_PRINTF_FIFO_SIZE) return cg_granules(value);
  if (limit != CU_LIMIT_STACK_SIZE) return 0;
  driver->x_cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  driver->x_cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, device);
  uint64_t bytes;
  return __builtin_mul_overflow(value, (uint64_t)processors * (uint64_t)threads, &bytes) ? UINT64_MAX : cg_granules(bytes);
}

/* A limit as the context was made with is part of the context's estimate; what is asked for beyond is
 * reserved, and returned when the limit sinks or the context ends. */
CG_EXPORT CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  CG_DRIVER(cuCtxSetLimit);
  CUdevice device;
  CUcontext context = NULL;
  size_t before = 0, after = 0;
  int gpu = cg_is_tenant() ? cg_gpu_current() : -1;
  if (gpu < 0 || driver->x_cuCtxGetDevice(&device) != CUDA_SUCCESS || !limit_bytes(limit, 1, device) ||
      driver->x_cuCtxGetCurrent(&context) != CUDA_SUCCESS || driver->x_cuCtxGetLimit(&before, limit) != CUDA_SUCCESS)
    return driver->cuCtxSetLimit(limit, value);
  uint64_t old = limit_bytes(limit, before, device), wanted = limit_bytes(limit, value, device);
  uint64_t more = wanted > old ? wanted - old : 0;
  if (cg_reserve_estimate(gpu, more) == CG_REFUSED) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuCtxSetLimit(limit, value);
  if (result != CUDA_SUCCESS || driver->x_cuCtxGetLimit(&after, limit) != CUDA_SUCCESS) {
    cg_return_estimate(gpu, more);
    return result;
  }
  struct cg_block heap = {.key = (uint64_t)(uintptr_t)context + 1 + limit, .kind = CG_KIND_CONTEXT}, earlier;
  if (cg_block_take(CG_KIND_CONTEXT, heap.key, &earlier)) heap.bytes = earlier.bytes;
  heap.context = context;
  heap.gpu = (uint8_t)gpu;
  uint64_t now = limit_bytes(limit, after, device), surplus = old > now ? old - now : 0;
  if (surplus > heap.bytes) surplus = heap.bytes;
  heap.bytes += more - surplus;
  cg_return_estimate(gpu, surplus);
  if (heap.bytes && !cg_block_add(&heap)) cg_return_estimate(gpu, heap.bytes);
  return result;
}

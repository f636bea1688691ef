/* cuda_context.c - contexts: creation, what belongs to them, limits, and their end. */
#include "cuda_internal.h"

#include <stdlib.h>

#include "cuda_process.h"

/* A destroyed context's struct stays, so that a stale handle (in another thread's stack) answers
 * CONTEXT_IS_DESTROYED instead of being somebody else's memory. */
static struct CUctx_st *live, *ended;

/* Defaults as documented for cuCtxSetLimit and observed on current cards. */
static const size_t default_limits[CU_LIMIT_MAX] = {
    [CU_LIMIT_STACK_SIZE] = 1024,
    [CU_LIMIT_PRINTF_FIFO_SIZE] = 1u << 20,
    [CU_LIMIT_MALLOC_HEAP_SIZE] = 8u << 20,
    [CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2,
    [CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048,
    [CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64,
};

void sim_own(CUcontext context, struct sim_owned *owned, void (*destroy)(struct sim_owned *)) {
  owned->destroy = destroy;
  sim_lock();
  owned->next = context->owned;
  owned->previous = &context->owned;
  if (owned->next)
    owned->next->previous = &owned->next;
  context->owned = owned;
  sim_unlock();
}

static void unlink_owned(struct sim_owned *owned) {
  *owned->previous = owned->next;
  if (owned->next)
    owned->next->previous = owned->previous;
  owned->previous = NULL;
}

bool sim_disown(struct sim_owned *owned) {
  sim_lock();
  bool was_on = owned->previous != NULL;
  if (was_on)
    unlink_owned(owned);
  sim_unlock();
  return was_on;
}

CUresult sim_context_new(CUdevice device, unsigned flags, unsigned api_version, bool primary, CUcontext *context) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  sg_fault_point(card);
  struct CUctx_st *fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->magic = SIM_MAGIC_CONTEXT;
  fresh->base = fresh;
  fresh->card = card;
  fresh->device = device;
  fresh->id = sim_next_id();
  fresh->flags = flags | CU_CTX_MAP_HOST;
  fresh->api_version = api_version;
  fresh->primary = primary;
  for (int limit = 0; limit < CU_LIMIT_MAX; limit++)
    fresh->limits[limit] = default_limits[limit];
  result = sim_result(sg_context_create(card, &fresh->machine));
  if (result == CUDA_SUCCESS) {
    result = sim_stream_new(fresh, CU_STREAM_DEFAULT, 0, &fresh->legacy);
    if (result != CUDA_SUCCESS)
      sg_context_destroy(fresh->machine);
  }
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  fresh->legacy->is_legacy = true;
  sim_context_enlist(fresh);
  *context = fresh;
  return CUDA_SUCCESS;
}

void sim_context_enlist(CUcontext context) {
  sim_lock();
  context->next_live = live;
  live = context;
  sim_unlock();
}

void sim_context_bury(CUcontext context) {
  sim_lock();
  context->next_live = ended;
  ended = context;
  sim_unlock();
}

bool sim_context_delist(CUcontext context) {
  bool found = false;
  sim_lock();
  for (struct CUctx_st **link = &live; *link; link = &(*link)->next_live)
    if (*link == context) {
      *link = context->next_live;
      context->destroyed = found = true;
      break;
    }
  sim_unlock();
  if (found)
    atomic_store(&context->sticky, CUDA_ERROR_CONTEXT_IS_DESTROYED);
  return found;
}

static struct sim_owned *next_owned(CUcontext context) {
  sim_lock();
  struct sim_owned *owned = context->owned;
  if (owned)
    unlink_owned(owned);
  sim_unlock();
  return owned;
}

/* Queued work is dropped, as when a real context dies with work in flight. */
CUresult sim_context_end(CUcontext context) {
  if (!sim_context_delist(context))
    return CUDA_ERROR_INVALID_CONTEXT;
  sg_context_destroy(context->machine);
  sim_worker_forget_context(context);
  sim_pool_context_ends(context);
  for (struct sim_owned *owned; (owned = next_owned(context));)
    owned->destroy(owned);
  sim_streams_end(context);
  sim_context_bury(context);
  return CUDA_SUCCESS;
}

bool sim_context_valid(CUcontext context) {
  bool found = false;
  sim_lock();
  for (const struct CUctx_st *each = live; each && !found; each = each->next_live)
    found = each == context;
  sim_unlock();
  return found;
}

void sim_contexts_each(void (*visit)(CUcontext, void *), void *argument) {
  sim_lock();
  for (struct CUctx_st *each = live; each; each = each->next_live)
    if (!each->green)
      visit(each, argument);
  sim_unlock();
}

CUcontext sim_context_view(CUgreenCtx green) {
  CUcontext const lists[] = {live, ended};
  CUcontext view = NULL;
  for (int i = 0; green && !view && i < 2; i++)
    for (view = lists[i]; view && view->green != green; view = view->next_live)
      ;
  return view;
}

/* A view is as sound as the context behind it, until its green context is destroyed. */
static CUresult soundness(CUcontext home) {
  CUresult own = (CUresult)atomic_load(&home->sticky);
  return own == CUDA_SUCCESS ? (CUresult)atomic_load(&home->base->sticky) : own;
}

CUresult sim_current(CUcontext *context) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  CUcontext home = sim_thread_context();
  if (!home)
    return CUDA_ERROR_INVALID_CONTEXT;
  *context = home->base;
  return soundness(home);
}

CUresult sim_home_of(CUcontext handle, CUcontext *home, CUcontext *context) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  *home = handle ? handle : sim_thread_context();
  if (!*home || (handle && !sim_context_valid(handle)))
    return CUDA_ERROR_INVALID_CONTEXT;
  *context = (*home)->base;
  return soundness(*home);
}

CUresult sim_context_of(CUcontext handle, CUcontext *context) {
  CUcontext home;
  return sim_home_of(handle, &home, context);
}

CUresult sim_context_wait(CUcontext home) {
  CUresult result = sim_streams_wait(home);
  return result == CUDA_SUCCESS ? sim_context_probe(home->base) : result;
}

/* A green context waits for its own streams, any other for those of its green contexts, too. */
static CUresult synchronize(CUcontext handle) {
  CUcontext home, context;
  CUresult result = sim_home_of(handle, &home, &context);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_context(home);
  if (result == CUDA_SUCCESS)
    result = sim_context_wait(home);
  if (result == CUDA_SUCCESS)
    sim_pools_synchronized();
  return result;
}

CUresult cuCtxSynchronize(void) { return synchronize(NULL); }
CUresult cuCtxSynchronize_v2(CUcontext ctx) { return synchronize(ctx); }

/* ---- limits ---- */

CUresult cuCtxGetLimit(size_t *pvalue, CUlimit limit) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pvalue)
    return CUDA_ERROR_INVALID_VALUE;
  if ((unsigned)limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
    return CUDA_ERROR_UNSUPPORTED_LIMIT;
  *pvalue = context->limits[limit];
  return CUDA_SUCCESS;
}

/* What a limit reserves on the card beyond the default, which the context's own memory includes. */
static uint64_t limit_bytes(CUcontext context, CUlimit limit, size_t value) {
  const struct sg_card_info *info = sg_card(context->card);
  if (value <= default_limits[limit])
    return 0;
  uint64_t more = value - default_limits[limit];
  if (limit == CU_LIMIT_STACK_SIZE)
    return more * info->sm_count * info->max_threads_per_sm;
  return limit == CU_LIMIT_MALLOC_HEAP_SIZE || limit == CU_LIMIT_PRINTF_FIFO_SIZE ? more : 0;
}

static CUresult change_limit(CUcontext context, CUlimit limit, size_t value) {
  struct sim_block *fresh = NULL, *old = context->limit_blocks[limit];
  uint64_t bytes = limit_bytes(context, limit, value);
  if (bytes) {
    CUresult result = sim_memory_alloc(context, bytes, SIM_MEMORY_GLOBAL, &fresh);
    if (result != CUDA_SUCCESS)
      return result;
    sim_own(context, &fresh->owned, sim_memory_owned_destroy);
  }
  if (old)
    sim_memory_free(old);
  context->limit_blocks[limit] = fresh;
  context->limits[limit] = value;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if ((unsigned)limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
    return CUDA_ERROR_UNSUPPORTED_LIMIT;
  if (limit == CU_LIMIT_MAX_L2_FETCH_GRANULARITY && value > 128)
    return CUDA_ERROR_INVALID_VALUE;
  if (limit == CU_LIMIT_STACK_SIZE && value > (512u << 10))
    return CUDA_ERROR_INVALID_VALUE;
  sg_fault_point(context->card);
  return change_limit(context, limit, value);
}

CUresult cuCtxResetPersistingL2Cache(void) {
  CUcontext context;
  return sim_current(&context);
}

/* ---- peers ---- */

CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (Flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (!sim_context_valid(peerContext) || peerContext == context)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (peerContext->card == context->card)
    return CUDA_ERROR_INVALID_DEVICE;
  uint32_t bit = 1u << peerContext->card;
  sim_lock();
  bool already = context->peers & bit;
  context->peers |= bit;
  sim_unlock();
  return already ? CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED : CUDA_SUCCESS;
}

CUresult cuCtxDisablePeerAccess(CUcontext peerContext) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!sim_context_valid(peerContext))
    return CUDA_ERROR_INVALID_CONTEXT;
  uint32_t bit = 1u << peerContext->card;
  sim_lock();
  bool enabled = context->peers & bit;
  context->peers &= ~bit;
  sim_unlock();
  return enabled ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

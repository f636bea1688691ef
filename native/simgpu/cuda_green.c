/* cuda_green.c - green contexts: a part of a card's SMs, in the memory and time of its primary context.
 *
 * A green context keeps its device's primary context alive and has streams of its own, first of all
 * the default stream. Kernels in them take as long as the green context's number of SMs makes them
 * (sg_kernel_ns). To the card they are work of the primary context, whose kernels run one at a time:
 * that green contexts run side by side is not guaranteed by CUDA, and not modelled. A green context
 * takes no device memory of its own, since nothing says how much a real one takes.
 *
 * CU_GREEN_CTX_DEFAULT_STREAM was required of every green context when they came; a driver that
 * knows CU_GREEN_CTX_NONE (CUDA 13) is told that it is not modelled.
 */
#include "cuda_green.h"

#include <stdlib.h>

#include "cuda_process.h"

/* Found through its view, which stays when the green context ends, as a context's struct does. */
struct CUgreenCtx_st {
  uint64_t id;
  struct CUctx_st view;
};

/* ---- handles ---- */

/* The view of a green context that has not been destroyed. */
static CUresult find(CUgreenCtx green, CUcontext *view) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  *view = sim_context_view(green);
  bool destroyed = *view && (*view)->destroyed;
  sim_unlock();
  if (!*view)
    return CUDA_ERROR_INVALID_CONTEXT;
  return destroyed ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

/* The same where it is to be used, and the primary context behind it. */
static CUresult view_of(CUgreenCtx green, CUcontext *view, CUcontext *context) {
  CUcontext found;
  CUresult result = find(green, &found);
  return result == CUDA_SUCCESS ? sim_home_of(found, view, context) : result;
}

CUresult cuCtxFromGreenCtx(CUcontext *pContext, CUgreenCtx hCtx) {
  CUcontext view, context;
  CUresult result = view_of(hCtx, &view, &context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pContext)
    return CUDA_ERROR_INVALID_VALUE;
  *pContext = view;
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxGetId(CUgreenCtx greenCtx, unsigned long long *greenCtxId) {
  CUcontext view, context;
  CUresult result = greenCtx ? view_of(greenCtx, &view, &context) : sim_home_of(NULL, &view, &context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!view->green)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (!greenCtxId)
    return CUDA_ERROR_INVALID_VALUE;
  *greenCtxId = view->green->id;
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxGetDevResource(CUgreenCtx hCtx, CUdevResource *resource, CUdevResourceType type) {
  CUcontext view, context;
  CUresult result = view_of(hCtx, &view, &context);
  return result == CUDA_SUCCESS ? sim_resource_get(context->card, view->sm_count, type, resource) : result;
}

/* ---- creation and end ---- */

/* In the retained primary context, which stays the caller's on failure. */
static CUresult make(CUcontext primary, unsigned sm_count, CUgreenCtx *green) {
  CUgreenCtx fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->id = sim_next_id();
  fresh->view = (struct CUctx_st){.magic = SIM_MAGIC_CONTEXT, .card = primary->card, .device = primary->device,
                                  .id = fresh->id, .base = primary, .green = fresh, .sm_count = sm_count};
  CUresult result = sim_stream_new(&fresh->view, CU_STREAM_DEFAULT, 0, &fresh->view.legacy);
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  fresh->view.legacy->is_legacy = true;
  sim_context_enlist(&fresh->view);
  *green = fresh;
  return CUDA_SUCCESS;
}

static CUresult check_flags(unsigned flags) {
  if (flags == CU_GREEN_CTX_NONE && sim_cuda_version() >= 13000)
    return CUDA_ERROR_NOT_SUPPORTED;
  return flags == CU_GREEN_CTX_DEFAULT_STREAM ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev, unsigned int flags) {
  CUcontext primary;
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result == CUDA_SUCCESS)
    result = phCtx && sim_descriptor_valid(desc) && desc->card == card ? check_flags(flags) : CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = sim_primary_retain(dev, &primary);
  if (result != CUDA_SUCCESS)
    return result;
  result = make(primary, desc->sm_count, phCtx);
  if (result != CUDA_SUCCESS)
    sim_primary_release(dev);
  return result;
}

/* Its streams stay, detached, until they are destroyed; what was queued in them still runs. A primary
 * context that was reset meanwhile is gone with all its streams, and not this one's to release. */
CUresult cuGreenCtxDestroy(CUgreenCtx hCtx) {
  CUcontext view;
  CUresult result = find(hCtx, &view);
  if (result != CUDA_SUCCESS)
    return result;
  if (!sim_context_delist(view))
    return CUDA_ERROR_CONTEXT_IS_DESTROYED; /* by another thread, just now */
  sim_lock();
  bool reset = view->base->destroyed;
  sim_unlock();
  if (!reset) {
    (void)sim_capture_check_context(view); /* its captures become invalid */
    sim_stream_destroy(view->legacy);
    sim_primary_release(view->device);
  }
  sim_context_bury(view);
  return CUDA_SUCCESS;
}

/* ---- streams and events ---- */

CUresult cuGreenCtxStreamCreate(CUstream *phStream, CUgreenCtx greenCtx, unsigned int flags, int priority) {
  CUcontext view, context;
  CUresult result = view_of(greenCtx, &view, &context);
  if (result != CUDA_SUCCESS)
    return result;
  if (flags != CU_STREAM_NON_BLOCKING)
    return CUDA_ERROR_INVALID_VALUE;
  return sim_stream_create(view, flags, priority, phStream);
}

CUresult cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx *phCtx) {
  CUstream stream;
  CUresult result = sim_stream_get(sim_null_legacy(hStream), &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (phCtx)
    *phCtx = stream->home->green;
  sim_stream_put_back(stream);
  return phCtx ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGreenCtxRecordEvent(CUgreenCtx hCtx, CUevent hEvent) {
  CUcontext view, context;
  CUresult result = view_of(hCtx, &view, &context);
  return result == CUDA_SUCCESS ? sim_home_record(view, hEvent) : result;
}

CUresult cuGreenCtxWaitEvent(CUgreenCtx hCtx, CUevent hEvent) {
  CUcontext view, context;
  CUresult result = view_of(hCtx, &view, &context);
  return result == CUDA_SUCCESS ? sim_home_wait(view, hEvent) : result;
}

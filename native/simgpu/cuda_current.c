/* cuda_current.c - the context stack of a thread, and the API around explicit contexts. */
#include "cuda_internal.h"

#include <stdlib.h>

#include "cuda_process.h"

static CUresult push(CUcontext context) {
  struct sim_thread *thread = sim_thread();
  if (!thread)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (thread->depth == thread->capacity) {
    unsigned capacity = thread->capacity ? 2 * thread->capacity : 8;
    CUcontext *stack = realloc(thread->stack, capacity * sizeof *stack);
    if (!stack)
      return CUDA_ERROR_OUT_OF_MEMORY;
    thread->stack = stack;
    thread->capacity = capacity;
  }
  thread->stack[thread->depth++] = context;
  return CUDA_SUCCESS;
}

static CUresult pop(CUcontext *popped) {
  struct sim_thread *thread = sim_thread();
  if (!thread || thread->depth == 0)
    return CUDA_ERROR_INVALID_CONTEXT;
  *popped = thread->stack[--thread->depth];
  return CUDA_SUCCESS;
}

/* ---- creation and end ---- */

#define CREATE_FLAGS CU_CTX_FLAGS_MASK

static CUresult create(CUcontext *pctx, unsigned flags, CUdevice device, unsigned api_version) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!pctx || (flags & ~(unsigned)CREATE_FLAGS))
    return CUDA_ERROR_INVALID_VALUE;
  result = sim_context_new(device, flags, api_version, false, pctx);
  return result == CUDA_SUCCESS ? push(*pctx) : result;
}

CUresult cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev) { return create(pctx, flags, dev, 3010); }
CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev) { return create(pctx, flags, dev, 3020); }

/* Execution affinity (a share of the SMs under MPS) is not modelled. */
CUresult cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags,
                        CUdevice dev) {
  if (numParams < 0 || (numParams > 0 && !paramsArray))
    return CUDA_ERROR_INVALID_VALUE;
  return numParams ? CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY : create(pctx, flags, dev, 3020);
}

CUresult cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags, CUdevice dev) {
  if (ctxCreateParams && ctxCreateParams->cigParams)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (ctxCreateParams && ctxCreateParams->numExecAffinityParams)
    return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  return create(pctx, flags, dev, 3020);
}

static CUresult destroy(CUcontext context) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!sim_context_valid(context) || context->primary || context->green)
    return CUDA_ERROR_INVALID_CONTEXT;
  CUcontext popped;
  if (sim_thread_context() == context)
    pop(&popped);
  return sim_context_end(context);
}

CUresult cuCtxDestroy(CUcontext ctx) { return destroy(ctx); }
CUresult cuCtxDestroy_v2(CUcontext ctx) { return destroy(ctx); }

/* The usage count of cuCtxAttach and cuCtxDetach (deprecated since CUDA 4.0). */
CUresult cuCtxAttach(CUcontext *pctx, unsigned int flags) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pctx || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  sim_lock();
  context->attached++;
  sim_unlock();
  *pctx = context;
  return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext ctx) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (ctx != context)
    return CUDA_ERROR_INVALID_CONTEXT;
  sim_lock();
  bool last = context->attached == 0;
  if (!last)
    context->attached--;
  sim_unlock();
  return last ? destroy(context) : CUDA_SUCCESS;
}

/* ---- the stack ---- */

static CUresult push_checked(CUcontext context) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return sim_context_valid(context) ? push(context) : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxPushCurrent(CUcontext ctx) { return push_checked(ctx); }
CUresult cuCtxPushCurrent_v2(CUcontext ctx) { return push_checked(ctx); }

static CUresult pop_checked(CUcontext *pctx) {
  CUcontext popped;
  CUresult result = sim_ready();
  if (result == CUDA_SUCCESS)
    result = pop(&popped);
  if (result == CUDA_SUCCESS && pctx)
    *pctx = popped;
  return result;
}

CUresult cuCtxPopCurrent(CUcontext *pctx) { return pop_checked(pctx); }
CUresult cuCtxPopCurrent_v2(CUcontext *pctx) { return pop_checked(pctx); }

CUresult cuCtxSetCurrent(CUcontext ctx) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  CUcontext popped;
  if (!ctx) {
    pop(&popped); /* an empty stack stays empty */
    return CUDA_SUCCESS;
  }
  if (!sim_context_valid(ctx))
    return ctx == sim_thread_context() ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_ERROR_INVALID_CONTEXT;
  pop(&popped);
  return push(ctx);
}

CUresult cuCtxGetCurrent(CUcontext *pctx) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!pctx)
    return CUDA_ERROR_INVALID_VALUE;
  *pctx = sim_thread_context();
  return CUDA_SUCCESS;
}

/* ---- properties ---- */

static CUresult get_device(CUdevice *device, CUcontext handle) {
  CUcontext context;
  CUresult result = sim_context_of(handle, &context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!device)
    return CUDA_ERROR_INVALID_VALUE;
  *device = context->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) { return get_device(device, NULL); }
CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx) { return get_device(device, ctx); }

CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int *version) {
  CUcontext context;
  CUresult result = sim_context_of(ctx, &context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!version)
    return CUDA_ERROR_INVALID_VALUE;
  *version = context->api_version;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext ctx, unsigned long long *ctxId) {
  CUcontext context;
  CUresult result = sim_context_of(ctx, &context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!ctxId)
    return CUDA_ERROR_INVALID_VALUE;
  *ctxId = context->id;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned int *flags) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!flags)
    return CUDA_ERROR_INVALID_VALUE;
  *flags = context->flags;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned int flags) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (flags & ~(unsigned)CREATE_FLAGS)
    return CUDA_ERROR_INVALID_VALUE;
  context->flags = flags | CU_CTX_MAP_HOST;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *pconfig) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result == CUDA_SUCCESS && !pconfig)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pconfig = context->cache_config;
  return result;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result == CUDA_SUCCESS && (unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    context->cache_config = config;
  return result;
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *pConfig) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result == CUDA_SUCCESS && !pConfig)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pConfig = context->shared_config;
  return result;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result == CUDA_SUCCESS && (unsigned)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    context->shared_config = config;
  return result;
}

CUresult cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (leastPriority)
    *leastPriority = 0;
  if (greatestPriority)
    *greatestPriority = SIM_HIGHEST_PRIORITY;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetExecAffinity(CUexecAffinityParam *pExecAffinity, CUexecAffinityType type) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  (void)type;
  return pExecAffinity ? CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY : CUDA_ERROR_INVALID_VALUE;
}

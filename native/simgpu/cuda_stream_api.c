/* cuda_stream_api.c - the stream functions; each variant differs only in what a null stream means. */
#include "cuda_internal.h"

#include <stdlib.h>

#include "cuda_process.h"

/* ---- creation and end ---- */

CUresult sim_stream_create(CUcontext home, unsigned flags, int priority, CUstream *stream) {
  if (!stream || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING))
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_capture_check_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  if (priority > 0)
    priority = 0;
  if (priority < SIM_HIGHEST_PRIORITY)
    priority = SIM_HIGHEST_PRIORITY;
  return sim_stream_new(home, flags, priority, stream);
}

static CUresult create(CUstream *stream, unsigned flags, int priority) {
  CUcontext home, context;
  CUresult result = sim_home_of(NULL, &home, &context);
  return result == CUDA_SUCCESS ? sim_stream_create(home, flags, priority, stream) : result;
}

CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags) { return create(phStream, Flags, 0); }
CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority) {
  return create(phStream, flags, priority);
}

static CUresult destroy(CUstream stream) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD || stream->magic != SIM_MAGIC_STREAM)
    return CUDA_ERROR_INVALID_HANDLE;
  sim_stream_destroy(stream);
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream hStream) { return destroy(hStream); }
CUresult cuStreamDestroy_v2(CUstream hStream) { return destroy(hStream); }

/* ---- waiting ---- */

/* What a wait for a stream waits for: for the legacy stream also the blocking streams' work. */
static CUresult gather(CUstream stream) {
  if (!stream->is_legacy)
    return CUDA_SUCCESS;
  CUresult result = sim_stream_begin(stream);
  if (result == CUDA_SUCCESS)
    sim_stream_end(stream);
  return result;
}

static CUresult refuse(CUstream stream) {
  if (stream->capture)
    return sim_capture_refuse_sync(stream);
  return stream->is_legacy ? sim_capture_check_legacy(stream->home) : CUDA_SUCCESS;
}

static CUresult synchronize(CUstream handle) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  result = refuse(stream);
  if (result == CUDA_SUCCESS)
    result = gather(stream);
  if (result == CUDA_SUCCESS)
    result = sim_stream_wait(stream);
  if (result == CUDA_SUCCESS)
    sim_pools_synchronized();
  sim_stream_put_back(stream);
  return result;
}

static CUresult query_idle(CUstream stream) {
  bool idle = true;
  if (stream->channel) {
    CUresult result = sim_context_result(stream->context, sg_channel_idle(stream->channel, &idle));
    if (result != CUDA_SUCCESS)
      return result;
  }
  return idle ? sim_context_probe(stream->context) : CUDA_ERROR_NOT_READY;
}

static CUresult query(CUstream handle) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  result = refuse(stream);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result == CUDA_SUCCESS)
    result = gather(stream);
  if (result == CUDA_SUCCESS)
    result = query_idle(stream);
  sim_stream_put_back(stream);
  return result;
}

static CUresult wait_event(CUstream handle, CUevent event, unsigned flags) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (!event || event->magic != SIM_MAGIC_EVENT)
    result = CUDA_ERROR_INVALID_HANDLE;
  else if (flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL)
    result = CUDA_ERROR_INVALID_VALUE;
  else if (event->captured && !stream->capture)
    result = sim_capture_join(stream, event);
  else {
    const struct sim_work work = {.kind = SIM_WORK_EVENT_WAIT, .event = {.event = event, .flags = flags}};
    result = sim_enqueue(stream, &work);
  }
  sim_stream_put_back(stream);
  return result;
}

/* ---- host functions ---- */

static CUresult host(CUstream handle, const struct sim_host *host) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  const struct sim_work work = {.kind = SIM_WORK_HOST, .host = *host};
  result = sim_enqueue(stream, &work);
  sim_stream_put_back(stream);
  return result;
}

/* The mode says how the driver's thread waits for work, which here is always the same. */
static CUresult launch_host_function(CUstream handle, CUhostFn function, void *argument, unsigned mode) {
  const struct sim_host work = {.function = function, .argument = argument};
  bool known = mode == CU_HOST_TASK_BLOCKING || mode == CU_HOST_TASK_SPINWAIT;
  return function && known ? host(handle, &work) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult add_callback(CUstream handle, CUstreamCallback callback, void *argument, unsigned flags) {
  const struct sim_host work = {.callback = callback, .argument = argument, .stream = handle};
  return callback && flags == 0 ? host(handle, &work) : CUDA_ERROR_INVALID_VALUE;
}

/* ---- properties ---- */

/* Runs `read` on the stream that the handle names. */
static CUresult with_stream(CUstream handle, void (*read)(CUstream, void *), void *out) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (out)
    read(stream, out);
  sim_stream_put_back(stream);
  return out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static void read_priority(CUstream stream, void *out) { *(int *)out = stream->priority; }
static void read_flags(CUstream stream, void *out) { *(unsigned *)out = stream->flags; }
static void read_id(CUstream stream, void *out) { *(unsigned long long *)out = stream->id; }
static void read_context(CUstream stream, void *out) { *(CUcontext *)out = stream->home; }
static void read_device(CUstream stream, void *out) { *(CUdevice *)out = stream->context->device; }

static CUresult get_contexts(CUstream handle, CUcontext *context, CUgreenCtx *green) {
  CUcontext home;
  CUresult result = context ? with_stream(handle, read_context, &home) : CUDA_ERROR_INVALID_VALUE;
  if (result != CUDA_SUCCESS)
    return result;
  *context = home->base;
  if (green)
    *green = home->green;
  return CUDA_SUCCESS;
}

static CUresult get_attribute(CUstream handle, CUstreamAttrID attribute, CUstreamAttrValue *value) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  if (!value)
    result = CUDA_ERROR_INVALID_VALUE;
  else if (attribute == CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW)
    value->accessPolicyWindow = stream->access_window;
  else if (attribute == CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY)
    value->syncPolicy = stream->sync_policy;
  else if (attribute == CU_LAUNCH_ATTRIBUTE_PRIORITY)
    value->priority = stream->priority;
  else
    result = CUDA_ERROR_INVALID_VALUE;
  sim_unlock();
  sim_stream_put_back(stream);
  return result;
}

static CUresult set_attribute(CUstream handle, CUstreamAttrID attribute, const CUstreamAttrValue *value) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  if (!value)
    result = CUDA_ERROR_INVALID_VALUE;
  else if (attribute == CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW)
    stream->access_window = value->accessPolicyWindow;
  else if (attribute == CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY)
    stream->sync_policy = value->syncPolicy;
  else if (attribute == CU_LAUNCH_ATTRIBUTE_PRIORITY)
    result = CUDA_ERROR_NOT_SUPPORTED; /* a channel keeps the priority that it was opened with */
  else
    result = CUDA_ERROR_INVALID_VALUE;
  sim_unlock();
  sim_stream_put_back(stream);
  return result;
}

static CUresult copy_attributes(CUstream to, CUstream from) {
  CUstream target, source;
  CUresult result = sim_stream_get(to, &target);
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_stream_get(from, &source);
  if (result == CUDA_SUCCESS) {
    sim_lock();
    target->access_window = source->access_window;
    target->sync_policy = source->sync_policy;
    sim_unlock();
    sim_stream_put_back(source);
  }
  sim_stream_put_back(target);
  return result;
}

/* Attaching tells the driver who may touch managed memory when; here everybody may at any time. */
static CUresult attach(CUstream handle, CUdeviceptr address, size_t length, unsigned flags) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  const struct sim_block *block = sim_block_find(address);
  bool whole = block && block->kind == SIM_MEMORY_MANAGED && block->address == address &&
               (length == 0 || length == block->bytes);
  sim_unlock();
  bool known = flags == CU_MEM_ATTACH_GLOBAL || flags == CU_MEM_ATTACH_HOST || flags == CU_MEM_ATTACH_SINGLE;
  sim_stream_put_back(stream);
  return whole && known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- the exported variants ---- */

#define SIM_STREAM_API(X) \
  X(cuStreamSynchronize, (CUstream stream), synchronize(NULL_STREAM(stream))) \
  X(cuStreamQuery, (CUstream stream), query(NULL_STREAM(stream))) \
  X(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned int flags), \
    wait_event(NULL_STREAM(stream), event, flags)) \
  X(cuLaunchHostFunc, (CUstream stream, CUhostFn function, void *argument), \
    launch_host_function(NULL_STREAM(stream), function, argument, CU_HOST_TASK_BLOCKING)) \
  X(cuLaunchHostFunc_v2, (CUstream stream, CUhostFn function, void *argument, unsigned int mode), \
    launch_host_function(NULL_STREAM(stream), function, argument, mode)) \
  X(cuStreamAddCallback, (CUstream stream, CUstreamCallback callback, void *argument, unsigned int flags), \
    add_callback(NULL_STREAM(stream), callback, argument, flags)) \
  X(cuStreamGetPriority, (CUstream stream, int *priority), with_stream(NULL_STREAM(stream), read_priority, priority)) \
  X(cuStreamGetFlags, (CUstream stream, unsigned int *flags), with_stream(NULL_STREAM(stream), read_flags, flags)) \
  X(cuStreamGetId, (CUstream stream, unsigned long long *id), with_stream(NULL_STREAM(stream), read_id, id)) \
  X(cuStreamGetCtx, (CUstream stream, CUcontext *context), with_stream(NULL_STREAM(stream), read_context, context)) \
  X(cuStreamGetCtx_v2, (CUstream stream, CUcontext *context, CUgreenCtx *green), \
    get_contexts(NULL_STREAM(stream), context, green)) \
  X(cuStreamGetDevice, (CUstream stream, CUdevice *device), with_stream(NULL_STREAM(stream), read_device, device)) \
  X(cuStreamGetAttribute, (CUstream stream, CUstreamAttrID attribute, CUstreamAttrValue *value), \
    get_attribute(NULL_STREAM(stream), attribute, value)) \
  X(cuStreamSetAttribute, (CUstream stream, CUstreamAttrID attribute, const CUstreamAttrValue *value), \
    set_attribute(NULL_STREAM(stream), attribute, value)) \
  X(cuStreamCopyAttributes, (CUstream to, CUstream from), copy_attributes(NULL_STREAM(to), NULL_STREAM(from))) \
  X(cuStreamAttachMemAsync, (CUstream stream, CUdeviceptr address, size_t length, unsigned int flags), \
    attach(NULL_STREAM(stream), address, length, flags))

#define DEFINE_PLAIN(name, parameters, call) \
  CUresult name parameters { return call; }
#define DEFINE_PTSZ(name, parameters, call) \
  CUresult name##_ptsz parameters { return call; }

#define NULL_STREAM sim_null_legacy
SIM_STREAM_API(DEFINE_PLAIN)
#undef NULL_STREAM
#define NULL_STREAM sim_null_thread
SIM_STREAM_API(DEFINE_PTSZ)
#undef NULL_STREAM

/* cuda_event.c - events: fences that carry the device time of their last record.
 *
 * Each record takes the next value of the event's fence; the event is complete when the fence has
 * reached the value of the last record. A record that could overtake an earlier one, because that is
 * still under way in another stream, begins a new fence: who waits for the earlier record goes on
 * waiting for it. Interprocess events count the records of all processes in a
 * second fence, `recorded`, because only the recorder knows the value otherwise.
 */
#include "cuda_internal.h"

#include <stdlib.h>

#include "cuda_process.h"

static void destroy_event(struct sim_owned *owned) {
  struct CUevent_st *event = SIM_CONTAINER_OF(owned, struct CUevent_st, owned);
  sim_capture_forget_event(event);
  event->magic = 0;
  if (event->fence && !event->imported)
    sg_fence_destroy(event->fence);
  if (event->recorded && !event->imported)
    sg_fence_destroy(event->recorded);
  free(event);
}

/* The handle that is exported names both fences. */
static CUresult make_shared(CUevent event) {
  sg_fence fence, recorded;
  CUresult result = sim_result(sg_fence_create(&fence));
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_result(sg_fence_create(&recorded));
  if (result != CUDA_SUCCESS) {
    sg_fence_destroy(fence);
    return result;
  }
  event->fence = fence;
  event->recorded = recorded;
  return CUDA_SUCCESS;
}

CUresult sim_event_create(CUcontext context, unsigned flags, CUevent *event) {
  const unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if ((flags & ~known) || ((flags & CU_EVENT_INTERPROCESS) && !(flags & CU_EVENT_DISABLE_TIMING)))
    return CUDA_ERROR_INVALID_VALUE;
  struct CUevent_st *fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->magic = SIM_MAGIC_EVENT;
  fresh->context = context;
  fresh->flags = flags;
  CUresult result = flags & CU_EVENT_INTERPROCESS ? make_shared(fresh) : CUDA_SUCCESS;
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  sim_own(context, &fresh->owned, destroy_event);
  *event = fresh;
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  return phEvent ? sim_event_create(context, Flags, phEvent) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult destroy(CUevent event) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!event || event->magic != SIM_MAGIC_EVENT)
    return CUDA_ERROR_INVALID_HANDLE;
  if (sim_disown(&event->owned))
    destroy_event(&event->owned);
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent hEvent) { return destroy(hEvent); }
CUresult cuEventDestroy_v2(CUevent hEvent) { return destroy(hEvent); }

/* ---- recording (inside begin/end of the stream) and what was recorded ---- */

static bool may_overtake(CUevent event, CUstream stream) {
  uint64_t reached, when;
  if (event->recorded || event->stream_id == stream->id)
    return false;
  return sg_fence_read(event->fence, &reached, &when) != SG_OK || reached < atomic_load(&event->value);
}

/* The fence of the next record; call with the stream's lock held. Two threads that record the same
 * event at once are in no order, but neither may lose its fence. */
static CUresult ensure_fence(CUevent event, CUstream stream) {
  sg_fence fresh = 0, old = event->fence;
  if (old && !may_overtake(event, stream))
    return CUDA_SUCCESS;
  CUresult result = sim_result(sg_fence_create(&fresh));
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  bool replaced = event->fence == old;
  if (replaced)
    event->fence = fresh;
  sim_unlock();
  sg_fence unused = replaced ? old : fresh; /* queued items that name it keep their meaning */
  if (unused)
    sg_fence_destroy(unused);
  return CUDA_SUCCESS;
}

static CUresult next_value(CUevent event, uint64_t *value) {
  if (!event->recorded) {
    *value = atomic_fetch_add(&event->value, 1) + 1;
    return CUDA_SUCCESS;
  }
  uint64_t when;
  CUresult result = sim_result(sg_fence_read(event->recorded, value, &when));
  if (result == CUDA_SUCCESS)
    result = sim_result(sg_fence_signal(event->recorded, ++*value));
  return result;
}

CUresult sim_event_put_record(CUstream stream, CUevent event) {
  if (event->context != stream->context)
    return CUDA_ERROR_INVALID_HANDLE;
  uint64_t value;
  CUresult result = ensure_fence(event, stream);
  if (result == CUDA_SUCCESS)
    result = next_value(event, &value);
  if (result != CUDA_SUCCESS)
    return result;
  event->stream_id = stream->id;
  const struct sg_item signal = {.op = SG_OP_SIGNAL, .fence = event->fence, .value = value};
  return sim_stream_item(stream, &signal);
}

CUresult sim_event_target(CUevent event, sg_fence *fence, uint64_t *value) {
  *fence = event->fence;
  *value = atomic_load(&event->value);
  if (!event->recorded)
    return CUDA_SUCCESS;
  uint64_t when;
  return sim_result(sg_fence_read(event->recorded, value, &when));
}

CUresult sim_event_put_wait(CUstream stream, CUevent event) {
  sg_fence fence;
  uint64_t value, reached, when;
  CUresult result = sim_event_target(event, &fence, &value);
  if (result != CUDA_SUCCESS || value == 0)
    return result;
  if (sg_fence_read(fence, &reached, &when) == SG_OK && reached >= value)
    return CUDA_SUCCESS;
  const struct sg_item wait = {.op = SG_OP_WAIT, .fence = fence, .value = value};
  return sim_stream_item(stream, &wait);
}

static CUresult check_event(CUevent event) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!event || event->magic != SIM_MAGIC_EVENT)
    return CUDA_ERROR_INVALID_HANDLE;
  return (CUresult)atomic_load(&event->context->sticky);
}

static CUresult record(CUevent event, CUstream handle, unsigned flags) {
  CUstream stream;
  CUresult result = check_event(event);
  if (result == CUDA_SUCCESS && (flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (!stream->capture && event->captured)
    sim_capture_forget_event(event);
  const struct sim_work work = {.kind = SIM_WORK_EVENT_RECORD, .event = {.event = event, .flags = flags}};
  result = sim_enqueue(stream, &work);
  sim_stream_put_back(stream);
  return result;
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream) { return record(hEvent, sim_null_legacy(hStream), 0); }
CUresult cuEventRecord_ptsz(CUevent hEvent, CUstream hStream) { return record(hEvent, sim_null_thread(hStream), 0); }
CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags) {
  return record(hEvent, sim_null_legacy(hStream), flags);
}
CUresult cuEventRecordWithFlags_ptsz(CUevent hEvent, CUstream hStream, unsigned int flags) {
  return record(hEvent, sim_null_thread(hStream), flags);
}

/* ---- waiting and timing ---- */

CUresult cuEventQuery(CUevent hEvent) {
  sg_fence fence;
  uint64_t value, reached, when;
  CUresult result = check_event(hEvent);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result == CUDA_SUCCESS && hEvent->captured)
    result = sim_capture_refuse_event(hEvent);
  if (result == CUDA_SUCCESS)
    result = sim_event_target(hEvent, &fence, &value);
  if (result != CUDA_SUCCESS || value == 0)
    return result;
  result = sim_context_result(hEvent->context, sg_fence_read(fence, &reached, &when));
  if (result != CUDA_SUCCESS)
    return result;
  return reached >= value ? sim_context_probe(hEvent->context) : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent hEvent) {
  sg_fence fence;
  uint64_t value;
  CUresult result = check_event(hEvent);
  if (result == CUDA_SUCCESS && hEvent->captured)
    result = sim_capture_refuse_event(hEvent);
  if (result == CUDA_SUCCESS)
    result = sim_event_target(hEvent, &fence, &value);
  if (result != CUDA_SUCCESS || value == 0)
    return result;
  result = sim_context_result(hEvent->context, sg_fence_wait(fence, value, UINT64_MAX));
  if (result == CUDA_SUCCESS)
    sim_pools_synchronized();
  return result == CUDA_SUCCESS ? sim_context_probe(hEvent->context) : result;
}

/* The device time of a completed event that keeps time. */
static CUresult time_of(CUevent event, uint64_t *when) {
  sg_fence fence;
  uint64_t value, reached;
  CUresult result = check_event(event);
  if (result != CUDA_SUCCESS)
    return result;
  if ((event->flags & CU_EVENT_DISABLE_TIMING) || event->captured)
    return CUDA_ERROR_INVALID_HANDLE;
  result = sim_event_target(event, &fence, &value);
  if (result != CUDA_SUCCESS)
    return result;
  if (value == 0)
    return CUDA_ERROR_INVALID_HANDLE; /* never recorded */
  result = sim_context_result(event->context, sg_fence_read(fence, &reached, when));
  if (result != CUDA_SUCCESS)
    return result;
  return reached >= value ? sim_context_probe(event->context) : CUDA_ERROR_NOT_READY;
}

static CUresult elapsed(float *milliseconds, CUevent from, CUevent to) {
  uint64_t start, end;
  CUresult first = time_of(from, &start), second = time_of(to, &end);
  if (!milliseconds)
    return CUDA_ERROR_INVALID_VALUE;
  if (first != CUDA_SUCCESS || second != CUDA_SUCCESS)
    return first != CUDA_SUCCESS && first != CUDA_ERROR_NOT_READY ? first : second != CUDA_SUCCESS ? second : first;
  if (from->context->card != to->context->card)
    return CUDA_ERROR_INVALID_HANDLE;
  *milliseconds = (float)((double)(int64_t)(end - start) / 1e6);
  return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd) {
  return elapsed(pMilliseconds, hStart, hEnd);
}
CUresult cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd) {
  return elapsed(pMilliseconds, hStart, hEnd);
}

/* ---- a whole context as one stream ---- */

/* Recorded behind everything that is in the context now. */
CUresult sim_home_record(CUcontext home, CUevent event) {
  const struct sim_work work = {.kind = SIM_WORK_EVENT_RECORD, .event = {.event = event}};
  CUresult result = check_event(event);
  if (result == CUDA_SUCCESS && event->context != home->base)
    result = CUDA_ERROR_INVALID_HANDLE;
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_context(home);
  if (result == CUDA_SUCCESS)
    result = sim_streams_join(home, home->legacy);
  return result == CUDA_SUCCESS ? sim_submit(home->legacy, &work) : result;
}

CUresult cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent) {
  CUcontext home, context;
  CUresult result = sim_home_of(hCtx, &home, &context);
  return result == CUDA_SUCCESS ? sim_home_record(home, hEvent) : result;
}

/* All later work of the context waits for the event. */
CUresult sim_home_wait(CUcontext home, CUevent event) {
  sg_fence fence;
  uint64_t value;
  CUresult result = check_event(event);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_context(home);
  if (result == CUDA_SUCCESS)
    result = sim_event_target(event, &fence, &value);
  return result == CUDA_SUCCESS && value ? sim_streams_hold(home, fence, value) : result;
}

CUresult cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent) {
  CUcontext home, context;
  CUresult result = sim_home_of(hCtx, &home, &context);
  return result == CUDA_SUCCESS ? sim_home_wait(home, hEvent) : result;
}

/* gate_marker.c - events that tell when work finished and what it cost.
 *
 * Only a thread that has just launched something records into that stream, directly behind (or, to
 * measure one launch by itself, before) its launch: a marker adds no ordering that the launch has not
 * got itself, also in the legacy default stream. The watcher never records anything; the end of what
 * lies behind the last marker it learns by cuStreamQuery. */
#include "gate.h"

#include "futex_words.h"

static CUevent take_event(struct gate_context *context) {
  const struct cg_driver *driver = cg_driver();
  CUevent event = NULL;
  gate_lock();
  if (context->pooled) event = context->pool[--context->pooled];
  gate_unlock();
  if (event || !driver->x_cuEventCreate) return event;
  return driver->x_cuEventCreate(&event, CU_EVENT_DEFAULT) == CUDA_SUCCESS ? event : NULL;
}

static void give_event(struct gate_context *context, CUevent event) {
  bool kept = false;
  gate_lock();
  if (context->pooled < GATE_POOL_EVENTS) {
    context->pool[context->pooled++] = event;
    kept = true;
  }
  gate_unlock();
  if (!kept) cg_driver()->x_cuEventDestroy_v2(event);
}

static void record(struct gate_stream *stream, uint64_t upto) {
  uint32_t last = atomic_load(&stream->last);
  if (last - atomic_load(&stream->first) >= GATE_MARKERS) return; /* a later one will cover it */
  CUevent event = take_event(stream->context);
  if (!event) return;
  if (cg_driver()->x_cuEventRecord(event, stream->stream) != CUDA_SUCCESS) {
    give_event(stream->context, event);
    return;
  }
  stream->marker[last % GATE_MARKERS] = (struct gate_marker){
      .event = event,
      .upto = upto,
      .key = atomic_load_explicit(&stream->batch_key, memory_order_relaxed),
      .launches = gate_launches(upto - atomic_load(&stream->marked)),
      .since_ns = atomic_load_explicit(&stream->batch_since_ns, memory_order_relaxed),
  };
  atomic_store(&stream->marked, upto);
  atomic_store(&stream->last, last + 1);
}

void gate_mark(struct gate_stream *stream) {
  if (atomic_flag_test_and_set(&stream->marking)) return;
  if (!atomic_load(&stream->gone)) record(stream, atomic_load(&stream->submitted));
  atomic_flag_clear(&stream->marking);
}

/* Whether the work ended because of a launch that was let through for it (gate_wait.c): then it says how
 * long that launch was held back, not what it costs. */
static bool was_waiting(const struct gate_stream *stream, const struct gate_marker *marker, uint64_t now_ns) {
  uint64_t stall_ns = atomic_load(&stream->gpu->stall_ns);
  return stall_ns > marker->since_ns && now_ns - stall_ns < (stall_ns - marker->since_ns) / 4;
}

/* The cost per launch between the event before and this one. Either bound may be too high - the card
 * may have been idle at first, the watcher may have come late - so the lower one holds. */
static void learn(const struct gate_stream *stream, const struct gate_marker *marker, uint64_t now_ns) {
  if (!marker->key || !marker->launches || was_waiting(stream, marker, now_ns)) return;
  uint64_t time_ns = UINT64_MAX;
  float elapsed_ms = 0;
  if (marker->since_ns && now_ns > marker->since_ns) time_ns = now_ns - marker->since_ns;
  if (stream->anchor && cg_driver()->x_cuEventElapsedTime(&elapsed_ms, stream->anchor, marker->event) == CUDA_SUCCESS) {
    uint64_t elapsed_ns = elapsed_ms > 0 ? (uint64_t)((double)elapsed_ms * 1e6) : 1;
    if (elapsed_ns < time_ns) time_ns = elapsed_ns;
  }
  if (time_ns != UINT64_MAX) gate_cost_learn(marker->key, time_ns / marker->launches);
}

static void retire(struct gate_stream *stream, uint64_t upto, uint64_t now_ns) {
  gate_lock();
  stream->progress_ns = now_ns;
  gate_retire(stream, upto);
  gate_unlock();
}

void gate_collect(struct gate_stream *stream) {
  const struct cg_driver *driver = cg_driver();
  while (gate_has_markers(stream)) {
    uint32_t first = atomic_load(&stream->first);
    struct gate_marker marker = stream->marker[first % GATE_MARKERS];
    CUresult result = driver->x_cuEventQuery(marker.event);
    if (result == CUDA_ERROR_NOT_READY) return;
    uint64_t now_ns = futex_now_ns();
    if (result == CUDA_SUCCESS) learn(stream, &marker, now_ns);
    if (stream->anchor) give_event(stream->context, stream->anchor);
    stream->anchor = marker.event;
    atomic_store(&stream->first, first + 1);
    retire(stream, marker.upto, now_ns);
  }
  uint64_t submitted = atomic_load(&stream->submitted);
  if (submitted == atomic_load(&stream->retired)) return;
  /* Another thread's default stream cannot be named here; its every launch has a marker, unless that
   * is still on its way, and this is only what had none, because an event could not be recorded. A
   * capture forbids queries. */
  if (stream->thread && (atomic_load(&stream->marker_due) || gate_has_markers(stream))) return;
  bool nameable = !stream->thread && !atomic_load(&stream->gone);
  if (nameable && (gate_capturing() || !driver->x_cuStreamQuery)) return;
  if (nameable && driver->x_cuStreamQuery(stream->stream) == CUDA_ERROR_NOT_READY) return;
  retire(stream, submitted, futex_now_ns());
}

/* cuda_stream.c - streams as channels of the card, and the order between them.
 *
 * The legacy default stream waits for all earlier work of the context's blocking streams, and they
 * wait for all its earlier work (CUDA Driver API, "Stream synchronization behavior"). That order is
 * made only when it matters: a stream that is to be waited for gets a marker, a SIGNAL item of its
 * own fence behind its last work, and the other stream a WAIT item.
 */
#include "cuda_internal.h"

#include <stdlib.h>

#include "cuda_process.h"

static void free_stream(CUstream stream) {
  if (stream->channel && !stream->context->destroyed)
    sg_channel_close(stream->channel);
  if (stream->marker)
    sg_fence_destroy(stream->marker);
  pthread_mutex_destroy(&stream->lock);
  free(stream);
}

void sim_stream_put_back(CUstream stream) {
  if (atomic_fetch_sub(&stream->references, 1) == 1)
    free_stream(stream);
}

static void retain(CUstream stream) { atomic_fetch_add(&stream->references, 1); }

/* Ends the destroyed streams whose work is done. */
static void reap(CUcontext context) {
  CUstream done = NULL;
  sim_lock();
  for (CUstream *link = &context->streams; *link;) {
    CUstream stream = *link;
    bool idle = true;
    if (!stream->dying || (stream->channel && sg_channel_idle(stream->channel, &idle) == SG_OK && !idle)) {
      link = &stream->next;
      continue;
    }
    *link = stream->next;
    stream->next = done;
    done = stream;
  }
  sim_unlock();
  while (done) {
    CUstream stream = done;
    done = stream->next;
    sim_stream_put_back(stream);
  }
}

CUresult sim_stream_new(CUcontext home, unsigned flags, int priority, CUstream *stream) {
  CUcontext context = home->base;
  struct CUstream_st *fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->magic = SIM_MAGIC_STREAM;
  fresh->context = context;
  fresh->home = home;
  fresh->flags = flags;
  fresh->priority = priority;
  fresh->id = sim_next_id();
  fresh->sync_policy = CU_SYNC_POLICY_AUTO;
  atomic_store(&fresh->references, 1);
  pthread_mutex_init(&fresh->lock, NULL);
  reap(context);
  sim_lock();
  fresh->next = context->streams;
  context->streams = fresh;
  sim_unlock();
  *stream = fresh;
  return CUDA_SUCCESS;
}

void sim_stream_destroy(CUstream stream) {
  CUcontext context = stream->context;
  sim_capture_forget_stream(stream);
  sim_lock();
  stream->magic = 0;
  stream->dying = true;
  sim_unlock();
  reap(context);
}

void sim_streams_end(CUcontext context) {
  while (context->streams) {
    CUstream stream = context->streams;
    sim_lock();
    context->streams = stream->next;
    stream->magic = 0;
    sim_unlock();
    sim_stream_put_back(stream);
  }
}

/* ---- handles ---- */

static CUresult thread_stream(CUcontext context, CUstream *stream) {
  struct sim_thread *thread = sim_thread();
  if (!thread)
    return CUDA_ERROR_OUT_OF_MEMORY;
  for (const struct sim_thread_stream *each = thread->streams; each; each = each->next)
    if (each->context == context) {
      *stream = each->stream;
      return CUDA_SUCCESS;
    }
  struct sim_thread_stream *entry = malloc(sizeof *entry);
  if (!entry)
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = sim_stream_new(context, CU_STREAM_DEFAULT, 0, stream);
  if (result != CUDA_SUCCESS) {
    free(entry);
    return result;
  }
  (*stream)->per_thread = true;
  *entry = (struct sim_thread_stream){.context = context, .stream = *stream, .next = thread->streams};
  thread->streams = entry;
  return CUDA_SUCCESS;
}

CUresult sim_stream_get(CUstream handle, CUstream *stream) {
  CUcontext home, context;
  CUresult result = sim_home_of(NULL, &home, &context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!handle || handle == CU_STREAM_LEGACY) {
    *stream = home->legacy;
  } else if (handle == CU_STREAM_PER_THREAD) {
    result = home->green ? CUDA_ERROR_INVALID_HANDLE : thread_stream(context, stream);
    if (result != CUDA_SUCCESS)
      return result;
  } else {
    if (handle->magic != SIM_MAGIC_STREAM)
      return CUDA_ERROR_INVALID_HANDLE;
    *stream = handle;
    result = (CUresult)atomic_load(&handle->context->sticky);
    if (result == CUDA_SUCCESS && atomic_load(&handle->home->sticky) != CUDA_SUCCESS)
      result = CUDA_ERROR_STREAM_DETACHED;
  }
  if (result == CUDA_SUCCESS)
    retain(*stream);
  return result;
}

/* ---- items ---- */

/* A stream that first works after cuCtxWaitEvent waits too, unless the event is gone by then. */
static int wait_at_gate(CUcontext home, sg_channel channel) {
  sim_lock();
  const struct sg_item wait = {.op = SG_OP_WAIT, .fence = home->gate, .value = home->gate_value};
  sim_unlock();
  int queued = wait.fence ? sg_submit(channel, &wait) : SG_OK;
  return queued == SG_E_INVALID ? SG_OK : queued;
}

static CUresult open_channel(CUstream stream) {
  CUcontext context = stream->context;
  sg_channel channel;
  if (stream->channel)
    return CUDA_SUCCESS;
  int opened = sg_channel_open(context->machine, stream->priority, &channel);
  if (opened != SG_OK)
    return sim_context_result(context, opened);
  int queued = wait_at_gate(context, channel);
  if (queued == SG_OK && stream->home != context)
    queued = wait_at_gate(stream->home, channel);
  stream->channel = channel;
  return sim_context_result(context, queued);
}

CUresult sim_stream_item(CUstream stream, const struct sg_item *item) {
  CUresult result = open_channel(stream);
  return result == CUDA_SUCCESS ? sim_context_result(stream->context, sg_submit(stream->channel, item)) : result;
}

CUresult sim_stream_local(CUstream stream, enum sg_engine engine, uint64_t duration_ns, void (*run)(void *),
                          void (*drop)(void *), void *argument) {
  return sim_worker_queue(stream, engine, duration_ns, false, run, drop, argument);
}

CUresult sim_stream_mark(CUstream stream, sg_fence *fence, uint64_t *value) {
  if (!stream->marker) {
    CUresult result = sim_result(sg_fence_create(&stream->marker));
    if (result != CUDA_SUCCESS)
      return result;
  }
  uint64_t puts = atomic_load(&stream->puts);
  if (stream->marker_puts != puts) {
    const struct sg_item signal = {.op = SG_OP_SIGNAL, .fence = stream->marker, .value = stream->marker_value + 1};
    CUresult result = sim_stream_item(stream, &signal);
    if (result != CUDA_SUCCESS)
      return result;
    stream->marker_value++;
    stream->marker_puts = puts;
  }
  *fence = stream->marker;
  *value = stream->marker_value;
  return CUDA_SUCCESS;
}

static CUresult wait_for(CUstream stream, sg_fence fence, uint64_t value) {
  uint64_t reached, when;
  if (value == 0 || (sg_fence_read(fence, &reached, &when) == SG_OK && reached >= value))
    return CUDA_SUCCESS;
  const struct sg_item wait = {.op = SG_OP_WAIT, .fence = fence, .value = value};
  CUresult result = sim_stream_item(stream, &wait);
  if (result == CUDA_SUCCESS)
    atomic_fetch_add(&stream->puts, 1);
  return result;
}

/* ---- the legacy stream and the blocking ones ---- */

struct marks {
  unsigned count, capacity;
  struct mark {
    CUstream stream;
    sg_fence fence;
    uint64_t value;
  } *rows;
};

static bool legacy_must_wait(CUstream stream, CUcontext home) {
  return stream->home == home && !stream->is_legacy && !(stream->flags & CU_STREAM_NON_BLOCKING) && !stream->dying &&
         atomic_load(&stream->puts) != stream->seen_by_legacy;
}

static bool belongs(CUstream stream, CUcontext home) { return stream->home == home || stream->context == home; }

static CUresult collect(CUcontext home, bool (*wanted)(CUstream, CUcontext), struct marks *marks) {
  CUresult result = CUDA_SUCCESS;
  *marks = (struct marks){0};
  sim_lock();
  for (CUstream stream = home->base->streams; stream; stream = stream->next) {
    if (!wanted(stream, home))
      continue;
    if (marks->count == marks->capacity) {
      unsigned capacity = marks->capacity ? 2 * marks->capacity : 16;
      struct mark *rows = realloc(marks->rows, capacity * sizeof *rows);
      if (!rows) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        break;
      }
      marks->rows = rows;
      marks->capacity = capacity;
    }
    retain(stream);
    marks->rows[marks->count++] = (struct mark){.stream = stream};
  }
  sim_unlock();
  return result;
}

static void let_go(struct marks *marks) {
  for (unsigned i = 0; i < marks->count; i++)
    sim_stream_put_back(marks->rows[i].stream);
  free(marks->rows);
}

/* Puts a marker behind the work of every collected stream. */
static CUresult mark_all(struct marks *marks, bool for_legacy) {
  CUresult result = CUDA_SUCCESS;
  for (unsigned i = 0; i < marks->count && result == CUDA_SUCCESS; i++) {
    struct mark *mark = &marks->rows[i];
    pthread_mutex_lock(&mark->stream->lock);
    result = sim_stream_mark(mark->stream, &mark->fence, &mark->value);
    if (for_legacy)
      mark->stream->seen_by_legacy = atomic_load(&mark->stream->puts);
    pthread_mutex_unlock(&mark->stream->lock);
  }
  return result;
}

static CUresult wait_for_all(CUstream stream, const struct marks *marks) {
  CUresult result = CUDA_SUCCESS;
  for (unsigned i = 0; i < marks->count && result == CUDA_SUCCESS; i++)
    if (marks->rows[i].stream != stream)
      result = wait_for(stream, marks->rows[i].fence, marks->rows[i].value);
  return result;
}

/* With the legacy stream's lock held throughout: who finds a stream marked must also find the legacy
 * stream waiting for the mark. */
static CUresult begin_legacy(CUstream legacy) {
  struct marks marks;
  pthread_mutex_lock(&legacy->lock);
  CUresult result = collect(legacy->home, legacy_must_wait, &marks);
  if (result == CUDA_SUCCESS)
    result = mark_all(&marks, true);
  if (result == CUDA_SUCCESS)
    result = wait_for_all(legacy, &marks);
  let_go(&marks);
  return result;
}

static CUresult begin_blocking(CUstream stream) {
  CUstream legacy = stream->home->legacy;
  CUresult result = CUDA_SUCCESS;
  sg_fence fence = 0;
  uint64_t value = 0, puts = atomic_load(&legacy->puts);
  if (puts != stream->legacy_seen) {
    pthread_mutex_lock(&legacy->lock);
    result = sim_stream_mark(legacy, &fence, &value);
    puts = atomic_load(&legacy->puts);
    pthread_mutex_unlock(&legacy->lock);
  }
  pthread_mutex_lock(&stream->lock);
  if (result == CUDA_SUCCESS && value)
    result = wait_for(stream, fence, value);
  if (result == CUDA_SUCCESS)
    stream->legacy_seen = puts;
  return result;
}

/* Leaves the stream locked when it succeeds. */
CUresult sim_stream_begin(CUstream stream) {
  CUresult result = CUDA_SUCCESS;
  if (stream->is_legacy)
    result = begin_legacy(stream);
  else if (stream->flags & CU_STREAM_NON_BLOCKING)
    pthread_mutex_lock(&stream->lock);
  else
    result = begin_blocking(stream);
  if (result != CUDA_SUCCESS)
    pthread_mutex_unlock(&stream->lock);
  return result;
}

void sim_stream_end(CUstream stream) { pthread_mutex_unlock(&stream->lock); }

/* ---- waiting ---- */

CUresult sim_stream_wait(CUstream stream) {
  if (!stream->channel)
    return (CUresult)atomic_load(&stream->context->sticky);
  CUresult result = sim_context_result(stream->context, sg_channel_wait(stream->channel, UINT64_MAX));
  return result == CUDA_SUCCESS ? sim_context_probe(stream->context) : result;
}

CUresult sim_streams_wait(CUcontext home) {
  struct marks marks;
  CUresult result = collect(home, belongs, &marks);
  for (unsigned i = 0; i < marks.count && result == CUDA_SUCCESS; i++)
    result = sim_stream_wait(marks.rows[i].stream);
  let_go(&marks);
  if (result == CUDA_SUCCESS)
    reap(home->base);
  return result;
}

/* ---- all streams of a context or view at once ---- */

CUresult sim_streams_join(CUcontext home, CUstream stream) {
  struct marks marks;
  CUresult result = collect(home, belongs, &marks);
  if (result == CUDA_SUCCESS)
    result = mark_all(&marks, false);
  pthread_mutex_lock(&stream->lock);
  if (result == CUDA_SUCCESS)
    result = wait_for_all(stream, &marks);
  pthread_mutex_unlock(&stream->lock);
  let_go(&marks);
  return result;
}

CUresult sim_streams_hold(CUcontext home, sg_fence fence, uint64_t value) {
  struct marks marks;
  sim_lock();
  home->gate_value = value;
  home->gate = fence;
  sim_unlock();
  CUresult result = collect(home, belongs, &marks);
  for (unsigned i = 0; i < marks.count && result == CUDA_SUCCESS; i++) {
    CUstream stream = marks.rows[i].stream;
    pthread_mutex_lock(&stream->lock);
    result = wait_for(stream, fence, value);
    pthread_mutex_unlock(&stream->lock);
  }
  let_go(&marks);
  return result;
}

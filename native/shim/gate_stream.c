/* gate_stream.c - contexts and streams of this process, and how far their work has got.
 *
 * Records are never given back to the allocator, so that a thread that still holds one, in a call
 * that overlaps with the stream's end, touches valid memory; they are used again. */
#include "gate.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "futex_words.h"

/* What this thread found last, by stream. Valid while `generation` is: it grows whenever a stream or
 * a context goes. */
#define CACHED 8u
struct cached {
  uint64_t generation;
  CUcontext context;
  CUstream stream;
  struct gate_stream *record;
};
static __thread struct cached cache[CACHED];
static __thread int own_thread;
static _Atomic(uint64_t) generation = 1;

static struct gate_context *contexts;      /* with the lock, as all below */
static struct gate_context *spare_contexts;
static struct gate_stream *spare_streams;
static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

struct gate_context *gate_contexts(void) { return contexts; }
uint64_t gate_generation(void) { return atomic_load(&generation); }

static struct gate_context *find_context(CUcontext handle) {
  struct gate_context *context = contexts;
  while (context && context->context != handle) context = context->next;
  return context;
}

static struct gate_context *add_context(CUcontext handle, int row) {
  struct gate_context *context = spare_contexts;
  if (context) {
    spare_contexts = context->next;
  } else {
    context = malloc(sizeof *context);
    if (!context) return NULL;
  }
  *context = (struct gate_context){.context = handle, .gpu = gate_gpu(row), .next = contexts};
  contexts = context;
  return context;
}

static struct gate_stream *add_stream(struct gate_context *context, CUstream handle, int thread) {
  struct gate_stream *stream = spare_streams;
  if (stream) {
    spare_streams = stream->next;
  } else {
    stream = malloc(sizeof *stream);
    if (!stream) return NULL;
  }
  static uint64_t serial;
  memset(stream, 0, sizeof *stream);
  stream->serial = ++serial;
  stream->stream = handle;
  stream->context = context;
  stream->gpu = context->gpu;
  stream->thread = thread;
  stream->next = context->streams;
  context->streams = stream;
  return stream;
}

static struct gate_stream *find_stream(struct gate_context *context, CUstream handle, int thread) {
  struct gate_stream *stream = context->streams;
  while (stream && (stream->stream != handle || stream->thread != thread || stream->gone)) stream = stream->next;
  return stream ? stream : add_stream(context, handle, thread);
}

static void recycle(struct gate_stream *stream) {
  atomic_store(&stream->gone, true);
  stream->next = spare_streams;
  spare_streams = stream;
}

/* Takes back records of streams that are gone and never had a launch counted, as those of a tenant without a gate:
 * the watcher, which takes back the others, has never heard of them, and may not even run. With the lock. */
static void drop_uncounted(struct gate_context *context) {
  struct gate_stream **link = &context->streams;
  while (*link) {
    struct gate_stream *stream = *link;
    if (stream->gone && !atomic_load(&stream->submitted) && !gate_has_markers(stream)) {
      *link = stream->next;
      recycle(stream);
    } else {
      link = &stream->next;
    }
  }
}

/* The thread that owned these per-thread default streams has ended. */
static void thread_ended(void *thread) {
  gate_lock();
  atomic_fetch_add(&generation, 1);
  for (struct gate_context *context = contexts; context; context = context->next) {
    for (struct gate_stream *stream = context->streams; stream; stream = stream->next) {
      if (stream->thread == (int)(intptr_t)thread) atomic_store(&stream->gone, true);
    }
    drop_uncounted(context);
  }
  gate_unlock();
  gate_watch_kick();
}

static void make_thread_key(void) { pthread_key_create(&thread_key, thread_ended); }

/* A number of this thread for its per-thread default streams; its end is noticed. */
static int thread_number(void) {
  if (!own_thread) {
    own_thread = (int)syscall(SYS_gettid);
    pthread_once(&thread_once, make_thread_key);
    pthread_setspecific(thread_key, (void *)(intptr_t)own_thread);
  }
  return own_thread;
}

static struct gate_stream *stream_in(CUcontext handle, CUstream stream, int row) {
  int thread = stream == CU_STREAM_PER_THREAD ? thread_number() : 0;
  gate_lock();
  struct gate_context *context = find_context(handle);
  if (!context) context = add_context(handle, row);
  struct gate_stream *record = context ? find_stream(context, stream, thread) : NULL;
  gate_unlock();
  return record;
}

static CUcontext current_context(void) {
  const struct cg_driver *driver = cg_driver();
  CUcontext context = NULL;
  bool known = driver && driver->x_cuCtxGetCurrent && driver->x_cuCtxGetCurrent(&context) == CUDA_SUCCESS;
  return known ? context : NULL;
}

static unsigned cache_place(CUstream stream) {
  uintptr_t bits = (uintptr_t)stream;
  return (unsigned)((bits ^ bits >> 6 ^ bits >> 12) % CACHED);
}

struct gate_stream *gate_stream_current(CUstream stream) {
  CUcontext context = current_context();
  if (!context) return NULL;
  uint64_t now = atomic_load_explicit(&generation, memory_order_acquire);
  struct cached *entry = &cache[cache_place(stream)];
  if (entry->generation == now && entry->context == context && entry->stream == stream) return entry->record;
  int row = cg_region()->state == CG_REGION_READY ? cg_gpu_current() : -1;
  struct gate_stream *record = row < 0 ? NULL : stream_in(context, stream, row);
  *entry = (struct cached){.generation = now, .context = context, .stream = stream, .record = record};
  return record;
}

void gate_retire(struct gate_stream *stream, uint64_t upto) {
  uint64_t retired = atomic_load(&stream->retired);
  if (!gate_after(upto, retired)) return;
  uint64_t amount = upto - retired;
  atomic_store(&stream->retired, upto);
  atomic_store(&stream->gpu->progress_ns, futex_now_ns());
  const struct cg_region *region = cg_region();
  if (region->state == CG_REGION_READY) {
    int row = stream->gpu->row;
    region->usage->slot[region->slot].gpu[row].launches += gate_launches(amount);
    atomic_fetch_add((_Atomic(uint64_t) *)&region->usage->gpu[row].worked_ns, gate_cost_ns(amount));
  }
  gate_drop(stream->gpu, amount);
}

bool gate_kernel_in_flight(const struct gate_gpu *gpu) {
  for (struct gate_context *context = contexts; context; context = context->next) {
    if (context->gpu != gpu) continue;
    for (struct gate_stream *stream = context->streams; stream; stream = stream->next) {
      if (gate_after(atomic_load(&stream->kernel_end), atomic_load(&stream->retired))) return true;
    }
  }
  return false;
}

static void sync_add(struct gate_sync *sync, struct gate_stream *stream) {
  if (sync->count == GATE_SYNC_STREAMS) return;
  sync->stream[sync->count] = stream;
  sync->upto[sync->count++] = atomic_load(&stream->submitted);
}

/* Streams with something in flight that this thread can name. */
static void sync_all(struct gate_sync *sync, CUcontext handle) {
  sync->count = 0;
  gate_lock();
  struct gate_context *context = find_context(handle);
  for (struct gate_stream *stream = context ? context->streams : NULL; stream; stream = stream->next) {
    if (atomic_load(&stream->submitted) != atomic_load(&stream->retired)) sync_add(sync, stream);
  }
  gate_unlock();
}

void gate_sync_stream(struct gate_sync *sync, CUstream stream) {
  sync->count = 0;
  gate_batch_end(true);
  struct gate_stream *record = gate_stream_current(stream);
  if (record) sync_add(sync, record);
}

void gate_sync_context(struct gate_sync *sync, CUcontext context) {
  gate_batch_end(true);
  sync_all(sync, context ? context : current_context());
}

void gate_sync_end(const struct gate_sync *sync, CUresult result) {
  if (result != CUDA_SUCCESS) {
    gate_watch_kick(); /* it learns from the driver what is left */
    return;
  }
  gate_lock();
  for (unsigned i = 0; i < sync->count; i++) {
    gate_retire(sync->stream[i], sync->upto[i]);
    gate_idle_if_closed(sync->stream[i]->gpu);
  }
  gate_unlock();
}

void gate_mark_tails(void) {
  struct gate_sync tails;
  sync_all(&tails, current_context());
  for (unsigned i = 0; i < tails.count; i++) {
    struct gate_stream *stream = tails.stream[i];
    /* In the legacy stream a marker waits for all others and they for it; beside other work that
     * could be an order which the program has not asked for. */
    bool harmless = stream->stream != CU_STREAM_LEGACY || tails.count == 1;
    if (harmless && !stream->thread && atomic_load(&stream->marked) != tails.upto[i]) gate_mark(stream);
  }
}

void gate_sweep(struct gate_context *context) {
  struct gate_stream **link = &context->streams;
  while (*link) {
    struct gate_stream *stream = *link;
    if (stream->gone && !gate_has_markers(stream)) {
      gate_retire(stream, atomic_load(&stream->submitted));
      if (stream->anchor && context->pooled < GATE_POOL_EVENTS) context->pool[context->pooled++] = stream->anchor;
      *link = stream->next;
      recycle(stream);
    } else {
      link = &stream->next;
    }
  }
}

/* An ordinary stream's record, whatever its context. With the lock. */
static struct gate_stream *find_anywhere(CUstream handle) {
  for (struct gate_context *context = contexts; context; context = context->next) {
    for (struct gate_stream *stream = context->streams; stream; stream = stream->next) {
      if (stream->stream == handle && !stream->thread && !stream->gone) return stream;
    }
  }
  return NULL;
}

/* What is queued runs on after its stream is destroyed; a marker behind it still tells its end. */
static void mark_end(struct gate_stream *stream) {
  const struct cg_driver *driver = cg_driver();
  uint64_t submitted = atomic_load(&stream->submitted);
  if (submitted == atomic_load(&stream->marked) || submitted == atomic_load(&stream->retired)) return;
  if (gate_capturing() && gate_stream_captured(stream->stream, true)) return;
  if (driver->x_cuCtxPushCurrent_v2(stream->context->context) != CUDA_SUCCESS) return;
  gate_mark(stream);
  CUcontext popped;
  driver->x_cuCtxPopCurrent_v2(&popped);
}

void cg_gate_forget_stream(CUstream handle) {
  gate_capture_forget(handle);
  gate_lock();
  gate_batches_end();
  struct gate_stream *stream = find_anywhere(handle);
  struct gate_context *context = stream ? stream->context : NULL;
  gate_unlock();
  if (!stream) return;
  mark_end(stream);
  gate_lock();
  while (atomic_flag_test_and_set(&stream->marking)) { /* gate_mark_tails of another thread, which needs the lock */
    gate_unlock();
    sched_yield();
    gate_lock();
  }
  atomic_store(&stream->gone, true); /* from now on nobody marks it, and its record may become another stream's */
  atomic_fetch_add(&generation, 1);
  atomic_flag_clear(&stream->marking);
  gate_unlock();
  gate_watch_settle();
  gate_lock();
  drop_uncounted(context);
  gate_unlock();
  gate_watch_kick();
}

void cg_gate_forget_context(CUcontext handle) {
  gate_lock();
  gate_batches_end();
  struct gate_context **link = &contexts;
  while (*link && (*link)->context != handle) link = &(*link)->next;
  struct gate_context *context = *link;
  if (context) {
    *link = context->next;
    atomic_store(&context->gone, true);
    atomic_fetch_add(&generation, 1);
  }
  gate_unlock();
  if (!context) return;
  gate_watch_settle();
  gate_lock();
  while (context->streams) {
    struct gate_stream *stream = context->streams;
    gate_retire(stream, atomic_load(&stream->submitted));
    context->streams = stream->next;
    recycle(stream);
  }
  context->next = spare_contexts;
  spare_contexts = context;
  gate_unlock();
}

void gate_streams_after_fork(void) {
  atomic_fetch_add(&generation, 1);
  own_thread = 0;
  contexts = NULL;
}

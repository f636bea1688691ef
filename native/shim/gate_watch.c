/* gate_watch.c - the thread that notices completion.
 *
 * It asks (cuEventQuery, cuStreamQuery) rather than waits in the driver, so that a context can be
 * destroyed under it and the process can end or fork at any time. It sleeps while nothing is in
 * flight, and otherwise until the oldest work should be done by its learnt cost; only overdue work is
 * asked for often, and often means less when nobody waits for the answer.
 *
 * Its queries are allowed beside other threads' stream captures because its own capture mode is
 * relaxed; on drivers without that mode it does not ask during captures. */
#include "gate.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "futex_words.h"

#define LONGEST_SLEEP_NS 2000000u
#define SHORTEST_SLEEP_NS 50000u /* somebody waits: a thread of this process, or a rival after the slot */
#define RIVALS_SLEEP_NS 200000u  /* rivals wait for an idle moment in the slot */
#define NOBODY_SLEEP_NS 1000000u
#define STACK_BYTES (256u << 10)

enum { NOT_STARTED, STARTED };
static _Atomic(uint32_t) state;
static _Atomic(uint32_t) kicks;    /* futex word */
static _Atomic(uint32_t) sleeping; /* the thread waits on `kicks` */
static _Atomic(uint32_t) section;  /* futex word: odd while the thread makes driver calls */
static _Atomic(uint32_t) settling; /* threads that wait for its end */

uint64_t gate_shortest_sleep_ns(const struct gate_gpu *gpu) {
  if (atomic_load(&gpu->waiters)) return SHORTEST_SLEEP_NS;
  if (CGPU_GRANT_STATE(gate_grant(gpu)) != CGPU_GRANT_OPEN) return SHORTEST_SLEEP_NS;
  return GATE_LOAD(&gpu->grants->contenders) > 1 ? RIVALS_SLEEP_NS : NOBODY_SLEEP_NS;
}

/* How long the stream's oldest unfinished part should take, and since when. */
static uint64_t expected_ns(const struct gate_stream *stream, uint64_t *since_ns) {
  uint64_t retired = atomic_load(&stream->retired);
  if (!gate_has_markers(stream)) {
    *since_ns = atomic_load(&stream->batch_since_ns);
    return gate_cost_ns(atomic_load(&stream->submitted) - retired);
  }
  const struct gate_marker *marker = &stream->marker[atomic_load(&stream->first) % GATE_MARKERS];
  bool doubtful;
  uint64_t known_ns = marker->key ? gate_cost_known(marker->key, &doubtful) : 0;
  *since_ns = marker->since_ns;
  /* What it counts for in the queue ends at a quantum; a longer kernel is asked for at its own end. */
  return known_ns ? known_ns * marker->launches : gate_cost_ns(marker->upto - retired);
}

/* When to ask for it again. */
static uint64_t next_look(const struct gate_stream *stream, uint64_t now_ns) {
  uint64_t since_ns, length_ns = expected_ns(stream, &since_ns);
  if (since_ns < stream->progress_ns) since_ns = stream->progress_ns;
  uint64_t due_ns = since_ns + length_ns;
  uint64_t sleep_ns = due_ns > now_ns ? (due_ns - now_ns) * 3 / 4 : (now_ns - due_ns) / 16;
  uint64_t shortest_ns = gate_shortest_sleep_ns(stream->gpu);
  if (sleep_ns < shortest_ns) sleep_ns = shortest_ns;
  return now_ns + (sleep_ns < LONGEST_SLEEP_NS ? sleep_ns : LONGEST_SLEEP_NS);
}

static bool unfinished(const struct gate_stream *stream) {
  return gate_has_markers(stream) || atomic_load(&stream->submitted) != atomic_load(&stream->retired);
}

/* The driver calls of one look. `section` is odd already. */
static void ask(struct gate_stream *stream) {
  const struct cg_driver *driver = cg_driver();
  bool may_ask = !gate_capturing() || driver->x_cuThreadExchangeStreamCaptureMode;
  CUcontext popped;
  if (!may_ask || driver->x_cuCtxPushCurrent_v2(stream->context->context) != CUDA_SUCCESS) return;
  gate_collect(stream);
  driver->x_cuCtxPopCurrent_v2(&popped);
}

/* The stream after `stream` (first of all: null) that has unfinished work; with the lock. */
static struct gate_stream *next_unfinished(struct gate_stream *stream) {
  struct gate_context *context = stream ? stream->context : gate_contexts();
  stream = stream ? stream->next : context ? context->streams : NULL;
  for (;;) {
    while (stream && !unfinished(stream)) stream = stream->next;
    if (stream || !context) return stream;
    context = context->next;
    stream = context ? context->streams : NULL;
  }
}

static uint64_t earlier(uint64_t left, uint64_t right) { return left < right ? left : right; }

static void leave_section(void) {
  atomic_fetch_add(&section, 1);
  if (atomic_load(&settling)) futex_wake_all(&section, true);
}

/* Looks at all streams. What was chosen with the lock, and the section entered with it, stays valid
 * until the section is left: whoever takes a stream or context away waits for that (settle). */
static uint64_t look_at_streams(void) {
  uint64_t next_ns = FUTEX_NEVER;
  struct gate_stream *stream = NULL;
  gate_lock();
  uint64_t generation = gate_generation();
  while ((stream = next_unfinished(stream))) {
    atomic_fetch_add(&section, 1);
    gate_unlock();
    ask(stream);
    if (unfinished(stream)) next_ns = earlier(next_ns, next_look(stream, futex_now_ns()));
    leave_section();
    gate_lock();
    if (generation == gate_generation()) continue;
    next_ns = futex_now_ns() + SHORTEST_SLEEP_NS; /* the record may be another stream's by now */
    break;
  }
  for (struct gate_context *context = gate_contexts(); context; context = context->next) gate_sweep(context);
  gate_unlock();
  return next_ns;
}

/* Says idle after the grace, and notices when the arbiter is gone. `seen`: some stream has unfinished
 * work; otherwise what is in flight is still on its way through the driver, and may be short. */
static uint64_t look_at_gpus(bool seen) {
  uint64_t now_ns = futex_now_ns();
  gate_lock();
  uint64_t next_ns = gate_batches_look(now_ns);
  for (int row = 0; row < (int)CGPU_MAX_GPUS; row++) {
    struct gate_gpu *gpu = gate_gpu_used(row);
    if (!gpu) continue;
    uint64_t inflight = atomic_load(&gpu->inflight);
    if (!inflight) continue;
    if (gate_heartbeat_lost(now_ns)) atomic_store(&gpu->alone, true);
    if (inflight != GATE_FLAG_BUSY) {
      next_ns = earlier(next_ns, now_ns + (seen ? LONGEST_SLEEP_NS : gate_shortest_sleep_ns(gpu)));
    } else if (gpu->idle_ns + GATE_GRACE_NS <= now_ns) {
      gate_idle(gpu);
    } else {
      next_ns = earlier(next_ns, gpu->idle_ns + GATE_GRACE_NS);
    }
  }
  gate_unlock();
  return next_ns;
}

static void *run(void *unused) {
  const struct cg_driver *driver = cg_driver();
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  prctl(PR_SET_NAME, "cgpu-gate");
  prctl(PR_SET_TIMERSLACK, 1000);
  if (driver->x_cuThreadExchangeStreamCaptureMode) driver->x_cuThreadExchangeStreamCaptureMode(&mode);
  gate_batches_start();
  for (;;) {
    uint32_t seen = atomic_load(&kicks);
    uint64_t next_ns = look_at_streams();
    next_ns = earlier(next_ns, look_at_gpus(next_ns != FUTEX_NEVER));
    struct futex_word word = futex_word_of(&kicks, seen, true);
    atomic_store(&sleeping, 1);
    futex_wait_one(&word, next_ns);
    atomic_store(&sleeping, 0);
  }
  return unused;
}

void gate_watch_start(void) {
  uint32_t not_started = NOT_STARTED;
  if (atomic_load_explicit(&state, memory_order_acquire) == STARTED) return;
  if (!atomic_compare_exchange_strong(&state, &not_started, STARTED)) return;
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, old; /* the process's signals are its own threads' */
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int error = pthread_create(&thread, &attributes, run, NULL);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attributes);
  if (error) {
    atomic_store(&state, NOT_STARTED); /* the next launch tries again */
    cg_say("no thread for the gate: finished work is noticed late [CGPU-SHIM-GATE-THREAD]");
  }
}

void gate_watch_kick(void) {
  atomic_fetch_add(&kicks, 1);
  if (atomic_load(&sleeping)) futex_wake_all(&kicks, true);
}

void gate_watch_settle(void) {
  atomic_fetch_add(&settling, 1);
  uint32_t seen = atomic_load(&section);
  struct futex_word word = futex_word_of(&section, seen, true);
  while (seen % 2 && atomic_load(&section) == seen) futex_wait_one(&word, FUTEX_NEVER);
  atomic_fetch_sub(&settling, 1);
}

void gate_watch_after_fork(void) {
  atomic_store(&state, NOT_STARTED);
  atomic_store(&sleeping, 0);
  atomic_store(&section, 0);
  atomic_store(&settling, 0);
}

/* gate_batch.c - launches that need no word with anybody; gate.h says what a batch is. */
#include "gate.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "futex_words.h"

#define LEAST_LAUNCHES 4u /* a batch of fewer is not worth the trouble */
#define STREAK 4u         /* after so many launches it is likely that more come */
#define PART_OF_QUANTUM 8
#define PART_OF_QUEUE 2
#define PART_OF_SLOT 4 /* of what is left of it: the deadline is not looked at within a batch */

/* linux/membarrier.h, which the oldest C library has not got. */
enum { BARRIER_PRIVATE = 1 << 3, REGISTER_PRIVATE = 1 << 4 };

_Atomic(uint64_t) gate_epoch = 1;
__thread struct gate_batch *gate_own_batch __attribute__((tls_model("initial-exec")));

static _Atomic(bool) possible;     /* the kernel has the barrier */
static struct gate_batch *batches; /* with the lock */
static pthread_key_t key_of_thread;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static const _Atomic(uint32_t) no_grant;

static bool barrier(int command) { return syscall(SYS_membarrier, command, 0) == 0; }

void gate_batches_start(void) { atomic_store(&possible, barrier(REGISTER_PRIVATE)); }

/* Accounts for what has gone and gives the rest of the room back. With the lock; no thread is inside. */
static void flush(struct gate_batch *batch) {
  struct gate_stream *stream = batch->record;
  bool there = stream->serial == batch->serial && !atomic_load(&stream->gone);
  uint64_t pending = there ? atomic_load_explicit(&batch->pending, memory_order_relaxed) : 0;
  atomic_store_explicit(&batch->open, false, memory_order_relaxed);
  atomic_store_explicit(&batch->pending, 0, memory_order_relaxed);
  if (pending) {
    uint64_t submitted = atomic_fetch_add(&stream->submitted, pending) + pending;
    atomic_store_explicit(&stream->kernel_end, submitted, memory_order_relaxed);
    if (batch->mixed) atomic_store_explicit(&stream->batch_key, 0, memory_order_relaxed);
  }
  if (batch->reserved != pending) gate_drop(batch->gpu, batch->reserved - pending);
}

void gate_batches_end(void) {
  bool any = false;
  for (struct gate_batch *batch = batches; batch; batch = batch->next) any = any || atomic_load(&batch->open);
  if (!any) return;
  atomic_fetch_add(&gate_epoch, 1);
  if (!barrier(BARRIER_PRIVATE)) return; /* no memory for it: tried again by the next one */
  for (struct gate_batch *batch = batches; batch; batch = batch->next) {
    bool inside = atomic_load_explicit(&batch->inside, memory_order_acquire);
    if (atomic_load(&batch->open) && !inside) flush(batch);
  }
}

/* The thread's own: from now on its launches ask again. */
static void end_own(struct gate_batch *batch) {
  batch->epoch = 0;
  if (!atomic_load_explicit(&batch->open, memory_order_relaxed)) return;
  gate_lock();
  if (atomic_load(&batch->open)) flush(batch);
  gate_unlock();
}

void gate_batch_end(bool waits) {
  struct gate_batch *batch = gate_own_batch;
  if (!batch) return;
  end_own(batch);
  if (waits) batch->streak = 0;
}

/* ---- threads ---- */

static void thread_ended(void *value) {
  struct gate_batch *batch = value;
  end_own(batch);
  gate_own_batch = NULL;
  gate_lock();
  batch->spare = true;
  gate_unlock();
}

static void make_key(void) { pthread_key_create(&key_of_thread, thread_ended); }

static struct gate_batch *of_thread(void) {
  struct gate_batch *batch = gate_own_batch;
  if (batch) return batch;
  pthread_once(&key_once, make_key);
  gate_lock();
  for (batch = batches; batch && !batch->spare;) batch = batch->next;
  if (!batch && (batch = calloc(1, sizeof *batch))) {
    batch->next = batches;
    batches = batch;
  }
  if (batch) {
    batch->spare = false;
    batch->streak = 0;
    batch->epoch = 0;
    batch->grant_word = &no_grant;
  }
  gate_unlock();
  if (batch) pthread_setspecific(key_of_thread, batch);
  return gate_own_batch = batch;
}

void gate_batches_after_fork(void) {
  struct gate_batch *own = gate_own_batch;
  atomic_store(&possible, false);
  batches = own;
  if (!own) return;
  *own = (struct gate_batch){.grant_word = &no_grant};
}

/* ---- opening ---- */

/* How many launches of a cost a thread may take room for; 0: not worth it. */
static uint32_t launches_ahead(const struct gate_gpu *gpu, uint64_t cost_ns, uint64_t now_ns) {
  uint64_t quantum_ns = gate_quantum_ns(gpu), deadline_ns = GATE_LOAD(&gpu->grants->grant_deadline_ns);
  uint64_t most_ns = GATE_LOAD(&gpu->grants->queue_ns), queued_ns = gate_cost_ns(atomic_load(&gpu->inflight));
  uint64_t room_ns = quantum_ns / PART_OF_QUANTUM;
  if (!most_ns) most_ns = quantum_ns;
  if (queued_ns >= most_ns || deadline_ns <= now_ns || queued_ns >= deadline_ns - now_ns) return 0;
  if ((most_ns - queued_ns) / PART_OF_QUEUE < room_ns) room_ns = (most_ns - queued_ns) / PART_OF_QUEUE;
  if ((deadline_ns - now_ns - queued_ns) / PART_OF_SLOT < room_ns)
    room_ns = (deadline_ns - now_ns - queued_ns) / PART_OF_SLOT;
  uint64_t launches = room_ns / cost_ns;
  if (launches > GATE_BATCH_LAUNCHES) launches = GATE_BATCH_LAUNCHES;
  return launches < LEAST_LAUNCHES ? 0 : (uint32_t)launches;
}

/* What the launches behind the stream's latest marker have in common, as the next marker learns from it. */
static void note_first(struct gate_stream *stream, uint64_t key, uint64_t now_ns) {
  uint64_t submitted = atomic_load(&stream->submitted);
  if (submitted == atomic_load_explicit(&stream->marked, memory_order_relaxed)) {
    bool idle = submitted == atomic_load_explicit(&stream->retired, memory_order_relaxed);
    atomic_store_explicit(&stream->batch_key, idle ? 0 : key, memory_order_relaxed);
    atomic_store_explicit(&stream->batch_since_ns, now_ns, memory_order_relaxed);
  } else if (atomic_load_explicit(&stream->batch_key, memory_order_relaxed) != key) {
    atomic_store_explicit(&stream->batch_key, 0, memory_order_relaxed);
  }
}

/* With the lock, after the room was taken: whether the grant allows it, now that the arbiter can see it. */
static bool granted(const struct gate_stream *stream, uint32_t grant) {
  bool closing = atomic_load_explicit(&stream->gpu->alone, memory_order_relaxed) || atomic_load(&stream->gone);
  return CGPU_GRANT_STATE(grant) == CGPU_GRANT_OPEN && !closing && !gate_capturing();
}

/* `first`: a launch of the kind that the batch begins with. */
static void open_batch(struct gate_batch *batch, struct gate_stream *stream, uint64_t key, uint64_t first) {
  struct gate_gpu *gpu = stream->gpu;
  uint64_t now_ns = futex_now_ns();
  uint32_t launches = launches_ahead(gpu, gate_cost_ns(first), now_ns);
  if (!launches) return;
  uint64_t reserved = first * launches;
  gate_take(gpu, reserved);
  uint32_t grant = gate_grant(gpu);
  gate_lock();
  if (granted(stream, grant)) {
    note_first(stream, key, now_ns);
    batch->mixed = false;
    batch->left = launches;
    batch->grant = grant;
    batch->grant_word = (const _Atomic(uint32_t) *)&gpu->grants->grant;
    batch->epoch = atomic_load(&gate_epoch);
    batch->stream = stream->stream;
    batch->context = stream->stream == CU_STREAM_LEGACY ? stream->context->context : NULL;
    batch->key = key;
    batch->amount = first;
    batch->room = batch->reserved = reserved;
    batch->record = stream;
    batch->gpu = gpu;
    batch->serial = stream->serial;
    batch->seen = UINT64_MAX;
    atomic_store_explicit(&batch->open, true, memory_order_relaxed);
  } else {
    gate_drop(gpu, reserved);
  }
  gate_unlock();
}

static bool may_batch(const struct gate_stream *stream, uint64_t amount) {
  uint64_t submitted = atomic_load_explicit(&stream->submitted, memory_order_relaxed);
  return !stream->thread && !gate_capturing() && !gate_sample_due(stream, submitted, gate_cost_ns(amount)) &&
         atomic_load_explicit(&possible, memory_order_relaxed);
}

void gate_batch_open(struct gate_stream *stream, const struct cg_pass *pass, uint64_t amount) {
  bool doubtful;
  struct gate_batch *batch = of_thread();
  if (!batch) return;
  if (batch->record != stream) batch->streak = 0;
  batch->record = stream;
  if (++batch->streak < STREAK || pass->work == CG_WORK_MEMOP || !may_batch(stream, amount)) return;
  gate_cost_known(pass->key, &doubtful);
  if (!doubtful) open_batch(batch, stream, pass->key, amount);
}

bool gate_batch_admits(struct gate_batch *batch, enum cg_work work, uint64_t key) {
  bool doubtful;
  uint64_t known_ns = gate_cost_known(key, &doubtful), amount = gate_amount(known_ns);
  if (doubtful || work == CG_WORK_MEMOP || amount > batch->room) return false;
  batch->key = key;
  batch->amount = amount;
  batch->mixed = true;
  return true;
}

void gate_batch_full(struct gate_batch *batch) {
  int saved = errno;
  struct gate_stream *stream = batch->record;
  end_own(batch);
  gate_mark(stream);
  if (may_batch(stream, batch->amount)) open_batch(batch, stream, batch->key, batch->amount);
  errno = saved;
}

/* ---- for the watcher ---- */

/* Whether the batch should go on no more. */
static bool stale(struct gate_batch *batch, uint64_t now_ns) {
  struct gate_gpu *gpu = batch->gpu;
  uint64_t pending = atomic_load_explicit(&batch->pending, memory_order_relaxed);
  if (pending != batch->seen) {
    batch->seen = pending;
    batch->seen_ns = now_ns;
  }
  return gate_grant(gpu) != batch->grant || atomic_load(&gpu->alone) || atomic_load(&gpu->waiters) ||
         now_ns - batch->seen_ns >= gate_shortest_sleep_ns(gpu);
}

uint64_t gate_batches_look(uint64_t now_ns) {
  uint64_t next_ns = FUTEX_NEVER;
  bool end = false;
  for (struct gate_batch *batch = batches; batch; batch = batch->next)
    end = (atomic_load(&batch->open) && stale(batch, now_ns)) || end;
  if (end) gate_batches_end();
  for (struct gate_batch *batch = batches; batch; batch = batch->next) {
    if (!atomic_load(&batch->open)) continue;
    uint64_t look_ns = now_ns + gate_shortest_sleep_ns(batch->gpu);
    if (look_ns < next_ns) next_ns = look_ns;
  }
  return next_ns;
}

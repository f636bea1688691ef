/* gate.c - the way in and out of a launch, and what this process tells the arbiter. */
#include "gate.h"

#include <errno.h>
#include <pthread.h>

#include "futex_words.h"

/* Copies of every size are one class, so what one costs says little: none counts for more than this
 * part of the quantum. */
#define MEMOP_PART 8
#define UNKNOWN_QUANTA 10
#define STREAM_MEMOP_CLASS 2 /* the key that submit.c gives to operations on single words */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct gate_gpu gpus[CGPU_MAX_GPUS];

void gate_lock(void) { pthread_mutex_lock(&lock); }
void gate_unlock(void) { pthread_mutex_unlock(&lock); }

/* With the lock. */
struct gate_gpu *gate_gpu(int row) {
  struct gate_gpu *gpu = &gpus[row];
  if (!gpu->used) {
    gpu->row = row;
    gpu->grants = &cg_region()->grants->gpu[row];
    gpu->used = true;
  }
  return gpu;
}

struct gate_gpu *gate_gpu_used(int row) { return gpus[row].used ? &gpus[row] : NULL; }

uint64_t gate_quantum_ns(const struct gate_gpu *gpu) {
  uint64_t quantum_ns = GATE_LOAD(&gpu->grants->quantum_ns);
  return quantum_ns ? quantum_ns : GATE_QUANTUM_DEFAULT_NS;
}

static struct cgpu_usage_slot_gpu *own_slot(const struct gate_gpu *gpu) {
  const struct cg_region *region = cg_region();
  return region->state == CG_REGION_READY ? &region->usage->slot[region->slot].gpu[gpu->row] : NULL;
}

/* The arbiter waits longer for the end of what is known to be longer than a slot, and gives what is not
 * known some time too, so that it is seen by itself when it is measured. */
static void tell_long(struct gate_gpu *gpu, uint64_t known_ns) {
  uint64_t told_ns = known_ns ? known_ns : UNKNOWN_QUANTA * gate_quantum_ns(gpu);
  atomic_store(&gpu->long_ns, known_ns);
  if (own_slot(gpu)) atomic_store((_Atomic(uint64_t) *)&cg_region()->usage->gpu[gpu->row].long_ns, told_ns);
}

static void tell_not_long(struct gate_gpu *gpu) {
  _Atomic(uint64_t) *told = (_Atomic(uint64_t) *)&cg_region()->usage->gpu[gpu->row].long_ns;
  atomic_store(&gpu->long_ns, 0);
  if (own_slot(gpu) && atomic_load(told)) atomic_store(told, 0);
}

static void ring(const struct gate_gpu *gpu) {
  _Atomic(uint32_t) *doorbell = (_Atomic(uint32_t) *)&cg_region()->usage->gpu[gpu->row].doorbell;
  atomic_fetch_add(doorbell, 1);
  futex_wake_all(doorbell, false);
}

void gate_show(struct gate_gpu *gpu, bool ring_too) {
  struct cgpu_usage_slot_gpu *slot = own_slot(gpu);
  if (!slot) return;
  uint32_t word = atomic_load(&gpu->inflight) & GATE_FLAG_BUSY ? CGPU_GATE_BUSY : 0;
  if (atomic_load(&gpu->waiters)) word |= CGPU_GATE_WANT;
  atomic_store((_Atomic(uint32_t) *)&slot->gate, word);
  if (!ring_too) return;
  /* The arbiter looks by itself at a holder that has no rival, and when it closes a slot: it first
   * stores `contenders` and `grant`, then reads the word that was stored above. */
  bool held = CGPU_GRANT_STATE(gate_grant(gpu)) == CGPU_GRANT_OPEN;
  bool rivals = atomic_load((const _Atomic(uint32_t) *)&gpu->grants->contenders) > 1;
  bool idle_holder = held && rivals && !(word & CGPU_GATE_BUSY);
  if (!held || idle_holder) ring(gpu);
}

uint64_t gate_take(struct gate_gpu *gpu, uint64_t amount) {
  uint64_t before = atomic_fetch_add(&gpu->inflight, amount);
  if (CG_LIKELY(before & GATE_FLAG_BUSY)) return before;
  gate_lock();
  if (!(atomic_fetch_or(&gpu->inflight, GATE_FLAG_BUSY) & GATE_FLAG_BUSY)) {
    gpu->idle_ns = 0;
    atomic_store(&gpu->progress_ns, futex_now_ns());
    gate_show(gpu, false);
  }
  gate_unlock();
  gate_watch_start();
  gate_watch_kick();
  return before;
}

void gate_idle(struct gate_gpu *gpu) {
  uint64_t nothing = GATE_FLAG_BUSY;
  if (!atomic_compare_exchange_strong(&gpu->inflight, &nothing, 0)) return;
  struct cgpu_usage_slot_gpu *slot = own_slot(gpu);
  if (slot) slot->drained_ns = gpu->idle_ns ? gpu->idle_ns : futex_now_ns();
  gpu->idle_ns = 0;
  tell_not_long(gpu);
  gate_show(gpu, true);
}

void gate_drop(struct gate_gpu *gpu, uint64_t amount) {
  uint64_t rest = atomic_fetch_sub(&gpu->inflight, amount) - amount;
  atomic_fetch_add(&gpu->progress, 1);
  if (atomic_load(&gpu->waiters)) futex_wake_all(&gpu->progress, true);
  if (rest != GATE_FLAG_BUSY) return;
  gpu->idle_ns = futex_now_ns();
  gate_idle_if_closed(gpu);
}

void gate_idle_if_closed(struct gate_gpu *gpu) {
  bool open = CGPU_GRANT_STATE(gate_grant(gpu)) == CGPU_GRANT_OPEN &&
              futex_now_ns() < GATE_LOAD(&gpu->grants->grant_deadline_ns);
  if (!open) gate_idle(gpu);
}

/* What the launch counts for in the queue: as measured, at most a whole quantum, which is also what
 * one of unknown cost counts for. */
static uint64_t expected_cost_ns(const struct gate_gpu *gpu, enum cg_work work, uint64_t known_ns) {
  uint64_t most_ns = gate_quantum_ns(gpu);
  if (work == CG_WORK_MEMOP) most_ns /= MEMOP_PART;
  return known_ns && known_ns < most_ns ? known_ns : most_ns;
}

enum { PASS_STREAM, PASS_AMOUNT, PASS_HOW, PASS_NOW }; /* of cg_pass.opaque */
enum { SAMPLED = 1, AFTER_IDLE = 2 };                   /* PASS_HOW */

static void enter(struct cg_pass *pass, enum cg_work work, struct gate_stream *stream, uint64_t key) {
  struct gate_gpu *gpu = stream->gpu;
  uint32_t state = CGPU_GRANT_STATE(gate_grant(gpu));
  if (state == CGPU_GRANT_FREE) return;
  bool doubtful;
  uint64_t known_ns = gate_cost_known(key, &doubtful), now_ns = 0;
  uint64_t amount = gate_amount(expected_cost_ns(gpu, work, known_ns));
  bool taken = state == CGPU_GRANT_OPEN;
  if (!CG_LIKELY(taken && gate_admits(gpu, gate_take(gpu, amount), &now_ns))) {
    gate_wait(gpu, work, amount, taken);
    now_ns = 0;
  }
  if (!CG_LIKELY(known_ns && known_ns < gate_quantum_ns(gpu)) && work != CG_WORK_MEMOP) tell_long(gpu, known_ns);
  *pass = (struct cg_pass){.gpu = gpu->row, .stream = stream->stream, .work = work, .key = key};
  pass->opaque[PASS_STREAM] = (uintptr_t)stream;
  pass->opaque[PASS_AMOUNT] = amount;
  uint64_t submitted = atomic_load_explicit(&stream->submitted, memory_order_relaxed);
  /* One that counts for a whole quantum goes alone: what has become short again must be seen at once. */
  bool sample = doubtful || known_ns >= gate_quantum_ns(gpu) || gate_sample_due(stream, submitted, known_ns);
  if (sample) atomic_store_explicit(&stream->sampled, submitted, memory_order_relaxed);
  bool idle = submitted == atomic_load_explicit(&stream->retired, memory_order_relaxed);
  bool marked = submitted == atomic_load_explicit(&stream->marked, memory_order_relaxed);
  if (idle && !marked) atomic_store_explicit(&stream->marked, submitted, memory_order_relaxed);
  pass->opaque[PASS_HOW] = (sample ? SAMPLED : 0) | (idle ? AFTER_IDLE : 0);
  pass->opaque[PASS_NOW] = now_ns;
  if (sample && (idle || !marked)) gate_mark(stream);
}

void cg_gate_enter(struct cg_pass *pass, enum cg_work work, CUstream stream, uint64_t key) {
  pass->gpu = -1;
  if (work == CG_WORK_MEMOP && key == STREAM_MEMOP_CLASS) return; /* takes no time, and others may wait for it */
  int saved = errno;
  gate_batch_end(false);
  struct gate_stream *record = gate_stream_current(stream);
  bool captured = record && gate_capturing() && gate_stream_captured(stream, true);
  if (record && !captured) enter(pass, work, record, key);
  errno = saved;
}

/* Notes what the launches since the last marker have in common; returns whether a marker is due. */
static bool note_launch(struct gate_stream *stream, const struct cg_pass *pass, uint64_t submitted) {
  uint64_t batch = submitted - atomic_load_explicit(&stream->marked, memory_order_relaxed);
  if (gate_launches(batch) <= 1) {
    uint64_t now_ns = pass->opaque[PASS_NOW];
    /* After a pause the marker before says nothing about when this began. */
    uint64_t key = pass->opaque[PASS_HOW] == AFTER_IDLE ? 0 : pass->key;
    atomic_store_explicit(&stream->batch_key, key, memory_order_relaxed);
    atomic_store_explicit(&stream->batch_since_ns, now_ns ? now_ns : futex_now_ns(), memory_order_relaxed);
  } else if (atomic_load_explicit(&stream->batch_key, memory_order_relaxed) != pass->key) {
    atomic_store_explicit(&stream->batch_key, 0, memory_order_relaxed);
  }
  return pass->opaque[PASS_HOW] & SAMPLED || gate_launches(batch) >= GATE_MARKED ||
         gate_cost_ns(batch) >= gate_quantum_ns(stream->gpu) / MEMOP_PART || stream->thread || gate_capturing();
}

void cg_gate_leave(struct cg_pass *pass, CUresult result) {
  if (pass->gpu < 0) return;
  int saved = errno;
  struct gate_stream *stream = (struct gate_stream *)(uintptr_t)pass->opaque[PASS_STREAM];
  uint64_t amount = pass->opaque[PASS_AMOUNT];
  if (result != CUDA_SUCCESS || atomic_load_explicit(&stream->gone, memory_order_relaxed)) {
    gate_lock();
    gate_drop(stream->gpu, amount);
    gate_unlock();
  } else {
    if (stream->thread) atomic_store(&stream->marker_due, true);
    uint64_t submitted = atomic_fetch_add(&stream->submitted, amount) + amount;
    if (pass->work != CG_WORK_MEMOP) atomic_store_explicit(&stream->kernel_end, submitted, memory_order_relaxed);
    if (note_launch(stream, pass, submitted)) gate_mark(stream);
    if (stream->thread) atomic_store(&stream->marker_due, false);
    gate_batch_open(stream, pass, amount);
  }
  errno = saved;
}

void cg_gate_after_fork(void) {
  lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  for (unsigned i = 0; i < CGPU_MAX_GPUS; i++) gpus[i] = (struct gate_gpu){0};
  gate_streams_after_fork();
  gate_batches_after_fork();
  gate_captures_after_fork();
  gate_watch_after_fork();
}

/* gate.h - inside the gate: what its files share. core.h says what the gate is for.
 *
 *   gate.c          the way in and out of a launch, and what this process tells the arbiter
 *   gate_batch.c    launches that need no word with anybody
 *   gate_wait.c     a launch that may not go yet
 *   gate_stream.c   contexts and streams of this process, and how far their work has got
 *   gate_marker.c   events that tell when work finished and what it cost
 *   gate_cost.c     learnt costs
 *   gate_watch.c    the thread that notices completion
 *   gate_capture.c  streams that are being captured
 *
 * Amounts of work. A launch is a number of launches (one) and a cost in ticks of 64 ns, packed into
 * one word, so that one atomic addition accounts for both:
 *
 *   bits 24..63 cost in ticks   bits 1..23 launches   bit 0 flag (gate_gpu.inflight only)
 *
 * Each stream counts what was submitted to it and what of that has been seen to finish (`retired`);
 * both only grow, and their difference is exact modulo 2^64. gate_gpu.inflight is the sum of these
 * differences plus the launches that are on their way through the driver.
 *
 * One lock, gate_lock(), guards all that is not atomic. It is never held across a driver call.
 */
#ifndef CGPU_SHIM_GATE_H
#define CGPU_SHIM_GATE_H

#include <stdatomic.h>

#include "core.h"

#define GATE_FLAG_BUSY 1u /* CGPU_GATE_BUSY is published */
#define GATE_ONE_LAUNCH 2u
#define GATE_COUNT_MASK 0xfffffeu
#define GATE_COST_SHIFT 24
#define GATE_TICK_NS 64u

#define GATE_GRACE_NS 300000u           /* idle time before a holder says so: pauses between launches are not idle */
#define GATE_HEARTBEAT_NS 500000000u    /* older: there is no arbiter */
#define GATE_QUANTUM_DEFAULT_NS 10000000u /* until an arbiter has said another */

#define GATE_MARKERS 32u     /* pending per stream */
#define GATE_POOL_EVENTS 256u/* kept per context */
#define GATE_SAMPLE 32u      /* every so many launches of a stream one is measured by itself */
#define GATE_SAMPLE_SHORT 512u /* the same where it takes no longer than GATE_SHORT_NS */
#define GATE_SHORT_NS 20000u
#define GATE_MARKED 64u      /* outside of batches at most so many launches share a marker */

struct gate_marker {
  CUevent event;
  uint64_t upto;     /* value of gate_stream.submitted that it proves finished */
  uint64_t key;      /* what all launches since the marker before ran; 0: several things, or nothing */
  uint64_t launches; /* how many they are */
  uint64_t since_ns; /* host time before the first of them; 0: not known */
};

struct gate_stream {
  CUstream stream;
  struct gate_context *context;
  struct gate_gpu *gpu;
  struct gate_stream *next;
  uint64_t serial;                /* which use of this record; with the lock */
  int thread;                     /* whose per-thread default stream; 0: an ordinary stream */
  _Atomic(bool) gone;             /* destroyed by its owner; only its markers are still watched */
  _Atomic(uint64_t) submitted;    /* by calls that have returned */
  _Atomic(bool) marker_due;       /* of a thread's default stream: the marker behind `submitted` is on its way */
  _Atomic(uint64_t) kernel_end;   /* `submitted` after the latest kernel or graph */
  _Atomic(uint64_t) retired;      /* written with the lock */
  _Atomic(uint64_t) marked;       /* `upto` of the latest marker */
  _Atomic(uint64_t) batch_key;    /* launches after it: what they run, as in a marker */
  _Atomic(uint64_t) batch_since_ns;
  _Atomic(uint64_t) sampled;      /* `submitted` when a launch was last measured by itself */
  atomic_flag marking;            /* a thread is recording; others leave it to that one, the stream's end waits */
  struct gate_marker marker[GATE_MARKERS]; /* ring: the marking thread adds, the watcher takes */
  _Atomic(uint32_t) first, last;
  CUevent anchor;       /* the latest finished marker's, for the time since; the watcher's */
  uint64_t progress_ns; /* when the watcher last saw it get on */
};

struct gate_context {
  CUcontext context;
  _Atomic(bool) gone;
  struct gate_gpu *gpu;
  struct gate_context *next;
  struct gate_stream *streams;
  CUevent pool[GATE_POOL_EVENTS];
  unsigned pooled;
};

struct gate_gpu {
  int row; /* of the region's tables */
  const struct cgpu_grants_gpu *grants;
  _Atomic(uint64_t) inflight;
  _Atomic(bool) alone; /* no heartbeat: the fast path is closed, gate_wait.c enforces the share */
  _Atomic(uint32_t) waiters;
  _Atomic(uint32_t) progress; /* futex word of this process: something finished */
  _Atomic(uint64_t) progress_ns;
  uint64_t idle_ns;     /* since when nothing is in flight while BUSY is published; 0: not so */
  _Atomic(uint64_t) stall_ns; /* latest launch that passed because nothing got on */
  unsigned stalled;     /* how many such launches since something did */
  _Atomic(uint64_t) long_ns; /* learnt cost of a launch in flight that exceeds a quantum; 0: none */
  atomic_flag expecting; /* a thread spins, since the slot is about to begin */
  bool used;
};

static inline void gate_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* ---- gate.c ---- */
void gate_lock(void);
void gate_unlock(void);
struct gate_gpu *gate_gpu(int row);      /* with the lock */
struct gate_gpu *gate_gpu_used(int row); /* null: no launch yet */

static inline uint64_t gate_amount(uint64_t cost_ns) {
  return (cost_ns + GATE_TICK_NS - 1) / GATE_TICK_NS << GATE_COST_SHIFT | GATE_ONE_LAUNCH;
}
static inline uint64_t gate_cost_ns(uint64_t amount) { return (amount >> GATE_COST_SHIFT) * GATE_TICK_NS; }
static inline uint64_t gate_launches(uint64_t amount) { return (amount & GATE_COUNT_MASK) / GATE_ONE_LAUNCH; }
/* Whether enough has gone since a launch was last measured by itself. */
static inline bool gate_sample_due(const struct gate_stream *stream, uint64_t submitted, uint64_t known_ns) {
  uint64_t sampled = atomic_load_explicit(&stream->sampled, memory_order_relaxed);
  return !submitted || gate_launches(submitted - sampled) >= (known_ns <= GATE_SHORT_NS ? GATE_SAMPLE_SHORT : GATE_SAMPLE);
}
static inline bool gate_after(uint64_t left, uint64_t right) { return (int64_t)(left - right) > 0; }

static inline uint32_t gate_grant(const struct gate_gpu *gpu) {
  return atomic_load((const _Atomic(uint32_t) *)&gpu->grants->grant);
}
#define GATE_LOAD(pointer) __atomic_load_n((pointer), __ATOMIC_RELAXED) /* of the contract's plain fields */
uint64_t gate_quantum_ns(const struct gate_gpu *gpu);

/* Adds to what is in flight and shows it to the arbiter; returns what was in flight before. */
uint64_t gate_take(struct gate_gpu *gpu, uint64_t amount);
/* What did not go to the card after all, or has finished. With the lock. */
void gate_drop(struct gate_gpu *gpu, uint64_t amount);
/* Says that nothing is in flight, if that is so. With the lock. */
void gate_idle(struct gate_gpu *gpu);
/* The same after the slot's end, where the arbiter waits for it. In an open slot the watcher says it
 * after the grace. */
void gate_idle_if_closed(struct gate_gpu *gpu);
/* Shows BUSY and WANT as they are now; rings where the arbiter waits for the change. With the lock. */
void gate_show(struct gate_gpu *gpu, bool ring);

/* ---- gate_batch.c ---- */
/* A batch is room in the queue that one thread has taken in advance, for launches into one stream of
 * work whose cost is known. As long as the grant stays word for word what it was, a launch within the
 * batch reads it once and counts locally: `pending` has one writer and needs no locked instruction.
 *
 * Room that is not used has to come back even if the thread never launches again, since the process
 * counts as busy meanwhile. So anybody may end all batches, with the lock: `gate_epoch` grows, then
 * the kernel has every thread of the process pass a memory barrier (membarrier). From then on a
 * launch of an old batch is either seen as `inside`, and left to its thread, or sees the new epoch
 * and asks again. Where the kernel has no such call there are no batches. */
#define GATE_BATCH_LAUNCHES 256u

struct gate_batch { /* of one thread; never given back, but used again by another */
  _Atomic(bool) inside;      /* the thread is at a launch of the batch */
  _Atomic(bool) open;        /* written with the lock */
  bool mixed;                /* `key` has changed */
  uint32_t left;             /* launches that may still go */
  uint32_t grant;            /* as it has to stay */
  const _Atomic(uint32_t) *grant_word;
  uint64_t epoch;            /* as it has to stay */
  CUstream stream;
  CUcontext context;         /* null: the stream tells it */
  uint64_t key, amount;      /* of the latest launch */
  uint64_t room;             /* what may still go, as an amount */
  _Atomic(uint64_t) pending; /* has gone, and is not in record->submitted yet */
  struct gate_stream *record; /* of the latest launch outside of a batch, too */
  uint64_t serial;           /* of the record */
  struct gate_gpu *gpu;
  uint64_t reserved;         /* is in gate_gpu.inflight */
  uint64_t seen, seen_ns;    /* `pending` as the watcher saw it last, and when it was first so */
  unsigned streak;           /* launches into `stream` that came one after another outside of a batch */
  bool spare;                /* its thread has ended; with the lock */
  struct gate_batch *next;
};

extern CG_HIDDEN _Atomic(uint64_t) gate_epoch;
/* Initial-exec, though this library may be opened late: no function call, and eight bytes are to be had. */
extern CG_HIDDEN __thread struct gate_batch *gate_own_batch __attribute__((tls_model("initial-exec")));

/* Another kernel than the latest, with `inside` set: whether it fits the batch. */
bool gate_batch_admits(struct gate_batch *batch, enum cg_work work, uint64_t key);
/* The batch's last launch has gone. */
void gate_batch_full(struct gate_batch *batch);
/* After a launch outside of a batch: the next ones may be a batch. */
void gate_batch_open(struct gate_stream *stream, const struct cg_pass *pass, uint64_t amount);
/* Before such a launch, or when the thread waits: what its batch has counted is accounted for. */
void gate_batch_end(bool waits);
/* Ends all batches of the process that no thread is inside of. With the lock. */
void gate_batches_end(void);
/* The watcher's look, with the lock: ends batches that go on no more; when to look again. */
uint64_t gate_batches_look(uint64_t now_ns);
void gate_batches_start(void); /* by the watcher: batches may be opened from now on */
void gate_batches_after_fork(void);

static inline bool gate_batch_enter(const struct cg_driver *driver, enum cg_work work, CUstream stream, uint64_t key) {
  struct gate_batch *batch = gate_own_batch;
  if (!batch) return false;
  atomic_store_explicit(&batch->inside, true, memory_order_relaxed);
  atomic_signal_fence(memory_order_seq_cst);
  CUcontext context = batch->context;
  bool same = batch->epoch == atomic_load_explicit(&gate_epoch, memory_order_acquire) && batch->stream == stream &&
              batch->grant == atomic_load_explicit(batch->grant_word, memory_order_acquire) &&
              (!context || (driver->x_cuCtxGetCurrent(&context) == CUDA_SUCCESS && context == batch->context));
  if (same && (batch->key == key || gate_batch_admits(batch, work, key))) return true;
  atomic_store_explicit(&batch->inside, false, memory_order_release);
  return false;
}

static inline void gate_batch_leave(bool launched) {
  struct gate_batch *batch = gate_own_batch;
  bool full = false;
  if (launched) {
    uint64_t pending = atomic_load_explicit(&batch->pending, memory_order_relaxed);
    atomic_store_explicit(&batch->pending, pending + batch->amount, memory_order_relaxed);
    batch->room -= batch->amount;
    full = !--batch->left || batch->room < batch->amount;
  }
  atomic_store_explicit(&batch->inside, false, memory_order_release);
  if (full) gate_batch_full(batch);
}

/* One launch on its way: `call` is the driver's, `result` what it says. A launch within a batch, which is the usual
 * case, takes no other call. */
#define GATE_LAUNCH(result, driver, work, stream, key, call)          \
  do {                                                                \
    if (CG_LIKELY(gate_batch_enter(driver, work, stream, key))) {     \
      (result) = (call);                                              \
      gate_batch_leave((result) == CUDA_SUCCESS);                     \
    } else {                                                          \
      struct cg_pass pass;                                            \
      cg_gate_enter(&pass, work, stream, key);                        \
      (result) = (call);                                              \
      cg_gate_leave(&pass, result);                                   \
    }                                                                 \
  } while (0)

/* ---- gate_wait.c ---- */
/* Inside the slot, with room for more: `before` is what is in flight without this launch. Reads the
 * clock at most once; *now_ns stays 0 if it did not. */
bool gate_admits(const struct gate_gpu *gpu, uint64_t before, uint64_t *now_ns);
/* Returns when the launch may go, its amount taken. `taken`: it is in flight already and was not
 * admitted. */
void gate_wait(struct gate_gpu *gpu, enum cg_work work, uint64_t amount, bool taken);
bool gate_heartbeat_lost(uint64_t now_ns);

/* ---- gate_stream.c ---- */
/* The record of a stream of the current context; null: nothing of the tenant's, or no memory. */
struct gate_stream *gate_stream_current(CUstream stream);
struct gate_context *gate_contexts(void);  /* with the lock */
uint64_t gate_generation(void);            /* grows when a stream or context goes */
/* Markers behind all that the current context's streams hold, before a capture forbids queries. */
void gate_mark_tails(void);
/* All that was submitted before `upto` has finished. With the lock. */
void gate_retire(struct gate_stream *stream, uint64_t upto);
bool gate_kernel_in_flight(const struct gate_gpu *gpu); /* with the lock */
void gate_streams_after_fork(void);

/* What a host synchronisation that begins now will have waited for: one stream of the current
 * context, or all of a context. gate_sync_end retires it after success. */
#define GATE_SYNC_STREAMS 64u /* more streams than these are left to the watcher */
struct gate_sync {
  unsigned count;
  struct gate_stream *stream[GATE_SYNC_STREAMS];
  uint64_t upto[GATE_SYNC_STREAMS];
};
void gate_sync_stream(struct gate_sync *sync, CUstream stream);
void gate_sync_context(struct gate_sync *sync, CUcontext context); /* null: the current one */
void gate_sync_end(const struct gate_sync *sync, CUresult result);
/* Unlinks records of streams that are gone and have nothing left to watch. With the lock. */
void gate_sweep(struct gate_context *context);

/* ---- gate_marker.c ---- */
/* Records a marker behind everything submitted to the stream. The stream's context is current. */
void gate_mark(struct gate_stream *stream);
/* The watcher's look at one stream, whose context is current: learns the costs of markers that have
 * finished, and retires their work and that behind them. An error of the driver's counts as finished,
 * since nothing that was queued ends any more. */
void gate_collect(struct gate_stream *stream);
static inline bool gate_has_markers(const struct gate_stream *stream) {
  return atomic_load(&stream->first) != atomic_load(&stream->last);
}

/* ---- gate_cost.c ---- */
/* Learnt cost of what the key names; 0 when it was never measured. `doubtful`: its next launch is to be
 * measured by itself, because of that, or because the latest measurement said something else. */
uint64_t gate_cost_known(uint64_t key, bool *doubtful);
void gate_cost_learn(uint64_t key, uint64_t cost_ns);

/* ---- gate_watch.c ---- */
void gate_watch_start(void); /* once per process; later calls cost a load */
void gate_watch_kick(void);  /* there is something new to watch */
/* How soon, at the earliest, it looks again at what it has just seen unfinished. */
uint64_t gate_shortest_sleep_ns(const struct gate_gpu *gpu);
/* Waits until the watcher is out of the driver call, if any, that it made before the caller took a
 * stream or context away from it, or began a capture. */
void gate_watch_settle(void);
void gate_watch_after_fork(void);

/* ---- gate_capture.c ---- */
bool gate_capturing(void);                  /* some capture is active in this process */
/* Asks the driver, so only while a capture is active. Unclear (the legacy stream beside a capture)
 * counts as captured for a launch, whose own error says so, and not for the end of a capture. */
bool gate_stream_captured(CUstream stream, bool unclear);
void gate_capture_forget(CUstream stream);
void gate_captures_after_fork(void);

#endif

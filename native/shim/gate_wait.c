/* gate_wait.c - a launch that may not go yet: outside the slot, or too much is queued already. */
#include "gate.h"

#include "futex_words.h"

#define LOOK_NS 125000000u /* a waiting thread looks at the heartbeat that often */
#define MOST_DOUBLES 10    /* of the patience with work that does not get on */
#define LONG_QUANTA 50     /* of it, at most, for work that is known to be long */
#define EXPECTED_NS 150000u /* how long a slot that should begin, or should have begun, is waited for awake */
#define POLL_NS 1000000u   /* where the kernel cannot wait on two words */
#define KEEP_NS 250000000u /* who has waited so long makes sure that the arbiter can still see that it waits */

bool gate_heartbeat_lost(uint64_t now_ns) {
  uint64_t beat_ns = GATE_LOAD(&cg_region()->grants->header.heartbeat_ns);
  return beat_ns + GATE_HEARTBEAT_NS < now_ns;
}

/* Queued work is bounded, by half a quantum or less, plus one launch, and is expected to be done by the end of
 * the slot. */
static bool fits(const struct gate_gpu *gpu, uint64_t before, uint64_t now_ns, uint64_t deadline_ns) {
  if (deadline_ns <= now_ns) return false;
  if (!gate_launches(before)) return true;
  uint64_t queued_ns = gate_cost_ns(before);
  uint64_t most_ns = GATE_LOAD(&gpu->grants->queue_ns);
  return queued_ns < (most_ns ? most_ns : gate_quantum_ns(gpu)) && queued_ns < deadline_ns - now_ns;
}

bool gate_admits(const struct gate_gpu *gpu, uint64_t before, uint64_t *now_ns) {
  uint32_t state = CGPU_GRANT_STATE(gate_grant(gpu));
  if (state == CGPU_GRANT_FREE) return true;
  if (state != CGPU_GRANT_OPEN || atomic_load_explicit(&gpu->alone, memory_order_relaxed)) return false;
  uint64_t deadline_ns = GATE_LOAD(&gpu->grants->grant_deadline_ns);
  if (deadline_ns != UINT64_MAX) *now_ns = futex_now_ns();
  return fits(gpu, before, *now_ns, deadline_ns);
}

/* The tenant's own part of the common window: the present one's end if `now` lies in it (then *open
 * is true), else the next one's beginning. Without a window the tenant has the card to itself. */
static uint64_t own_window(const struct gate_gpu *gpu, uint64_t now_ns, bool *open) {
  uint64_t window_ns = GATE_LOAD(&gpu->grants->share_window_ns);
  uint64_t begin_ns = window_ns * GATE_LOAD(&gpu->grants->share_offset_ppm) / 1000000;
  uint64_t length_ns = window_ns * GATE_LOAD(&gpu->grants->share_ppm) / 1000000;
  *open = true;
  if (!window_ns || !length_ns || length_ns >= window_ns) return UINT64_MAX;
  uint64_t into_ns = now_ns % window_ns, start_ns = now_ns - into_ns;
  if (into_ns >= begin_ns && into_ns < begin_ns + length_ns) return start_ns + begin_ns + length_ns;
  *open = false;
  return start_ns + begin_ns + (into_ns < begin_ns ? 0 : window_ns);
}

/* Whether the slot is open; *until_ns is then its end, otherwise when to look again. */
static bool slot_open(struct gate_gpu *gpu, uint64_t now_ns, uint64_t *until_ns) {
  bool alone = gate_heartbeat_lost(now_ns), open;
  atomic_store_explicit(&gpu->alone, alone, memory_order_relaxed);
  if (alone) {
    *until_ns = own_window(gpu, now_ns, &open);
    return open;
  }
  *until_ns = GATE_LOAD(&gpu->grants->grant_deadline_ns);
  if (CGPU_GRANT_STATE(gate_grant(gpu)) == CGPU_GRANT_OPEN && now_ns < *until_ns) return true;
  *until_ns = now_ns + LOOK_NS;
  return false;
}

/* Work in flight may wait for the very launch that is held back: a kernel that spins on a flag which
 * the next one sets, a collective whose other half has not been launched. So when nothing has got on
 * for a quantum, and for as long as the work is known to take, one launch goes; after twice that the
 * next, and so on in doubles, since unknown work that just takes long looks the same. */
static bool pass_stalled(struct gate_gpu *gpu, uint64_t now_ns, uint64_t *until_ns) {
  gate_lock();
  uint64_t progress_ns = atomic_load(&gpu->progress_ns), stall_ns = atomic_load(&gpu->stall_ns);
  if (stall_ns <= progress_ns) gpu->stalled = 0;
  uint64_t since_ns = gpu->stalled ? stall_ns : progress_ns;
  uint64_t quantum_ns = gate_quantum_ns(gpu), long_ns = atomic_load(&gpu->long_ns), most_ns = LONG_QUANTA * quantum_ns;
  uint64_t patience_ns = (quantum_ns + (long_ns < most_ns ? long_ns : most_ns)) << gpu->stalled;
  bool pass = now_ns >= since_ns + patience_ns;
  if (pass) {
    atomic_store(&gpu->stall_ns, now_ns);
    if (gpu->stalled < MOST_DOUBLES) gpu->stalled++;
  } else if (since_ns + patience_ns < *until_ns) {
    *until_ns = since_ns + patience_ns;
  }
  gate_unlock();
  return pass;
}

/* Whether one of the tenant's other processes has work in flight. */
static bool siblings_busy(const struct gate_gpu *gpu) {
  const struct cg_region *region = cg_region();
  if (region->state != CG_REGION_READY) return false;
  uint32_t seen = GATE_LOAD(&region->usage->header.slots_seen);
  for (uint32_t i = 0; i < seen && i < CGPU_MAX_SLOTS; i++) {
    const struct cgpu_usage_slot *slot = &region->usage->slot[i];
    if (i == region->slot || GATE_LOAD(&slot->header.state) != CGPU_SLOT_LIVE) continue;
    if (GATE_LOAD(&slot->gpu[gpu->row].gate) & CGPU_GATE_BUSY) return true;
  }
  return false;
}

/* Copies feed kernels that already run; a kernel that waits for one would otherwise never end. */
static bool feeds_running_work(const struct gate_gpu *gpu, enum cg_work work) {
  if (work != CG_WORK_MEMOP) return false;
  gate_lock();
  bool running = gate_kernel_in_flight(gpu);
  gate_unlock();
  return running || siblings_busy(gpu);
}

/* One attempt. Not through: *until_ns says when to look again without being woken. */
static bool attempt(struct gate_gpu *gpu, enum cg_work work, uint64_t amount, uint64_t *until_ns) {
  uint64_t now_ns = futex_now_ns(), end_ns;
  if (CGPU_GRANT_STATE(gate_grant(gpu)) == CGPU_GRANT_FREE || feeds_running_work(gpu, work)) {
    gate_take(gpu, amount);
    return true;
  }
  if (!slot_open(gpu, now_ns, until_ns)) return false;
  uint64_t before = atomic_load(&gpu->inflight);
  bool stalled = !fits(gpu, before, now_ns, *until_ns) && pass_stalled(gpu, now_ns, until_ns);
  if (!stalled && !fits(gpu, before, now_ns, *until_ns)) return false;
  before = gate_take(gpu, amount);
  /* Meanwhile the slot may have closed, before the arbiter could see that this process is busy, or
   * another thread may have taken the room. */
  now_ns = futex_now_ns();
  if (slot_open(gpu, now_ns, &end_ns) && (stalled || fits(gpu, before, now_ns, end_ns))) return true;
  gate_lock();
  gate_drop(gpu, amount);
  gate_unlock();
  *until_ns = now_ns + POLL_NS;
  return false;
}

static void want(struct gate_gpu *gpu, uint64_t amount, bool taken) {
  gate_lock();
  gate_batches_end(); /* what other threads have launched, or taken room for and not used */
  atomic_fetch_add(&gpu->waiters, 1);
  if (taken) gate_drop(gpu, amount); /* says all that changed if nothing else is in flight */
  if (!taken || atomic_load(&gpu->inflight) & GATE_FLAG_BUSY) gate_show(gpu, true);
  gate_unlock();
}

static void want_no_more(struct gate_gpu *gpu, uint64_t waited_ns) {
  gate_lock();
  atomic_fetch_sub(&gpu->waiters, 1);
  gate_show(gpu, false);
  const struct cg_region *region = cg_region();
  if (region->state == CG_REGION_READY) region->usage->slot[region->slot].gpu[gpu->row].waited_ns += waited_ns;
  gate_unlock();
}

/* Waits awake for a slot that is about to begin: the card would be idle while a thread wakes up. One
 * thread does, and not for long, since the announcement is a guess. False: none is expected now. */
static bool await_expected(struct gate_gpu *gpu, uint32_t seen) {
  uint64_t expected_ns = GATE_LOAD(&gpu->grants->expected_ns), now_ns = futex_now_ns();
  if (expected_ns + EXPECTED_NS <= now_ns || expected_ns > now_ns + EXPECTED_NS) return false;
  if (atomic_flag_test_and_set(&gpu->expecting)) return false;
  while (gate_grant(gpu) == seen && futex_now_ns() < expected_ns + EXPECTED_NS) gate_relax();
  atomic_flag_clear(&gpu->expecting);
  return true;
}

/* Somebody may have written over the tenant's file, or cleared it: what was said there is said again, in another
 * slot if need be. */
static void keep_waiting(struct gate_gpu *gpu) {
  cg_keep_slot();
  const struct cg_region *region = cg_region();
  if (region->state != CG_REGION_READY) return;
  if (GATE_LOAD(&region->usage->slot[region->slot].gpu[gpu->row].gate) & CGPU_GATE_WANT) return;
  gate_lock();
  gate_show(gpu, true);
  gate_unlock();
}

void gate_wait(struct gate_gpu *gpu, enum cg_work work, uint64_t amount, bool taken) {
  const _Atomic(uint32_t) *grant = (const _Atomic(uint32_t) *)&gpu->grants->grant;
  uint64_t began_ns = futex_now_ns(), kept_ns = began_ns, until_ns = 0;
  want(gpu, amount, taken);
  for (;;) {
    struct futex_word words[2] = {
        futex_word_of(grant, atomic_load(grant), false),
        futex_word_of(&gpu->progress, atomic_load(&gpu->progress), true),
    };
    if (attempt(gpu, work, amount, &until_ns)) break;
    if (atomic_load(&gpu->inflight)) gate_watch_kick();
    if (await_expected(gpu, (uint32_t)words[0].value)) continue;
    futex_wait_any(words, 2, until_ns, POLL_NS);
    uint64_t now_ns = futex_now_ns();
    if (now_ns - kept_ns < KEEP_NS) continue;
    kept_ns = now_ns;
    keep_waiting(gpu);
  }
  want_no_more(gpu, futex_now_ns() - began_ns);
}

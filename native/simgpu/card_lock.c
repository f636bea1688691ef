/* card_lock.c - the machine's lock and its undo log.
 *
 * The lock is one futex word: generation:20 | owner slot:11 | somebody sleeps:1; owner 0 is free.
 * Who has waited 5 ms asks the kernel whether the owner's byte of `locks` is still locked. If not,
 * the owner is dead: the word is taken over by compare-and-swap (the generation makes sure that it is
 * that very ownership) and what the owner had half done is undone. So a kill at any instruction
 * leaves either all or nothing of what stood between two commits.
 */
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "card_internal.h"

#define SLEEPERS 1u
#define OWNER(word) ((word) >> 1 & 0x7ffu)
#define HELD(word, owner) ((((word) & ~0xfffu) + 0x1000u) | (owner) << 1)
#define PATIENCE_NS 5000000u
#define SPINS 100

_Static_assert(SG_MAX_PROCESSES <= 0x800, "a slot must fit the lock word");

bool sg_dry;

int sg_futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns) {
  struct timespec timeout = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
  long rc = syscall(SYS_futex, word, FUTEX_WAIT, value, timeout_ns == SG_NEVER ? NULL : &timeout, NULL, 0);
  return rc == 0 ? 0 : -errno;
}

void sg_futex_wake(_Atomic uint32_t *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

void sg_set_bytes(void *field, const void *value, size_t bytes) {
  for (size_t i = 0; i < bytes / 8; i++) {
    uint64_t word;
    memcpy(&word, (const char *)value + 8 * i, 8);
    SG_SET(((uint64_t *)field)[i], word);
  }
}

void sg_commit(void) { atomic_store_explicit(&sg_state->notes, 0, memory_order_release); }

void sg_rollback(void) {
  for (uint32_t n = atomic_load_explicit(&sg_state->notes, memory_order_acquire); n > 0; n--) {
    const struct sg_note *note = &sg_state->log[n - 1];
    void *field = (char *)sg_state + (note->where >> 1);
    if (note->where & 1)
      *(volatile uint64_t *)field = note->old;
    else
      *(volatile uint32_t *)field = (uint32_t)note->old;
  }
  /* A kill before this store repeats the whole, to the same effect. */
  atomic_signal_fence(memory_order_seq_cst);
  sg_commit();
}

static void recover(void) {
  sg_rollback();
  sg_ring_every_doorbell();
  atomic_fetch_add_explicit(&sg_state->recoveries, 1, memory_order_relaxed);
}

static bool try_lock(uint32_t sleepers) {
  uint32_t word = atomic_load_explicit(&sg_state->lock, memory_order_relaxed);
  while (OWNER(word) == 0) {
    uint32_t mine = HELD(word, sg_self) | (word & SLEEPERS) | sleepers;
    if (atomic_compare_exchange_weak_explicit(&sg_state->lock, &word, mine, memory_order_acquire,
                                              memory_order_relaxed))
      return true;
  }
  return false;
}

/* Whether the lock, seen as `word` for the whole patience, has been taken over from a dead owner. */
static bool take_over(uint32_t word) {
  uint32_t owner = OWNER(word);
  if (owner == 0 || owner == sg_self || !sg_can_ask() || sg_slot_alive(owner)) return false;
  if (!atomic_compare_exchange_strong_explicit(&sg_state->lock, &word, HELD(word, sg_self) | SLEEPERS,
                                               memory_order_acquire, memory_order_relaxed))
    return false;
  recover();
  return true;
}

void sg_lock(void) {
  for (int spin = 0; spin < SPINS; spin++) {
    if (try_lock(0)) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  while (!try_lock(SLEEPERS)) {
    uint32_t word = atomic_load_explicit(&sg_state->lock, memory_order_relaxed);
    if (OWNER(word) == 0) continue;
    uint32_t marked = word | SLEEPERS;
    if (word != marked && !atomic_compare_exchange_strong(&sg_state->lock, &word, marked)) continue;
    if (sg_futex_wait(&sg_state->lock, marked, PATIENCE_NS) == -ETIMEDOUT && take_over(marked)) return;
  }
}

void sg_unlock(void) {
  sg_commit();
  uint32_t word = atomic_load_explicit(&sg_state->lock, memory_order_relaxed);
  word = atomic_exchange_explicit(&sg_state->lock, word & ~0xfffu, memory_order_release);
  if (word & SLEEPERS) sg_futex_wake(&sg_state->lock, 1);
}

bool sg_inherit_lock(void) {
  uint32_t word = atomic_load_explicit(&sg_state->lock, memory_order_relaxed);
  while (OWNER(word) == sg_self) {
    uint32_t mine = HELD(word, sg_self) | (word & SLEEPERS);
    if (atomic_compare_exchange_weak_explicit(&sg_state->lock, &word, mine, memory_order_acquire,
                                              memory_order_relaxed)) {
      recover();
      return true;
    }
  }
  return false;
}

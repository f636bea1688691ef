/* futex_words.h - waiting on words of shared memory, for the shim and the arbiter alike.
 *
 * Absolute timeouts on CLOCK_MONOTONIC in nanoseconds; FUTEX_NEVER waits without one. A word may lie
 * in a read-only mapping: waiting and waking only read it. futex_waitv came with Linux 5.16; where
 * it is missing (or a seccomp filter refuses it) futex_wait_any looks at the first word only and
 * returns after at most the fallback period, so that callers, which look again anyway, see the rest.
 */
#ifndef CGPU_FUTEX_WORDS_H
#define CGPU_FUTEX_WORDS_H

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FUTEX_NEVER UINT64_MAX
#define FUTEX_WAITV_CALL 449 /* the same number on every architecture */
#define FUTEX_WORD_U32 2u
#define FUTEX_WORD_PRIVATE 128u /* of this process: not in memory shared with others */

struct futex_word { /* struct futex_waitv of <linux/futex.h>, which older headers lack */
  uint64_t value;
  uint64_t address;
  uint32_t flags;
  uint32_t reserved;
};
_Static_assert(sizeof(struct futex_word) == 24, "the kernel's layout");

static inline struct timespec futex_time(uint64_t time_ns) {
  return (struct timespec){.tv_sec = (time_t)(time_ns / 1000000000u), .tv_nsec = (long)(time_ns % 1000000000u)};
}

static inline uint64_t futex_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline struct futex_word futex_word_of(const _Atomic(uint32_t) *word, uint32_t value, bool private) {
  return (struct futex_word){
      .value = value, .address = (uint64_t)(uintptr_t)word, .flags = FUTEX_WORD_U32 | (private ? FUTEX_WORD_PRIVATE : 0)};
}

/* Waits while the word has the value. Returns 0 when woken, or an errno: EAGAIN, ETIMEDOUT, EINTR. */
static inline int futex_wait_one(const struct futex_word *word, uint64_t until_ns) {
  struct timespec time = futex_time(until_ns);
  int operation = FUTEX_WAIT_BITSET | (word->flags & FUTEX_WORD_PRIVATE ? FUTEX_PRIVATE_FLAG : 0);
  long result = syscall(SYS_futex, (uintptr_t)word->address, operation, (uint32_t)word->value,
                        until_ns == FUTEX_NEVER ? NULL : &time, NULL, FUTEX_BITSET_MATCH_ANY);
  return result < 0 ? errno : 0;
}

/* Waits while all words have their values. Returns the index of a word that was woken, or a negative
 * errno as above. */
static inline int futex_wait_any(const struct futex_word *words, unsigned count, uint64_t until_ns,
                                 uint64_t fallback_ns) {
  static _Atomic(bool) missing;
  if (!atomic_load_explicit(&missing, memory_order_relaxed)) {
    struct timespec time = futex_time(until_ns);
    long result = syscall(FUTEX_WAITV_CALL, words, count, 0, until_ns == FUTEX_NEVER ? NULL : &time, CLOCK_MONOTONIC);
    if (result >= 0) return (int)result;
    if (errno != ENOSYS && errno != EPERM) return -errno;
    atomic_store_explicit(&missing, true, memory_order_relaxed);
  }
  uint64_t poll_ns = futex_now_ns() + fallback_ns;
  int error = futex_wait_one(&words[0], poll_ns < until_ns ? poll_ns : until_ns);
  return error == 0 ? 0 : -error;
}

static inline void futex_wake_all(const _Atomic(uint32_t) *word, bool private) {
  syscall(SYS_futex, word, FUTEX_WAKE | (private ? FUTEX_PRIVATE_FLAG : 0), INT32_MAX, NULL, NULL, 0);
}

#endif

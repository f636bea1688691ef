/* lock.h - a lock between the threads of one process: spin a little, then sleep on a futex.
 *
 * Zeroed memory is an unlocked lock, so a lock in memory that the kernel wipes at fork is free in
 * the child whatever its parent's threads were doing. Not recursive. Never held across a call of the
 * real driver.
 */
#ifndef CGPU_SHIM_LOCK_H
#define CGPU_SHIM_LOCK_H

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct cg_lock {
  _Atomic(uint32_t) word; /* CG_LOCK_* */
};

enum { CG_LOCK_FREE, CG_LOCK_HELD, CG_LOCK_WAITED /* held, and somebody may sleep */ };

static inline void cg_lock_take(struct cg_lock *lock) {
  for (int spin = 0; spin < 64; spin++) {
    uint32_t expected = CG_LOCK_FREE;
    if (atomic_compare_exchange_weak_explicit(&lock->word, &expected, CG_LOCK_HELD, memory_order_acquire,
                                              memory_order_relaxed))
      return;
    if (expected == CG_LOCK_WAITED) break;
  }
  int saved = errno;
  while (atomic_exchange_explicit(&lock->word, CG_LOCK_WAITED, memory_order_acquire) != CG_LOCK_FREE)
    syscall(SYS_futex, &lock->word, FUTEX_WAIT_PRIVATE, CG_LOCK_WAITED, NULL, NULL, 0);
  errno = saved;
}

static inline void cg_lock_give(struct cg_lock *lock) {
  if (atomic_exchange_explicit(&lock->word, CG_LOCK_FREE, memory_order_release) != CG_LOCK_WAITED) return;
  int saved = errno;
  syscall(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
  errno = saved;
}

#endif

/* arbiter.h - the arbiter of one GPU: a thread that gives turns to tenants (C API for ctypes).
 *
 * One arbiter per GPU. It sleeps in futex_waitv on its tenants' doorbells until a gate word changes
 * or the next moment of the state machine (turns.h) comes, at most 50 ms, or 200 while nobody has or
 * wants the GPU, after which every tenant finds a fresh heartbeat. All functions may be called from any thread; errors are errno values.
 */
#ifndef CGPU_ARBITER_H
#define CGPU_ARBITER_H

#include "policy.h"

#define CGPU_ARBITER_QUANTUM_MIN_NS 1000000u
#define CGPU_ARBITER_QUANTUM_MAX_NS 1000000000u

struct cgpu_arbiter;

struct cgpu_arbiter_counters {
  uint64_t tenants;    /* now */
  uint64_t turns;      /* given, extensions of a turn included */
  uint64_t overruns;   /* holders passed over because they did not drain in time */
  uint64_t wakeups;    /* of the thread */
  uint64_t charged_ns; /* to all present tenants */
  uint64_t cpu_ns;     /* used by the thread */
};

struct cgpu_arbiter_tenant_counters {
  uint64_t charged_ns, waited_ns, turns, preempted, preempting; /* since it was added */
  uint32_t want, busy, holder, share_ppm;
};

/* EOPNOTSUPP: a policy of another version; EINVAL: a value out of range; else from pthread_create. */
CGPU_ARBITER_API int cgpu_arbiter_start(const struct cgpu_policy_settings *settings, struct cgpu_arbiter **arbiter);
/* Ends the thread and frees everything. The tenants then enforce their shares by themselves. */
CGPU_ARBITER_API void cgpu_arbiter_stop(struct cgpu_arbiter *arbiter);

/* `id` is the caller's, unique on this GPU; `row` the GPU's in the tenant's tables. The descriptors
 * (usage: readable, grants: read and write) stay the caller's and may be closed afterwards.
 * EEXIST: the id is there already; EPROTO: not a region of this version; ENOSPC: no place left. */
CGPU_ARBITER_API int cgpu_arbiter_add(struct cgpu_arbiter *arbiter, uint64_t id, int usage_fd, int grants_fd,
                                      uint32_t row, const struct cgpu_policy_share *share);
/* Lets the arbiter see by the tenant's locks who of its processes is dead: the card is then not kept for what it
 * wanted. The descriptor stays the caller's. ENOENT: no such id. */
CGPU_ARBITER_API int cgpu_arbiter_watch(struct cgpu_arbiter *arbiter, uint64_t id, int locks_fd);
/* ENOENT: no such id. The tenant's leftover processes run freely from then on. */
CGPU_ARBITER_API int cgpu_arbiter_remove(struct cgpu_arbiter *arbiter, uint64_t id);
CGPU_ARBITER_API int cgpu_arbiter_update(struct cgpu_arbiter *arbiter, uint64_t id,
                                         const struct cgpu_policy_share *share);
/* Errors as those of cgpu_arbiter_start. */
CGPU_ARBITER_API int cgpu_arbiter_set_policy(struct cgpu_arbiter *arbiter,
                                             const struct cgpu_policy_settings *settings);

CGPU_ARBITER_API void cgpu_arbiter_counters(struct cgpu_arbiter *arbiter, struct cgpu_arbiter_counters *counters);
CGPU_ARBITER_API int cgpu_arbiter_tenant(struct cgpu_arbiter *arbiter, uint64_t id,
                                         struct cgpu_arbiter_tenant_counters *counters);

#endif

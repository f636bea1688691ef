/* policy.h - who gets the GPU next: start-time fair queueing by measured time.
 *
 * Pure: no clock, no system call, no memory of its own. Every tenant has a virtual time that grows
 * by the time it is charged divided by its weight; the backlogged tenant with the least virtual time
 * goes next. Time is charged after it was used, so a kernel that ran longer than its slot is a debt
 * that its tenant carries into the next rounds, and each tenant's share converges to its weight
 * whatever the length of the kernels. (Goyal, Vin, Cheng: "Start-time fair queueing", 1996.)
 *
 * Virtual times are compared by their difference, so they may wrap around.
 */
#ifndef CGPU_ARBITER_POLICY_H
#define CGPU_ARBITER_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#define CGPU_ARBITER_API __attribute__((visibility("default")))

#define CGPU_POLICY_TENANTS 32u /* places; admission stops at 20 tenants */
#define CGPU_POLICY_NOBODY (-1)
#define CGPU_WEIGHT_MAX 1024u

enum cgpu_policy_kind { /* the numbers of cGPU's policies */
  CGPU_POLICY_FAIR = 0,
  CGPU_POLICY_PREEMPTIVE = 1, /* equal shares among those that have work */
  CGPU_POLICY_WEIGHTED = 2,   /* shares by weight among those that have work */
  CGPU_POLICY_FIXED = 3,
  CGPU_POLICY_SOFT = 4,
  CGPU_POLICY_NATIVE = 5, /* the card divides its time itself; nobody waits, nobody is charged */
};

struct cgpu_policy_tenant {
  uint64_t virtual_time; /* of the time charged, per weight; in 1/1024 ns */
  uint64_t charged_ns;   /* in all */
  uint64_t turn;         /* number of the latest turn it was given; decides between equals */
  uint32_t weight;       /* 1..CGPU_WEIGHT_MAX; as given, whatever the policy makes of it */
  uint32_t compute_percent; /* 1..100, 0: none given */
  uint32_t priority;        /* 0 normal, 1 high */
  bool present;
  bool backlogged; /* has work for the card that waits or runs */
};

struct cgpu_policy {
  uint32_t kind; /* enum cgpu_policy_kind */
  uint32_t reserved;
  uint64_t quantum_ns; /* length of a turn */
  uint64_t clock;      /* virtual time of the system: the least of the backlogged, never back */
  uint64_t turns;
  struct cgpu_policy_tenant tenant[CGPU_POLICY_TENANTS];
};

/* Whether this version divides time by that policy; the others are refused, not approximated. */
CGPU_ARBITER_API bool cgpu_arbiter_policy_known(uint32_t kind);

CGPU_ARBITER_API void cgpu_arbiter_policy_init(struct cgpu_policy *policy, uint32_t kind, uint64_t quantum_ns);

/* A tenant's place, or CGPU_POLICY_NOBODY when all are taken. It starts at the present virtual time:
 * neither credit nor debt. */
CGPU_ARBITER_API int cgpu_arbiter_policy_join(struct cgpu_policy *policy, uint32_t weight, uint32_t compute_percent,
                                              uint32_t priority);
/* Another share for a present tenant; what it has used stays used. */
CGPU_ARBITER_API void cgpu_arbiter_policy_set(struct cgpu_policy *policy, int tenant, uint32_t weight,
                                              uint32_t compute_percent, uint32_t priority);
CGPU_ARBITER_API void cgpu_arbiter_policy_leave(struct cgpu_policy *policy, int tenant);

/* Work came where none was: the tenant may be behind the others by at most one quantum of its own,
 * so that a short pause costs nothing and a long one is not hoarded. Debt stays. */
CGPU_ARBITER_API void cgpu_arbiter_policy_wake(struct cgpu_policy *policy, int tenant);
CGPU_ARBITER_API void cgpu_arbiter_policy_sleep(struct cgpu_policy *policy, int tenant);

/* The tenant has used `time_ns` of the card. */
CGPU_ARBITER_API void cgpu_arbiter_policy_charge(struct cgpu_policy *policy, int tenant, uint64_t time_ns);

/* The backlogged tenant whose turn it is, or CGPU_POLICY_NOBODY. A decision only: nothing changes. */
CGPU_ARBITER_API int cgpu_arbiter_policy_next(const struct cgpu_policy *policy);
/* The same question asked for the moment when `holder` will have used `time_ns` more. */
CGPU_ARBITER_API int cgpu_arbiter_policy_next_after(const struct cgpu_policy *policy, int holder, uint64_t time_ns);
/* The tenant's turn begins. */
CGPU_ARBITER_API void cgpu_arbiter_policy_begin(struct cgpu_policy *policy, int tenant);

/* Length of the tenant's next turn. */
CGPU_ARBITER_API uint64_t cgpu_arbiter_policy_quantum(const struct cgpu_policy *policy, int tenant);
/* The tenant's share of the card if all present tenants had work, in millionths. */
CGPU_ARBITER_API uint32_t cgpu_arbiter_policy_share_ppm(const struct cgpu_policy *policy, int tenant);

#endif

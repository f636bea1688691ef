/* policy.h - who gets the GPU next: start-time fair queueing by measured time, with caps and priority.
 *
 * Pure: no clock, no system call, no memory of its own. tests/parity/policy_model.py says the same in
 * Python, and random traces through both must agree to the last bit.
 *
 * Virtual time. Every tenant has one that grows by the time it is charged divided by its weight; of the
 * tenants that compete, the one with the least virtual time goes next. Time is charged after it was
 * used, so a kernel that ran longer than its slot is a debt that its tenant carries into the next
 * rounds, and each tenant's share converges to its weight whatever the length of the kernels. (Goyal,
 * Vin, Cheng: "Start-time fair queueing", 1996.)
 *
 * Caps. A tenant that may not have more than a part of the card has a budget, which grows by that part
 * of all time that passes and shrinks by the time that it is charged. When nothing is left it is
 * throttled until a quantum's worth is there again; meanwhile it does not compete. Debt is carried here
 * too, up to 1000 s; credit is bounded by one quantum, and half a second of its part more while it has
 * work, so that it gets its part however long the others' kernels are.
 *
 * Priority. Tenants of high priority go before all others, as long as the budget that they have
 * together is not used up: it grows by prio_ratio percent of all time, and what they take from others
 * is charged to it. Its credit is bounded in the same way, and by one quantum while they take from nobody.
 * What nobody else wants is theirs as well where the policy conserves work.
 *
 * What the policies make of this (weights, caps):
 *   0 fair        weight 1, cap 1/max_inst
 *   1 preemptive  weight 1, no cap
 *   2 weighted    the weight given, no cap
 *   3 fixed       weight and cap compute_percent; a slice of 1/max_inst where none is given
 *   4 soft        weight compute_percent, or the slice; no cap
 *   5 native      the card divides its time itself; nobody waits, nobody is charged
 * compute_limit_percent is a further cap under 0 to 4. The caps of 0 and 3 are not for tenants of high
 * priority: prio_ratio is theirs. Policies 1, 2 and 4 conserve work: the card is idle only when nobody
 * that wants it is below its limit.
 *
 * Virtual times are compared by their difference, so they may wrap around.
 */
#ifndef CGPU_ARBITER_POLICY_H
#define CGPU_ARBITER_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "api.h"

#define CGPU_POLICY_TENANTS 32u /* places; admission stops at 20 tenants */
#define CGPU_POLICY_NOBODY (-1)
#define CGPU_POLICY_FOREVER UINT64_MAX
#define CGPU_WEIGHT_MAX 1024u
#define CGPU_PPM 1000000u

enum cgpu_policy_kind { /* the numbers of cGPU's policies */
  CGPU_POLICY_FAIR = 0,
  CGPU_POLICY_PREEMPTIVE = 1,
  CGPU_POLICY_WEIGHTED = 2,
  CGPU_POLICY_FIXED = 3,
  CGPU_POLICY_SOFT = 4,
  CGPU_POLICY_NATIVE = 5,
};

struct cgpu_policy_settings { /* of one GPU */
  uint32_t kind;        /* enum cgpu_policy_kind */
  uint32_t max_inst;    /* 1..CGPU_POLICY_TENANTS */
  uint32_t prio_ratio;  /* percent, 20..99 */
  uint32_t share_slots; /* 1: tenants that leave the card idle in their slots have them together (turns.h) */
  uint64_t quantum_ns;  /* length of a turn */
};

struct cgpu_policy_share { /* of one tenant, as given, whatever the policy makes of it */
  uint32_t weight;                /* 1..CGPU_WEIGHT_MAX */
  uint32_t compute_percent;       /* 1..100; 0: none given */
  uint32_t compute_limit_percent; /* 1..100; 0: none given */
  uint32_t priority;              /* 0 normal, 1 high */
};

struct cgpu_policy_tenant {
  uint64_t virtual_time; /* of the time charged, per weight; in 1/1024 ns */
  uint64_t charged_ns;   /* in all */
  uint64_t turn;         /* number of the latest turn it was given; decides between equals */
  int64_t budget;        /* of a capped tenant, in nanoseconds of the card times CGPU_PPM */
  struct cgpu_policy_share share;
  bool present;
  bool backlogged; /* has work for the card that waits or runs */
  bool throttled;  /* its budget is used up */
};

struct cgpu_policy {
  struct cgpu_policy_settings settings;
  uint64_t clock[2]; /* virtual time by priority: the least of those that compete, never back; nobody
                        is behind it by more than a quantum of its own */
  uint64_t turns;
  int64_t priority_budget; /* as a tenant's */
  bool priority_throttled;
  struct cgpu_policy_tenant tenant[CGPU_POLICY_TENANTS];
};

/* Whether these can be divided by; kinds of a later version are refused, not approximated. */
CGPU_ARBITER_API bool cgpu_arbiter_policy_known(uint32_t kind);

CGPU_ARBITER_API void cgpu_arbiter_policy_init(struct cgpu_policy *policy,
                                               const struct cgpu_policy_settings *settings);
/* Other settings. What a tenant is ahead of the others or behind them, it stays, in time of the card;
 * debts of budgets go on while there is a cap. */
CGPU_ARBITER_API void cgpu_arbiter_policy_set(struct cgpu_policy *policy,
                                              const struct cgpu_policy_settings *settings);

/* A tenant's place, or CGPU_POLICY_NOBODY when all are taken. It starts at the present virtual time
 * with a full budget: neither credit nor debt. */
CGPU_ARBITER_API int cgpu_arbiter_policy_join(struct cgpu_policy *policy, const struct cgpu_policy_share *share);
/* Another share for a present tenant; what it has used stays used, as there. */
CGPU_ARBITER_API void cgpu_arbiter_policy_share(struct cgpu_policy *policy, int tenant,
                                                const struct cgpu_policy_share *share);
CGPU_ARBITER_API void cgpu_arbiter_policy_leave(struct cgpu_policy *policy, int tenant);

/* Work came where none was. A tenant without work is behind those that compete by at most one quantum
 * of its own, so that a short pause costs nothing and a long one is not hoarded. Debt stays. */
CGPU_ARBITER_API void cgpu_arbiter_policy_wake(struct cgpu_policy *policy, int tenant);
CGPU_ARBITER_API void cgpu_arbiter_policy_sleep(struct cgpu_policy *policy, int tenant);

/* The tenant has used `time_ns` of the card, at most 1000 s. What is charged for a stretch of time is
 * charged before that stretch passes, so that no credit is cut off which is used up at the same time. */
CGPU_ARBITER_API void cgpu_arbiter_policy_charge(struct cgpu_policy *policy, int tenant, uint64_t time_ns);
/* `time_ns` has passed, at most 1000 s, whoever had the card: budgets grow, and who has none left is
 * throttled until a quantum's worth is there. */
CGPU_ARBITER_API void cgpu_arbiter_policy_pass(struct cgpu_policy *policy, uint64_t time_ns);

/* Whether the tenant has work, and no budget keeps it from the card. */
CGPU_ARBITER_API bool cgpu_arbiter_policy_eligible(const struct cgpu_policy *policy, int tenant);
/* The tenant whose turn it is, or CGPU_POLICY_NOBODY. A decision only: nothing changes. */
CGPU_ARBITER_API int cgpu_arbiter_policy_next(const struct cgpu_policy *policy);
/* The same question asked for the moment when `holder` will have used `time_ns` more. */
CGPU_ARBITER_API int cgpu_arbiter_policy_next_after(const struct cgpu_policy *policy, int holder, uint64_t time_ns);
/* Whether `rival` goes before `holder` at once, in the middle of a turn. */
CGPU_ARBITER_API bool cgpu_arbiter_policy_preempts(const struct cgpu_policy *policy, int rival, int holder);
/* Whether `tenant` may have the holder's turn together with it: it is eligible, of the same priority, and
 * at most a quantum of its own ahead of the holder, so that shares keep to the weights. */
CGPU_ARBITER_API bool cgpu_arbiter_policy_joins(const struct cgpu_policy *policy, int tenant, int holder);
/* The tenant's turn begins. */
CGPU_ARBITER_API void cgpu_arbiter_policy_begin(struct cgpu_policy *policy, int tenant);

/* How long the tenant may have the card from now on until a budget of its is used up; CGPU_POLICY_FOREVER
 * when none bounds it. */
CGPU_ARBITER_API uint64_t cgpu_arbiter_policy_allowance(const struct cgpu_policy *policy, int tenant);
/* How long until a tenant that has work and is throttled competes again, if nobody is charged
 * meanwhile; CGPU_POLICY_FOREVER when there is none. */
CGPU_ARBITER_API uint64_t cgpu_arbiter_policy_pause(const struct cgpu_policy *policy);

/* The tenant's share of the card if all present tenants had work, in millionths. */
CGPU_ARBITER_API uint32_t cgpu_arbiter_policy_share_ppm(const struct cgpu_policy *policy, int tenant);

#endif

/* turns.h - the turns of one GPU: a state machine over policy.h, as pure as it is.
 *
 *             somebody wants              others want, quantum over
 *   nobody ------------------> open(i) -----------------------------> draining(i)
 *     ^                          |  i has nothing in flight               |  i drained, or two
 *     +--------------------------+--------------------------------------- +  quanta have passed
 *
 * The holder pays for the time from its grant until its last work has finished. A holder that still
 * runs two quanta after its turn ended is passed over all the same, since what it waits for may be a
 * neighbour's turn on another card; from then on it and the new holder have the card in equal parts,
 * as the card itself divides it, and each pays its part.
 *
 * Debt alone could then keep it waiting for ever: it runs because it waits for a launch that it may
 * not make, and the longer it runs the more it owes. So a tenant that wants the card while work of
 * its own is still on it gets a turn after two rounds whatever it owes, the next one after four, and
 * so on in doubles until it has drained. What it owes it still pays: only the order changes.
 *
 * Use: advance to the present, observe what the tenants' gate words say, decide, and publish each
 * tenant's grant. All times are nanoseconds of one monotonic clock.
 */
#ifndef CGPU_ARBITER_TURNS_H
#define CGPU_ARBITER_TURNS_H

#include "policy.h"

#define CGPU_TURNS_NEVER UINT64_MAX

enum cgpu_turns_phase { CGPU_TURNS_IDLE, CGPU_TURNS_OPEN, CGPU_TURNS_DRAINING };

struct cgpu_turns_tenant {
  bool want;         /* a thread of it waits for a grant */
  bool busy;         /* launched work of it may be unfinished */
  uint16_t rescues;  /* turns that it got out of order since it last drained */
  uint64_t stuck_ns; /* since when it wants the card while running on it without a turn; 0: it does not */
};

struct cgpu_turns {
  struct cgpu_policy policy;
  uint32_t phase; /* enum cgpu_turns_phase */
  int32_t holder; /* or CGPU_POLICY_NOBODY */
  uint64_t now_ns;      /* charged up to here */
  uint64_t start_ns;    /* of the holder's turn */
  uint64_t deadline_ns; /* its end; CGPU_TURNS_NEVER while nobody else wants the card */
  uint64_t drain_ns;    /* when a draining holder is passed over */
  uint64_t overruns;    /* holders passed over so far */
  struct cgpu_turns_tenant tenant[CGPU_POLICY_TENANTS];
};

struct cgpu_turns_grant {
  uint32_t state;       /* CGPU_GRANT_* of region.h */
  uint32_t contenders;  /* tenants that want or hold the card */
  uint64_t deadline_ns; /* of an open grant */
};

CGPU_ARBITER_API void cgpu_arbiter_turns_init(struct cgpu_turns *turns, uint32_t kind, uint64_t quantum_ns,
                                              uint64_t now_ns);
/* Another policy or quantum; virtual times and turns go on. */
CGPU_ARBITER_API void cgpu_arbiter_turns_policy(struct cgpu_turns *turns, uint32_t kind, uint64_t quantum_ns);
CGPU_ARBITER_API void cgpu_arbiter_turns_leave(struct cgpu_turns *turns, int tenant);

/* Charges the time since the last call to those that had the card. */
CGPU_ARBITER_API void cgpu_arbiter_turns_advance(struct cgpu_turns *turns, uint64_t now_ns);
/* Lets time pass that nobody is charged for, since nobody was there to take the card from its holder. */
CGPU_ARBITER_API void cgpu_arbiter_turns_skip(struct cgpu_turns *turns, uint64_t now_ns);
CGPU_ARBITER_API void cgpu_arbiter_turns_observe(struct cgpu_turns *turns, int tenant, bool want, bool busy);
/* Moves the machine on. Returns when it must be called again if nothing is observed before. */
CGPU_ARBITER_API uint64_t cgpu_arbiter_turns_decide(struct cgpu_turns *turns);
CGPU_ARBITER_API struct cgpu_turns_grant cgpu_arbiter_turns_grant(const struct cgpu_turns *turns, int tenant);

#endif

/* turns.h - the turns of one GPU: a state machine over policy.h, as pure as it is.
 *
 *             somebody may have it        others want, quantum over;
 *                                         its budget is used up
 *   nobody ------------------> open(i) -----------------------------> draining(i)
 *     ^                          |  i has nothing in flight               |  i drained, or two
 *     +--------------------------+--------------------------------------- +  quanta or more have passed
 *
 * The holder pays for the time from its grant until its last work has finished. A holder that still
 * runs two quanta after its turn ended is passed over all the same, since what it waits for may be a
 * neighbour's turn on another card; from then on it and the new holder have the card in equal parts,
 * as the card itself divides it, and each pays its part. Only where it runs what is known to take
 * longer, and waits for no other card, is that time added, up to fifty quanta.
 *
 * Debt alone could then keep it waiting for ever: it runs because it waits for a launch that it may
 * not make, and the longer it runs the more it owes. So a tenant that wants the card while work of
 * its own is still on it gets a turn after two rounds whatever it owes, the next one after four, and
 * so on in doubles until it has drained. What it owes it still pays: only the order changes. The
 * same holds for one whose budget is used up, even when it has no rival.
 *
 * A holder that will be first again when its quantum ends goes on without a pause; that is decided a
 * little early, and taken back when somebody wakes up meanwhile who comes first; and a quantum that has
 * just begun then ends a little sooner, by what handing over takes. So whoever wakes up and owes nothing
 * waits at most one quantum, plus what the holder has on the card then. Tenants of high priority end
 * the turns of others at once.
 *
 * Shared slots, where the settings say so. A tenant that waits for each of its kernels leaves the card
 * idle in between. Those that are known to do that have a turn together, as many as fill the card, and
 * each is charged its part of the time.
 *
 * A tenant that may launch does so without a word. So what was last seen of a holder means nothing
 * once its turn is to end: it is closed first, and the machine goes on when it has been observed again.
 *
 * Use: advance to the present, observe what the tenants' gate words say, decide, publish each tenant's
 * grant, and, where that closed one, observe its tenant and decide again. All times are nanoseconds of
 * one monotonic clock.
 */
#ifndef CGPU_ARBITER_TURNS_H
#define CGPU_ARBITER_TURNS_H

#include "policy.h"

#define CGPU_TURNS_NEVER UINT64_MAX

enum cgpu_turns_phase { CGPU_TURNS_IDLE, CGPU_TURNS_OPEN, CGPU_TURNS_DRAINING };

struct cgpu_turns_sight { /* what a tenant's processes show */
  bool want;        /* a thread of it waits for a grant */
  bool busy;        /* launched work of it may be unfinished */
  bool elsewhere;   /* a thread of it waits for a grant of another GPU */
  uint64_t long_ns; /* what a launch in flight may take beyond a quantum; 0: nothing */
  uint64_t worked_ns; /* learnt cost of all work that has finished so far */
};

struct cgpu_turns_tenant {
  struct cgpu_turns_sight sight;
  bool guest;          /* has the holder's turn together with it */
  bool measured;       /* `work_ppm` is known */
  bool measuring;      /* its turn has begun and is not drained yet */
  uint32_t work_ppm;   /* part of its turns in which it has work on the card */
  uint64_t opened_ns;  /* beginning of the turn that is measured, and what it had worked by then */
  uint64_t opened_worked_ns;
  uint16_t rescues;    /* turns that it got out of order since it last drained */
  uint64_t stuck_ns;   /* since when it wants the card while running on it without a turn; 0: it does not */
  uint64_t waited_ns;  /* time in which it wanted the card and did not hold it */
  uint64_t turns;      /* that it got, extensions of a turn included */
  uint64_t preempted;  /* turns that ended by time while it had work */
  uint64_t preempting; /* turns of others that ended so and were followed by its own */
};

struct cgpu_turns {
  struct cgpu_policy policy;
  uint32_t phase;     /* enum cgpu_turns_phase */
  int32_t holder;     /* or CGPU_POLICY_NOBODY */
  int32_t ousted;     /* whose turn has ended by time, until the next one begins; or CGPU_POLICY_NOBODY */
  uint64_t now_ns;    /* charged up to here */
  uint64_t start_ns;  /* of the holder's present quantum; in the future where that was decided early */
  uint64_t end_ns;    /* of that quantum; CGPU_TURNS_NEVER while nobody else may have the card */
  uint64_t budget_ns; /* when the holder's budget will be used up; CGPU_TURNS_NEVER: nothing bounds it */
  uint64_t woken_ns;  /* when somebody else last began to want the card */
  uint64_t closed_ns; /* since when a draining holder drains */
  uint32_t unseen;    /* of those whose turn that was, which have not been observed since: a bit each */
  uint64_t rescue_ns; /* until then the holder may launch whatever its budget */
  uint64_t overruns;  /* holders passed over so far */
  struct cgpu_turns_tenant tenant[CGPU_POLICY_TENANTS];
};

struct cgpu_turns_grant {
  uint32_t state;       /* CGPU_GRANT_* of region.h */
  uint32_t contenders;  /* tenants that want or hold the card; at least 2 for one whose idleness counts */
  uint64_t deadline_ns; /* of an open grant */
};

CGPU_ARBITER_API void cgpu_arbiter_turns_init(struct cgpu_turns *turns, const struct cgpu_policy_settings *settings,
                                              uint64_t now_ns);
/* Other settings; virtual times and turns go on. */
CGPU_ARBITER_API void cgpu_arbiter_turns_set(struct cgpu_turns *turns, const struct cgpu_policy_settings *settings);
/* A tenant's place, or CGPU_POLICY_NOBODY when all are taken. */
CGPU_ARBITER_API int cgpu_arbiter_turns_join(struct cgpu_turns *turns, const struct cgpu_policy_share *share);
CGPU_ARBITER_API void cgpu_arbiter_turns_share(struct cgpu_turns *turns, int tenant,
                                               const struct cgpu_policy_share *share);
CGPU_ARBITER_API void cgpu_arbiter_turns_leave(struct cgpu_turns *turns, int tenant);

/* Whether the present turn is the tenant's, alone or with others. */
CGPU_ARBITER_API bool cgpu_arbiter_turns_holds(const struct cgpu_turns *turns, int tenant);
/* Charges the time since the last call to those that had the card. */
CGPU_ARBITER_API void cgpu_arbiter_turns_advance(struct cgpu_turns *turns, uint64_t now_ns);
/* Lets time pass that nobody is charged for, since nobody was there to take the card from its holder. */
CGPU_ARBITER_API void cgpu_arbiter_turns_skip(struct cgpu_turns *turns, uint64_t now_ns);
CGPU_ARBITER_API void cgpu_arbiter_turns_observe(struct cgpu_turns *turns, int tenant,
                                                 const struct cgpu_turns_sight *sight);
/* Moves the machine on. Returns when it must be called again if nothing is observed before. */
CGPU_ARBITER_API uint64_t cgpu_arbiter_turns_decide(struct cgpu_turns *turns);
/* Who will have the card when the present turn ends, as things stand now, and when that is. CGPU_POLICY_NOBODY:
 * not known. */
CGPU_ARBITER_API int cgpu_arbiter_turns_expected(const struct cgpu_turns *turns, uint64_t *at_ns);
CGPU_ARBITER_API struct cgpu_turns_grant cgpu_arbiter_turns_grant(const struct cgpu_turns *turns, int tenant);

#endif

/* turns.c - see turns.h. */
#include "turns.h"

#include "region.h"

/* Quanta that a holder may go on after the end of its turn. */
#define DRAIN_QUANTA 2
/* Rounds (a quantum for each contender) before a tenant is taken for stuck, and how often they double. */
#define STUCK_ROUNDS 2
#define MOST_DOUBLES 6

void cgpu_arbiter_turns_init(struct cgpu_turns *turns, uint32_t kind, uint64_t quantum_ns, uint64_t now_ns) {
  *turns = (struct cgpu_turns){.holder = CGPU_POLICY_NOBODY, .now_ns = now_ns};
  cgpu_arbiter_policy_init(&turns->policy, kind, quantum_ns);
}

static void end_turn(struct cgpu_turns *turns) {
  turns->holder = CGPU_POLICY_NOBODY;
  turns->phase = CGPU_TURNS_IDLE;
}

void cgpu_arbiter_turns_policy(struct cgpu_turns *turns, uint32_t kind, uint64_t quantum_ns) {
  if (kind == CGPU_POLICY_NATIVE) end_turn(turns);
  turns->policy.kind = kind;
  turns->policy.quantum_ns = quantum_ns;
}

void cgpu_arbiter_turns_leave(struct cgpu_turns *turns, int tenant) {
  if (turns->holder == tenant) end_turn(turns);
  turns->tenant[tenant] = (struct cgpu_turns_tenant){0};
  cgpu_arbiter_policy_leave(&turns->policy, tenant);
}

static bool active(const struct cgpu_turns *turns, int tenant) {
  return turns->tenant[tenant].want || turns->tenant[tenant].busy;
}

/* Who has the card now: the holder while it has work, woken but not yet launching included, and
 * whoever was passed over and still runs. */
static bool occupies(const struct cgpu_turns *turns, int tenant) {
  return tenant == turns->holder ? active(turns, tenant) : turns->tenant[tenant].busy;
}

void cgpu_arbiter_turns_advance(struct cgpu_turns *turns, uint64_t now_ns) {
  if (now_ns <= turns->now_ns) return;
  uint64_t time_ns = now_ns - turns->now_ns;
  turns->now_ns = now_ns;
  if (turns->policy.kind == CGPU_POLICY_NATIVE) return;
  unsigned occupants = 0;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) occupants += occupies(turns, i);
  for (int i = 0; occupants && i < (int)CGPU_POLICY_TENANTS; i++) {
    if (occupies(turns, i)) cgpu_arbiter_policy_charge(&turns->policy, i, time_ns / occupants);
  }
}

void cgpu_arbiter_turns_skip(struct cgpu_turns *turns, uint64_t now_ns) {
  if (now_ns > turns->now_ns) turns->now_ns = now_ns;
}

/* After a tenant's words or its part in the turn have changed. It competes while it waits for the
 * card, and while it holds it with work in flight. */
static void update(struct cgpu_turns *turns, int index) {
  struct cgpu_turns_tenant *tenant = &turns->tenant[index];
  bool backlogged = tenant->want || (turns->holder == index && tenant->busy);
  bool stuck = tenant->want && tenant->busy && turns->holder != index;
  if (!tenant->busy) tenant->rescues = 0;
  if (!stuck) tenant->stuck_ns = 0;
  if (stuck && !tenant->stuck_ns) tenant->stuck_ns = turns->now_ns;
  if (backlogged && !turns->policy.tenant[index].backlogged) cgpu_arbiter_policy_wake(&turns->policy, index);
  if (!backlogged && turns->policy.tenant[index].backlogged) cgpu_arbiter_policy_sleep(&turns->policy, index);
}

void cgpu_arbiter_turns_observe(struct cgpu_turns *turns, int tenant, bool want, bool busy) {
  turns->tenant[tenant].want = want;
  turns->tenant[tenant].busy = busy;
  update(turns, tenant);
}

static uint32_t contenders(const struct cgpu_turns *turns) {
  uint32_t count = 0;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) count += i == turns->holder || turns->tenant[i].want;
  return count;
}

/* The tenant that has been stuck for longest beyond its patience, or CGPU_POLICY_NOBODY. */
static int to_rescue(const struct cgpu_turns *turns) {
  int longest = CGPU_POLICY_NOBODY;
  uint64_t rounds_ns = STUCK_ROUNDS * turns->policy.quantum_ns * contenders(turns);
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_turns_tenant *tenant = &turns->tenant[i];
    if (!tenant->stuck_ns || turns->now_ns - tenant->stuck_ns < rounds_ns << tenant->rescues) continue;
    if (longest == CGPU_POLICY_NOBODY || tenant->stuck_ns < turns->tenant[longest].stuck_ns) longest = i;
  }
  return longest;
}

static bool others_want(const struct cgpu_turns *turns) {
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (i != turns->holder && turns->tenant[i].want) return true;
  }
  return false;
}

/* Gives the turn away; the old holder's backlog is then its waiting threads alone. */
static void hand_over(struct cgpu_turns *turns) {
  int old = turns->holder;
  end_turn(turns);
  update(turns, old);
}

static void begin_turn(struct cgpu_turns *turns, int tenant) {
  turns->phase = CGPU_TURNS_OPEN;
  turns->holder = tenant;
  turns->start_ns = turns->now_ns;
  turns->deadline_ns = CGPU_TURNS_NEVER;
  cgpu_arbiter_policy_begin(&turns->policy, tenant);
  update(turns, tenant);
}

/* A holder that will still be first when its turn ends goes on without a pause. That is decided a
 * little before the end, so that its queue on the card does not run empty over the question. */
static uint64_t question_ns(const struct cgpu_turns *turns) {
  return turns->deadline_ns - cgpu_arbiter_policy_quantum(&turns->policy, turns->holder) / 4;
}

/* The answer as things stand now; who wakes up later may change it. */
static bool goes_on(const struct cgpu_turns *turns) {
  uint64_t rest_ns = turns->deadline_ns > turns->now_ns ? turns->deadline_ns - turns->now_ns : 0;
  if (to_rescue(turns) != CGPU_POLICY_NOBODY) return false;
  return cgpu_arbiter_policy_next_after(&turns->policy, turns->holder, rest_ns) == turns->holder;
}

/* One look at an open turn. True: the machine has moved and must be looked at again. */
static bool look_at_open(struct cgpu_turns *turns) {
  uint64_t quantum_ns = cgpu_arbiter_policy_quantum(&turns->policy, turns->holder);
  if (!others_want(turns)) {
    turns->deadline_ns = CGPU_TURNS_NEVER;
    return false;
  }
  if (!active(turns, turns->holder)) {
    hand_over(turns);
    return true;
  }
  if (turns->deadline_ns == CGPU_TURNS_NEVER) {
    turns->deadline_ns = turns->start_ns + quantum_ns;
    if (turns->deadline_ns < turns->now_ns) turns->deadline_ns = turns->now_ns;
  }
  if (turns->now_ns >= question_ns(turns) && goes_on(turns)) {
    turns->start_ns = turns->deadline_ns;
    turns->deadline_ns += quantum_ns;
    cgpu_arbiter_policy_begin(&turns->policy, turns->holder);
    return turns->now_ns >= question_ns(turns);
  }
  if (turns->now_ns < turns->deadline_ns) return false;
  turns->phase = CGPU_TURNS_DRAINING;
  turns->drain_ns = turns->now_ns + DRAIN_QUANTA * quantum_ns;
  return true;
}

static bool look_at_draining(struct cgpu_turns *turns) {
  if (!others_want(turns)) {
    turns->phase = CGPU_TURNS_OPEN;
    turns->start_ns = turns->now_ns;
    turns->deadline_ns = CGPU_TURNS_NEVER;
    return false;
  }
  bool overrun = turns->tenant[turns->holder].busy;
  if (overrun && turns->now_ns < turns->drain_ns) return false;
  turns->overruns += overrun;
  hand_over(turns);
  return true;
}

static bool look_at_idle(struct cgpu_turns *turns) {
  int next = to_rescue(turns);
  if (next == CGPU_POLICY_NOBODY) {
    next = cgpu_arbiter_policy_next(&turns->policy);
  } else if (turns->tenant[next].rescues < MOST_DOUBLES) {
    turns->tenant[next].rescues++;
  }
  if (next == CGPU_POLICY_NOBODY) return false;
  begin_turn(turns, next);
  return true;
}

uint64_t cgpu_arbiter_turns_decide(struct cgpu_turns *turns) {
  if (turns->policy.kind == CGPU_POLICY_NATIVE) return CGPU_TURNS_NEVER;
  bool moved = true;
  while (moved) {
    switch (turns->phase) {
      case CGPU_TURNS_OPEN: moved = look_at_open(turns); break;
      case CGPU_TURNS_DRAINING: moved = look_at_draining(turns); break;
      default: moved = look_at_idle(turns); break;
    }
  }
  if (turns->phase == CGPU_TURNS_DRAINING) return turns->drain_ns;
  if (turns->phase == CGPU_TURNS_IDLE || turns->deadline_ns == CGPU_TURNS_NEVER) return CGPU_TURNS_NEVER;
  return turns->now_ns < question_ns(turns) && goes_on(turns) ? question_ns(turns) : turns->deadline_ns;
}

struct cgpu_turns_grant cgpu_arbiter_turns_grant(const struct cgpu_turns *turns, int tenant) {
  struct cgpu_turns_grant grant = {.state = CGPU_GRANT_CLOSED};
  if (turns->policy.kind == CGPU_POLICY_NATIVE) {
    grant.state = CGPU_GRANT_FREE;
    return grant;
  }
  grant.contenders = contenders(turns);
  if (turns->phase == CGPU_TURNS_OPEN && turns->holder == tenant) {
    grant.state = CGPU_GRANT_OPEN;
    grant.deadline_ns = turns->deadline_ns;
  }
  return grant;
}

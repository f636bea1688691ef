/* turns.c - see turns.h. */
#include "turns.h"

#include "region.h"

/* Quanta that a holder may go on after the end of its turn. */
#define DRAIN_QUANTA 2
/* Rounds (a quantum for each contender) before a tenant is taken for stuck, and how often they double. */
#define STUCK_ROUNDS 2
#define MOST_DOUBLES 6
/* When a budget ends or is full again is foretold for one tenant on the card. While two share it, both
 * come later, and each new look would bring them only half as much nearer: no look is sooner than this. */
#define LOOK_NS 50000

static uint64_t quantum_ns(const struct cgpu_turns *turns) { return turns->policy.settings.quantum_ns; }

static bool native(const struct cgpu_turns *turns) { return turns->policy.settings.kind == CGPU_POLICY_NATIVE; }

static uint64_t later(uint64_t time_ns, uint64_t length_ns) {
  return length_ns > CGPU_TURNS_NEVER - time_ns ? CGPU_TURNS_NEVER : time_ns + length_ns;
}

static uint64_t least(uint64_t left, uint64_t right) { return left < right ? left : right; }

void cgpu_arbiter_turns_init(struct cgpu_turns *turns, const struct cgpu_policy_settings *settings, uint64_t now_ns) {
  *turns = (struct cgpu_turns){.holder = CGPU_POLICY_NOBODY, .ousted = CGPU_POLICY_NOBODY, .now_ns = now_ns};
  cgpu_arbiter_policy_init(&turns->policy, settings);
}

static void end_turn(struct cgpu_turns *turns) {
  turns->holder = CGPU_POLICY_NOBODY;
  turns->phase = CGPU_TURNS_IDLE;
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

/* Gives the turn away; the old holder's backlog is then its waiting threads alone. */
static void hand_over(struct cgpu_turns *turns) {
  int old = turns->holder;
  if (turns->ousted == old) turns->tenant[old].preempted++;
  end_turn(turns);
  update(turns, old);
}

static void measure_budget(struct cgpu_turns *turns) {
  if (turns->holder == CGPU_POLICY_NOBODY) return;
  uint64_t allowance_ns = cgpu_arbiter_policy_allowance(&turns->policy, turns->holder);
  if (allowance_ns && allowance_ns < LOOK_NS) allowance_ns = LOOK_NS;
  turns->budget_ns = later(turns->now_ns, allowance_ns);
  if (turns->budget_ns < turns->rescue_ns) turns->budget_ns = turns->rescue_ns;
}

void cgpu_arbiter_turns_set(struct cgpu_turns *turns, const struct cgpu_policy_settings *settings) {
  if (settings->kind == CGPU_POLICY_NATIVE) {
    if (turns->holder != CGPU_POLICY_NOBODY) hand_over(turns);
    turns->ousted = CGPU_POLICY_NOBODY;
  }
  cgpu_arbiter_policy_set(&turns->policy, settings);
  measure_budget(turns);
}

int cgpu_arbiter_turns_join(struct cgpu_turns *turns, const struct cgpu_policy_share *share) {
  int tenant = cgpu_arbiter_policy_join(&turns->policy, share);
  if (tenant != CGPU_POLICY_NOBODY) turns->tenant[tenant] = (struct cgpu_turns_tenant){0};
  return tenant;
}

void cgpu_arbiter_turns_share(struct cgpu_turns *turns, int tenant, const struct cgpu_policy_share *share) {
  cgpu_arbiter_policy_share(&turns->policy, tenant, share);
  measure_budget(turns);
}

void cgpu_arbiter_turns_leave(struct cgpu_turns *turns, int tenant) {
  if (turns->holder == tenant) end_turn(turns);
  if (turns->ousted == tenant) turns->ousted = CGPU_POLICY_NOBODY;
  turns->tenant[tenant] = (struct cgpu_turns_tenant){0};
  cgpu_arbiter_policy_leave(&turns->policy, tenant);
}

static bool active(const struct cgpu_turns *turns, int tenant) {
  return turns->tenant[tenant].want || turns->tenant[tenant].busy;
}

static bool may_launch(const struct cgpu_turns *turns, int tenant) {
  return turns->phase == CGPU_TURNS_OPEN && turns->holder == tenant;
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
  if (native(turns)) return;
  unsigned occupants = 0;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    occupants += occupies(turns, i);
    if (turns->tenant[i].want && i != turns->holder) turns->tenant[i].waited_ns += time_ns;
  }
  for (int i = 0; occupants && i < (int)CGPU_POLICY_TENANTS; i++) {
    if (occupies(turns, i)) cgpu_arbiter_policy_charge(&turns->policy, i, time_ns / occupants);
  }
  cgpu_arbiter_policy_pass(&turns->policy, time_ns);
}

void cgpu_arbiter_turns_skip(struct cgpu_turns *turns, uint64_t now_ns) {
  if (now_ns <= turns->now_ns) return;
  turns->now_ns = now_ns;
  measure_budget(turns);
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

/* When the tenant's patience ends; CGPU_TURNS_NEVER: it is not stuck. */
static uint64_t rescue_due_ns(const struct cgpu_turns *turns, int index) {
  const struct cgpu_turns_tenant *tenant = &turns->tenant[index];
  if (!tenant->stuck_ns) return CGPU_TURNS_NEVER;
  uint64_t rounds_ns = STUCK_ROUNDS * quantum_ns(turns) * contenders(turns);
  return tenant->stuck_ns + (rounds_ns << tenant->rescues);
}

/* The tenant that has been stuck for longest beyond its patience, or CGPU_POLICY_NOBODY. */
static int to_rescue(const struct cgpu_turns *turns) {
  int longest = CGPU_POLICY_NOBODY;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (turns->now_ns < rescue_due_ns(turns, i)) continue;
    if (longest == CGPU_POLICY_NOBODY || turns->tenant[i].stuck_ns < turns->tenant[longest].stuck_ns) longest = i;
  }
  return longest;
}

static uint64_t next_rescue_ns(const struct cgpu_turns *turns) {
  uint64_t next_ns = CGPU_TURNS_NEVER;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    uint64_t due_ns = rescue_due_ns(turns, i);
    if (due_ns > turns->now_ns) next_ns = least(next_ns, due_ns);
  }
  return next_ns;
}

/* Whether the holder is in somebody's way. */
static bool rivalled(const struct cgpu_turns *turns) {
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (i != turns->holder && turns->tenant[i].want && cgpu_arbiter_policy_eligible(&turns->policy, i)) return true;
  }
  return to_rescue(turns) != CGPU_POLICY_NOBODY;
}

static bool preempted(const struct cgpu_turns *turns) {
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (turns->tenant[i].want && cgpu_arbiter_policy_preempts(&turns->policy, i, turns->holder)) return true;
  }
  return false;
}

static void count_turn(struct cgpu_turns *turns, int tenant) {
  cgpu_arbiter_policy_begin(&turns->policy, tenant);
  turns->tenant[tenant].turns++;
}

static void open_turn(struct cgpu_turns *turns) {
  turns->phase = CGPU_TURNS_OPEN;
  turns->start_ns = turns->now_ns;
  turns->end_ns = CGPU_TURNS_NEVER;
  measure_budget(turns);
}

/* A rescued tenant may launch for a quantum, whatever its budget. */
static void begin_turn(struct cgpu_turns *turns, int tenant, bool rescue) {
  turns->holder = tenant;
  turns->rescue_ns = rescue ? turns->now_ns + quantum_ns(turns) : 0;
  count_turn(turns, tenant);
  if (turns->ousted != CGPU_POLICY_NOBODY && turns->ousted != tenant) turns->tenant[tenant].preempting++;
  turns->ousted = CGPU_POLICY_NOBODY;
  update(turns, tenant);
  open_turn(turns);
}

/* A holder that will still be first when its quantum ends goes on without a pause. That is decided a
 * little before the end, so that its queue on the card does not run empty over the question. */
static uint64_t question_ns(const struct cgpu_turns *turns) { return turns->end_ns - quantum_ns(turns) / 4; }

/* Whether the holder will be first at that time, as things stand now; who wakes up later may change it. */
static bool first_at(const struct cgpu_turns *turns, uint64_t time_ns) {
  uint64_t rest_ns = time_ns > turns->now_ns ? time_ns - turns->now_ns : 0;
  if (to_rescue(turns) != CGPU_POLICY_NOBODY) return false;
  return cgpu_arbiter_policy_next_after(&turns->policy, turns->holder, rest_ns) == turns->holder;
}

static bool early(const struct cgpu_turns *turns) { return turns->start_ns > turns->now_ns; }

static void bound_quantum(struct cgpu_turns *turns) {
  if (!rivalled(turns)) {
    turns->end_ns = CGPU_TURNS_NEVER;
    if (early(turns)) turns->start_ns = turns->now_ns;
    return;
  }
  if (turns->end_ns == CGPU_TURNS_NEVER) turns->end_ns = turns->start_ns + quantum_ns(turns);
  if (early(turns) && !first_at(turns, turns->start_ns)) {
    turns->end_ns = turns->start_ns;
    turns->start_ns -= quantum_ns(turns);
    turns->tenant[turns->holder].turns--;
  }
  if (turns->end_ns < turns->now_ns || preempted(turns)) turns->end_ns = turns->now_ns;
}

static void drain(struct cgpu_turns *turns) {
  bool by_others = turns->now_ns >= turns->end_ns;
  turns->phase = CGPU_TURNS_DRAINING;
  turns->drain_ns = turns->now_ns + DRAIN_QUANTA * quantum_ns(turns);
  if (by_others) turns->ousted = turns->holder;
}

/* One look at an open turn. True: the machine has moved and must be looked at again. */
static bool look_at_open(struct cgpu_turns *turns) {
  /* Whether a tenant of high priority takes from others changes with them. */
  bool high = turns->policy.tenant[turns->holder].share.priority;
  if (turns->now_ns >= turns->budget_ns || high) measure_budget(turns);
  bound_quantum(turns);
  bool bounded = turns->budget_ns != CGPU_TURNS_NEVER;
  if (!active(turns, turns->holder)) {
    /* A lone holder keeps its grant, so that it launches again without asking. */
    if (turns->end_ns == CGPU_TURNS_NEVER && !bounded) return false;
    hand_over(turns);
    return true;
  }
  if (turns->end_ns != CGPU_TURNS_NEVER && turns->now_ns >= question_ns(turns) && first_at(turns, turns->end_ns)) {
    turns->start_ns = turns->end_ns;
    turns->end_ns += quantum_ns(turns);
    count_turn(turns, turns->holder);
  }
  if (turns->now_ns < least(turns->end_ns, turns->budget_ns)) return false;
  drain(turns);
  return true;
}

static bool look_at_draining(struct cgpu_turns *turns) {
  bool rival = rivalled(turns), busy = turns->tenant[turns->holder].busy;
  if (!rival && cgpu_arbiter_policy_eligible(&turns->policy, turns->holder)) {
    turns->ousted = CGPU_POLICY_NOBODY; /* the turn goes on */
    open_turn(turns);
    return true;
  }
  /* Without a rival too: only then can it be seen that it is stuck. */
  if (busy && turns->now_ns < turns->drain_ns) return false;
  turns->overruns += busy;
  hand_over(turns);
  return true;
}

static bool look_at_idle(struct cgpu_turns *turns) {
  int stuck = to_rescue(turns), next = stuck;
  if (stuck == CGPU_POLICY_NOBODY) {
    next = cgpu_arbiter_policy_next(&turns->policy);
  } else if (turns->tenant[stuck].rescues < MOST_DOUBLES) {
    turns->tenant[stuck].rescues++;
  }
  if (next == CGPU_POLICY_NOBODY) return false;
  begin_turn(turns, next, next == stuck);
  return true;
}

static uint64_t next_moment(const struct cgpu_turns *turns) {
  switch (turns->phase) {
    case CGPU_TURNS_OPEN: {
      uint64_t end_ns = turns->end_ns;
      bool ask = end_ns != CGPU_TURNS_NEVER && turns->now_ns < question_ns(turns) && first_at(turns, end_ns);
      return least(ask ? question_ns(turns) : end_ns, turns->budget_ns);
    }
    case CGPU_TURNS_DRAINING: return turns->now_ns < turns->drain_ns ? turns->drain_ns : CGPU_TURNS_NEVER;
    default: return CGPU_TURNS_NEVER;
  }
}

uint64_t cgpu_arbiter_turns_decide(struct cgpu_turns *turns) {
  if (native(turns)) return CGPU_TURNS_NEVER;
  bool moved = true;
  while (moved) {
    switch (turns->phase) {
      case CGPU_TURNS_OPEN: moved = look_at_open(turns); break;
      case CGPU_TURNS_DRAINING: moved = look_at_draining(turns); break;
      default: moved = look_at_idle(turns); break;
    }
  }
  uint64_t pause_ns = cgpu_arbiter_policy_pause(&turns->policy);
  if (pause_ns < LOOK_NS) pause_ns = LOOK_NS;
  return least(next_moment(turns), least(later(turns->now_ns, pause_ns), next_rescue_ns(turns)));
}

struct cgpu_turns_grant cgpu_arbiter_turns_grant(const struct cgpu_turns *turns, int tenant) {
  struct cgpu_turns_grant grant = {.state = CGPU_GRANT_CLOSED};
  if (native(turns)) {
    grant.state = CGPU_GRANT_FREE;
    return grant;
  }
  grant.contenders = contenders(turns);
  if (may_launch(turns, tenant)) {
    grant.state = CGPU_GRANT_OPEN;
    grant.deadline_ns = least(turns->end_ns, turns->budget_ns);
    if (grant.contenders < 2 && turns->budget_ns != CGPU_TURNS_NEVER) grant.contenders = 2;
  }
  return grant;
}

/* turns.c - see turns.h. */
#include "turns.h"

#include "region.h"

/* Quanta that a holder may go on after the end of its turn. */
#define DRAIN_QUANTA 2
#define LONG_QUANTA 50 /* and so many more at most, where it runs what is known to take that long */
/* Rounds (a quantum for each contender) before a tenant is taken for stuck, and how often they double. */
#define STUCK_ROUNDS 2
#define MOST_DOUBLES 6

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

static void measure_budget(struct cgpu_turns *turns) {
  if (turns->holder == CGPU_POLICY_NOBODY) return;
  turns->budget_ns = later(turns->now_ns, cgpu_arbiter_policy_allowance(&turns->policy, turns->holder));
}

void cgpu_arbiter_turns_set(struct cgpu_turns *turns, const struct cgpu_policy_settings *settings) {
  if (settings->kind == CGPU_POLICY_NATIVE) end_turn(turns);
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
  return turns->tenant[tenant].sight.want || turns->tenant[tenant].sight.busy;
}

static bool may_launch(const struct cgpu_turns *turns, int tenant) {
  return turns->phase == CGPU_TURNS_OPEN && turns->holder == tenant;
}

/* Who has the card now: the holder while it has work, woken but not yet launching included, and
 * whoever was passed over and still runs. */
static bool occupies(const struct cgpu_turns *turns, int tenant) {
  return tenant == turns->holder ? active(turns, tenant) : turns->tenant[tenant].sight.busy;
}

static unsigned occupants(const struct cgpu_turns *turns) {
  unsigned count = 0;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) count += occupies(turns, i);
  return count;
}

void cgpu_arbiter_turns_advance(struct cgpu_turns *turns, uint64_t now_ns) {
  if (now_ns <= turns->now_ns) return;
  uint64_t time_ns = now_ns - turns->now_ns;
  turns->now_ns = now_ns;
  if (native(turns)) return;
  unsigned count = occupants(turns);
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (turns->tenant[i].sight.want && !may_launch(turns, i)) turns->tenant[i].waited_ns += time_ns;
    if (occupies(turns, i)) cgpu_arbiter_policy_charge(&turns->policy, i, time_ns / count);
  }
  cgpu_arbiter_policy_pass(&turns->policy, time_ns);
}

void cgpu_arbiter_turns_skip(struct cgpu_turns *turns, uint64_t now_ns) {
  if (now_ns <= turns->now_ns) return;
  turns->now_ns = now_ns;
  measure_budget(turns);
}

/* After a tenant's words or its part in the turn have changed. It competes while it waits for the
 * card, and while it holds it with work in flight. */
static void update(struct cgpu_turns *turns, int index) {
  struct cgpu_turns_tenant *tenant = &turns->tenant[index];
  bool backlogged = tenant->sight.want || (turns->holder == index && tenant->sight.busy);
  bool stuck = tenant->sight.want && tenant->sight.busy && turns->holder != index;
  if (!tenant->sight.busy) tenant->rescues = 0;
  if (!stuck) tenant->stuck_ns = 0;
  if (stuck && !tenant->stuck_ns) tenant->stuck_ns = turns->now_ns;
  if (backlogged && !turns->policy.tenant[index].backlogged) cgpu_arbiter_policy_wake(&turns->policy, index);
  if (!backlogged && turns->policy.tenant[index].backlogged) cgpu_arbiter_policy_sleep(&turns->policy, index);
}

void cgpu_arbiter_turns_observe(struct cgpu_turns *turns, int tenant, const struct cgpu_turns_sight *sight) {
  turns->tenant[tenant].sight = *sight;
  update(turns, tenant);
}

static uint32_t contenders(const struct cgpu_turns *turns) {
  uint32_t count = 0;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) count += i == turns->holder || turns->tenant[i].sight.want;
  return count;
}

/* The tenant that has been stuck for longest beyond its patience, or CGPU_POLICY_NOBODY. */
static int to_rescue(const struct cgpu_turns *turns) {
  int longest = CGPU_POLICY_NOBODY;
  uint64_t rounds_ns = STUCK_ROUNDS * quantum_ns(turns) * contenders(turns);
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_turns_tenant *tenant = &turns->tenant[i];
    if (!tenant->stuck_ns || turns->now_ns - tenant->stuck_ns < rounds_ns << tenant->rescues) continue;
    if (longest == CGPU_POLICY_NOBODY || tenant->stuck_ns < turns->tenant[longest].stuck_ns) longest = i;
  }
  return longest;
}

/* Whether the holder is in somebody's way. */
static bool rivalled(const struct cgpu_turns *turns) {
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (i != turns->holder && turns->tenant[i].sight.want && cgpu_arbiter_policy_eligible(&turns->policy, i)) return true;
  }
  return to_rescue(turns) != CGPU_POLICY_NOBODY;
}

static bool preempted(const struct cgpu_turns *turns) {
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (turns->tenant[i].sight.want && cgpu_arbiter_policy_preempts(&turns->policy, i, turns->holder)) return true;
  }
  return false;
}

/* Gives the turn away; the old holder's backlog is then its waiting threads alone. */
static void hand_over(struct cgpu_turns *turns) {
  int old = turns->holder;
  end_turn(turns);
  update(turns, old);
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

static void begin_turn(struct cgpu_turns *turns, int tenant) {
  turns->holder = tenant;
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
  }
  if (turns->end_ns < turns->now_ns || preempted(turns)) turns->end_ns = turns->now_ns;
}

static void drain(struct cgpu_turns *turns) {
  bool by_others = turns->now_ns >= turns->end_ns;
  turns->phase = CGPU_TURNS_DRAINING;
  turns->closed_ns = turns->now_ns;
  if (!by_others) return;
  turns->tenant[turns->holder].preempted++;
  turns->ousted = turns->holder;
}

/* When a draining holder is passed over. What it is known to run takes as many times longer as there
 * are others on the card; were it passed over for that, they would never be one after the other again. */
static uint64_t patience_ns(const struct cgpu_turns *turns) {
  const struct cgpu_turns_sight *sight = &turns->tenant[turns->holder].sight;
  uint64_t most_ns = LONG_QUANTA * quantum_ns(turns), long_ns = least(sight->long_ns, most_ns) * occupants(turns);
  return turns->closed_ns + DRAIN_QUANTA * quantum_ns(turns) + (sight->elsewhere ? 0 : least(long_ns, most_ns));
}

/* One look at an open turn. True: the machine has moved and must be looked at again. */
static bool look_at_open(struct cgpu_turns *turns) {
  if (turns->now_ns >= turns->budget_ns) measure_budget(turns);
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
  bool rival = rivalled(turns), busy = turns->tenant[turns->holder].sight.busy;
  if (!rival && cgpu_arbiter_policy_eligible(&turns->policy, turns->holder)) {
    open_turn(turns);
    return true;
  }
  if (busy && (!rival || turns->now_ns < patience_ns(turns))) return false;
  turns->overruns += busy;
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

static uint64_t next_moment(const struct cgpu_turns *turns) {
  switch (turns->phase) {
    case CGPU_TURNS_OPEN: {
      uint64_t end_ns = turns->end_ns;
      bool ask = end_ns != CGPU_TURNS_NEVER && turns->now_ns < question_ns(turns) && first_at(turns, end_ns);
      return least(ask ? question_ns(turns) : end_ns, turns->budget_ns);
    }
    case CGPU_TURNS_DRAINING:
      if (turns->now_ns >= patience_ns(turns)) return CGPU_TURNS_NEVER;
      return least(patience_ns(turns), turns->now_ns + DRAIN_QUANTA * quantum_ns(turns));
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
  return least(next_moment(turns), later(turns->now_ns, cgpu_arbiter_policy_pause(&turns->policy)));
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

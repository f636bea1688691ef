/* turns.c - see turns.h. */
#include "turns.h"

#include "region.h"

/* Quanta that a holder may go on after the end of its turn. */
#define DRAIN_QUANTA 2
#define LONG_QUANTA 50 /* and so many more at most, where it runs what is known to take that long */
/* Rounds (a quantum for each contender) before a tenant is taken for stuck, and how often they double. */
#define STUCK_ROUNDS 2
#define MOST_DOUBLES 6
#define HANDING_OVER_PART 20 /* of a quantum: 0.5 ms of 10; 0.1 to 0.3 ms were seen */
/* A tenant that works less in its turns leaves the card idle; so many in a turn that they fill it. */
#define LEAVES_IDLE_PPM 900000u
#define FILLS_PPM 1000000u
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

static bool holds(const struct cgpu_turns *turns, int tenant) {
  return tenant == turns->holder || turns->tenant[tenant].guest;
}

bool cgpu_arbiter_turns_holds(const struct cgpu_turns *turns, int tenant) { return holds(turns, tenant); }

/* After a tenant's words or its part in the turn have changed. It competes while it waits for the
 * card, and while it holds it with work in flight. */
static void update(struct cgpu_turns *turns, int index) {
  struct cgpu_turns_tenant *tenant = &turns->tenant[index];
  bool backlogged = tenant->sight.want || (holds(turns, index) && tenant->sight.busy);
  bool stuck = tenant->sight.want && tenant->sight.busy && !holds(turns, index);
  if (!tenant->sight.busy) tenant->rescues = 0;
  if (!stuck) tenant->stuck_ns = 0;
  if (stuck && !tenant->stuck_ns) tenant->stuck_ns = turns->now_ns;
  if (backlogged && !turns->policy.tenant[index].backlogged) {
    cgpu_arbiter_policy_wake(&turns->policy, index);
    if (!holds(turns, index)) turns->woken_ns = turns->now_ns;
  }
  if (!backlogged && turns->policy.tenant[index].backlogged) cgpu_arbiter_policy_sleep(&turns->policy, index);
}

/* Gives the turn away; the backlog of those who had it is then their waiting threads alone. */
static void hand_over(struct cgpu_turns *turns) {
  if (turns->ousted == turns->holder) turns->tenant[turns->holder].preempted++;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (!holds(turns, i)) continue;
    turns->tenant[i].guest = false;
    if (i == turns->holder) turns->holder = CGPU_POLICY_NOBODY;
    update(turns, i);
  }
  turns->phase = CGPU_TURNS_IDLE;
  turns->unseen = 0;
}

static void measure_budget(struct cgpu_turns *turns) {
  uint64_t allowance_ns = CGPU_POLICY_FOREVER;
  if (turns->holder == CGPU_POLICY_NOBODY) return;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (holds(turns, i)) allowance_ns = least(allowance_ns, cgpu_arbiter_policy_allowance(&turns->policy, i));
  }
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
  if (turns->holder == tenant) hand_over(turns);
  turns->unseen &= ~(1u << tenant);
  if (turns->ousted == tenant) turns->ousted = CGPU_POLICY_NOBODY;
  turns->tenant[tenant] = (struct cgpu_turns_tenant){0};
  cgpu_arbiter_policy_leave(&turns->policy, tenant);
}

static bool active(const struct cgpu_turns *turns, int tenant) {
  return turns->tenant[tenant].sight.want || turns->tenant[tenant].sight.busy;
}

static bool may_launch(const struct cgpu_turns *turns, int tenant) {
  return turns->phase == CGPU_TURNS_OPEN && holds(turns, tenant);
}

/* Who has the card now: who holds it while it has work, woken but not yet launching included, and
 * whoever was passed over and still runs. */
static bool occupies(const struct cgpu_turns *turns, int tenant) {
  return holds(turns, tenant) ? active(turns, tenant) : turns->tenant[tenant].sight.busy;
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
    if (turns->tenant[i].sight.want && !holds(turns, i)) turns->tenant[i].waited_ns += time_ns;
    if (occupies(turns, i)) cgpu_arbiter_policy_charge(&turns->policy, i, time_ns / count);
  }
  cgpu_arbiter_policy_pass(&turns->policy, time_ns);
}

void cgpu_arbiter_turns_skip(struct cgpu_turns *turns, uint64_t now_ns) {
  if (now_ns <= turns->now_ns) return;
  turns->now_ns = now_ns;
  measure_budget(turns);
}

/* How much of its turn the tenant had work on the card, once the turn is over and drained. */
static void measure_work(struct cgpu_turns *turns, int index) {
  struct cgpu_turns_tenant *tenant = &turns->tenant[index];
  if (!tenant->measuring || tenant->sight.busy || may_launch(turns, index)) return;
  tenant->measuring = false;
  uint64_t length_ns = turns->now_ns - tenant->opened_ns;
  uint64_t worked_ns = tenant->sight.worked_ns - tenant->opened_worked_ns;
  if (!length_ns) return;
  uint32_t work_ppm = worked_ns < length_ns ? (uint32_t)(worked_ns * CGPU_PPM / length_ns) : CGPU_PPM;
  tenant->work_ppm = tenant->measured ? (tenant->work_ppm * 3 + work_ppm) / 4 : work_ppm;
  tenant->measured = true;
}

void cgpu_arbiter_turns_observe(struct cgpu_turns *turns, int tenant, const struct cgpu_turns_sight *sight) {
  turns->tenant[tenant].sight = *sight;
  turns->unseen &= ~(1u << tenant);
  measure_work(turns, tenant);
  update(turns, tenant);
}

static uint32_t contenders(const struct cgpu_turns *turns) {
  uint32_t count = 0;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) count += holds(turns, i) || turns->tenant[i].sight.want;
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
    if (turns->tenant[i].guest) return true; /* whose share may be smaller */
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

static void count_turn(struct cgpu_turns *turns, int tenant) {
  cgpu_arbiter_policy_begin(&turns->policy, tenant);
  turns->tenant[tenant].turns++;
}

static void begin_measuring(struct cgpu_turns *turns, int index) {
  struct cgpu_turns_tenant *tenant = &turns->tenant[index];
  tenant->measuring = true;
  tenant->opened_ns = turns->now_ns;
  tenant->opened_worked_ns = tenant->sight.worked_ns;
}

static bool leaves_idle(const struct cgpu_turns *turns, int tenant) {
  return turns->tenant[tenant].measured && turns->tenant[tenant].work_ppm < LEAVES_IDLE_PPM;
}

static int next_guest(const struct cgpu_turns *turns) {
  int next = CGPU_POLICY_NOBODY;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (holds(turns, i) || !turns->tenant[i].sight.want || !leaves_idle(turns, i)) continue;
    if (!cgpu_arbiter_policy_joins(&turns->policy, i, turns->holder)) continue;
    if (next == CGPU_POLICY_NOBODY || turns->policy.tenant[i].turn < turns->policy.tenant[next].turn) next = i;
  }
  return next;
}

/* Lets others into the turn that has just begun, those first whose last turn is longest ago. */
static void invite(struct cgpu_turns *turns) {
  uint64_t work_ppm = turns->tenant[turns->holder].work_ppm;
  if (!turns->policy.settings.share_slots || !leaves_idle(turns, turns->holder)) return;
  for (int guest = next_guest(turns); guest != CGPU_POLICY_NOBODY && work_ppm < FILLS_PPM; guest = next_guest(turns)) {
    work_ppm += turns->tenant[guest].work_ppm;
    turns->tenant[guest].guest = true;
    count_turn(turns, guest);
    begin_measuring(turns, guest);
    update(turns, guest);
  }
}

static void open_turn(struct cgpu_turns *turns) {
  turns->phase = CGPU_TURNS_OPEN;
  begin_measuring(turns, turns->holder);
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
  invite(turns);
  open_turn(turns);
}

/* A holder that will still be first when its quantum ends goes on without a pause. That is decided a
 * little before the end, so that its queue on the card does not run empty over the question. */
static uint64_t question_ns(const struct cgpu_turns *turns) { return turns->end_ns - quantum_ns(turns) / 4; }

static bool shared(const struct cgpu_turns *turns) {
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (turns->tenant[i].guest) return true;
  }
  return false;
}

/* Whether the holder will be first at that time, as things stand now; who wakes up later may change it. */
static bool first_at(const struct cgpu_turns *turns, uint64_t time_ns) {
  uint64_t rest_ns = time_ns > turns->now_ns ? time_ns - turns->now_ns : 0;
  if (to_rescue(turns) != CGPU_POLICY_NOBODY || shared(turns)) return false;
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
  uint64_t latest_ns = turns->woken_ns + quantum_ns(turns) - quantum_ns(turns) / HANDING_OVER_PART;
  if (turns->woken_ns >= turns->start_ns && turns->end_ns > latest_ns && !first_at(turns, turns->now_ns)) {
    turns->end_ns = latest_ns;
  }
  if (turns->end_ns < turns->now_ns || preempted(turns)) turns->end_ns = turns->now_ns;
}

static void close_turn(struct cgpu_turns *turns) {
  turns->phase = CGPU_TURNS_DRAINING;
  turns->closed_ns = turns->now_ns;
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) turns->unseen |= holds(turns, i) ? 1u << i : 0;
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
  /* Whether a tenant of high priority takes from others changes with them. */
  bool high = turns->policy.tenant[turns->holder].share.priority;
  if (turns->now_ns >= turns->budget_ns || high) measure_budget(turns);
  bound_quantum(turns);
  bool bounded = turns->budget_ns != CGPU_TURNS_NEVER;
  if (!active(turns, turns->holder)) {
    /* A lone holder keeps its grant, so that it launches again without asking. */
    if (turns->end_ns == CGPU_TURNS_NEVER && !bounded) return false;
    close_turn(turns);
    return false;
  }
  if (turns->end_ns != CGPU_TURNS_NEVER && turns->now_ns >= question_ns(turns) && first_at(turns, turns->end_ns)) {
    turns->start_ns = turns->end_ns;
    turns->end_ns += quantum_ns(turns);
    count_turn(turns, turns->holder);
  }
  if (turns->now_ns < least(turns->end_ns, turns->budget_ns)) return false;
  if (turns->now_ns >= turns->end_ns) turns->ousted = turns->holder;
  close_turn(turns);
  return false;
}

/* Whether anybody whose turn it was still has work on the card. */
static bool draining(const struct cgpu_turns *turns) {
  for (int i = 0; i < (int)CGPU_POLICY_TENANTS; i++) {
    if (holds(turns, i) && turns->tenant[i].sight.busy) return true;
  }
  return false;
}

static bool look_at_draining(struct cgpu_turns *turns) {
  if (turns->unseen) return false;
  bool rival = rivalled(turns), busy = draining(turns);
  if (!rival && cgpu_arbiter_policy_eligible(&turns->policy, turns->holder)) {
    turns->ousted = CGPU_POLICY_NOBODY; /* the turn goes on */
    open_turn(turns);
    return true;
  }
  /* Without a rival too: only then can it be seen that it is stuck. */
  if (busy && turns->now_ns < patience_ns(turns)) return false;
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
  uint64_t pause_ns = cgpu_arbiter_policy_pause(&turns->policy);
  if (pause_ns < LOOK_NS) pause_ns = LOOK_NS;
  return least(next_moment(turns), least(later(turns->now_ns, pause_ns), next_rescue_ns(turns)));
}

int cgpu_arbiter_turns_expected(const struct cgpu_turns *turns, uint64_t *at_ns) {
  if (native(turns) || turns->phase != CGPU_TURNS_OPEN || to_rescue(turns) != CGPU_POLICY_NOBODY) return CGPU_POLICY_NOBODY;
  *at_ns = least(turns->end_ns, turns->budget_ns);
  if (*at_ns == CGPU_TURNS_NEVER) return CGPU_POLICY_NOBODY;
  uint64_t rest_ns = *at_ns > turns->now_ns ? *at_ns - turns->now_ns : 0;
  int next = cgpu_arbiter_policy_next_after(&turns->policy, turns->holder, rest_ns);
  return next == CGPU_POLICY_NOBODY || holds(turns, next) ? CGPU_POLICY_NOBODY : next;
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

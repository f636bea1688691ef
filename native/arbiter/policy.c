/* policy.c - see policy.h. Everything that decides about shares is here, and nothing else is. */
#include "policy.h"

#include <string.h>

/* Virtual time has ten bits below the nanosecond, so that dividing by a weight of up to 2000 loses
 * less than two nanoseconds per charge. Differences stay meaningful up to 2^53 ns, a hundred days. */
#define VIRTUAL_SHIFT 10
#define PPM_PER_PERCENT (CGPU_PPM / 100)
#define WEIGHT_PER_PERCENT 20u /* so that slices of 1/max_inst have a weight to the twentieth of a percent */
#define CREDIT_NS 500000000    /* whoever has work and waits keeps its part of that beyond a full budget */
#define LONGEST_NS 1000000000000u

bool cgpu_arbiter_policy_known(uint32_t kind) { return kind <= CGPU_POLICY_NATIVE; }

static bool before(uint64_t left, uint64_t right) { return (int64_t)(left - right) < 0; }

static bool conserves_work(const struct cgpu_policy *policy) {
  uint32_t kind = policy->settings.kind;
  return kind == CGPU_POLICY_PREEMPTIVE || kind == CGPU_POLICY_WEIGHTED || kind == CGPU_POLICY_SOFT;
}

static uint32_t weight_of(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant) {
  uint32_t slice = 100 * WEIGHT_PER_PERCENT / policy->settings.max_inst;
  switch (policy->settings.kind) {
    case CGPU_POLICY_WEIGHTED: return tenant->share.weight;
    case CGPU_POLICY_FIXED:
    case CGPU_POLICY_SOFT:
      return tenant->share.compute_percent ? tenant->share.compute_percent * WEIGHT_PER_PERCENT : slice;
    default: return 1;
  }
}

/* The part of the card that the tenant may have at most. */
static uint32_t cap_ppm(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant) {
  uint32_t limit = tenant->share.compute_limit_percent * PPM_PER_PERCENT, cap = CGPU_PPM;
  if (policy->settings.kind == CGPU_POLICY_NATIVE) return CGPU_PPM;
  if (!tenant->share.priority) {
    uint32_t slice = CGPU_PPM / policy->settings.max_inst;
    if (policy->settings.kind == CGPU_POLICY_FAIR) cap = slice;
    if (policy->settings.kind == CGPU_POLICY_FIXED) {
      cap = tenant->share.compute_percent ? tenant->share.compute_percent * PPM_PER_PERCENT : slice;
    }
  }
  return limit && limit < cap ? limit : cap;
}

static uint64_t virtual_length(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant,
                               uint64_t time_ns) {
  return (time_ns << VIRTUAL_SHIFT) / weight_of(policy, tenant);
}

static bool competes(const struct cgpu_policy_tenant *tenant) {
  return tenant->present && tenant->backlogged && !tenant->throttled;
}

/* Whether anybody of that priority wants the card. */
static bool wanted_by(const struct cgpu_policy *policy, uint32_t priority) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (competes(&policy->tenant[i]) && policy->tenant[i].share.priority == priority) return true;
  }
  return false;
}

/* Tenants of normal priority have something to lose. */
static bool contended(const struct cgpu_policy *policy) { return wanted_by(policy, 0); }

bool cgpu_arbiter_policy_eligible(const struct cgpu_policy *policy, int index) {
  const struct cgpu_policy_tenant *tenant = &policy->tenant[index];
  if (!competes(tenant) || !tenant->share.priority || !policy->priority_throttled) return competes(tenant);
  return conserves_work(policy) && !contended(policy);
}

/* How far the tenant is ahead of those that compete; negative: behind. In virtual time. */
static int64_t ahead(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant) {
  return (int64_t)(tenant->virtual_time - policy->clock[tenant->share.priority]);
}

/* Nobody is behind by more than a quantum of its own. Those that do not compete are moved on with the
 * others, not when they come back: after a hundred days the difference would say the opposite. */
static void move_on(struct cgpu_policy *policy, struct cgpu_policy_tenant *tenant) {
  int64_t credit = (int64_t)virtual_length(policy, tenant, policy->settings.quantum_ns);
  if (ahead(policy, tenant) < -credit) {
    tenant->virtual_time = policy->clock[tenant->share.priority] - (uint64_t)credit;
  }
}

/* The virtual time of a priority follows the tenant that is furthest behind of those that compete. */
static void advance_clock(struct cgpu_policy *policy) {
  for (unsigned priority = 0; priority < 2; priority++) {
    const struct cgpu_policy_tenant *least = NULL;
    for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
      const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
      if (!competes(tenant) || tenant->share.priority != priority) continue;
      if (!least || before(tenant->virtual_time, least->virtual_time)) least = tenant;
    }
    uint64_t *clock = &policy->clock[priority];
    if (least && before(*clock, least->virtual_time)) *clock = least->virtual_time;
  }
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (policy->tenant[i].present) move_on(policy, &policy->tenant[i]);
  }
}

/* What a tenant of that weight is ahead, in the virtual time of another weight: the same time of the card. */
static int64_t reweighed(int64_t ahead, uint32_t old_weight, uint32_t new_weight) {
  int64_t old = old_weight, new = new_weight;
  return ahead / new * old + ahead % new * old / new;
}

/* ---- budgets ---- */

static int64_t full_budget(const struct cgpu_policy *policy) {
  return (int64_t)policy->settings.quantum_ns * CGPU_PPM;
}

static int64_t least_of(int64_t left, int64_t right) { return left < right ? left : right; }

static int64_t spent(int64_t budget, uint64_t time_ns) {
  int64_t rest = budget - (int64_t)(time_ns * CGPU_PPM), most = -(int64_t)(LONGEST_NS * CGPU_PPM);
  return rest > most ? rest : most;
}

/* After its cap may have changed. */
static void review(struct cgpu_policy *policy, struct cgpu_policy_tenant *tenant) {
  tenant->budget = least_of(tenant->budget, full_budget(policy));
  if (cap_ppm(policy, tenant) == CGPU_PPM) tenant->budget = full_budget(policy);
  if (tenant->budget == full_budget(policy)) tenant->throttled = false;
}

/* What a budget may be: a quantum's worth, and more of it for one that waits although it may go, so that
 * the length of others' kernels costs it nothing. */
static int64_t most_budget(const struct cgpu_policy *policy, uint32_t ppm, bool waits) {
  return full_budget(policy) + (waits ? (int64_t)ppm * CREDIT_NS : 0);
}

static void grow(struct cgpu_policy *policy, struct cgpu_policy_tenant *tenant, uint64_t time_ns) {
  uint32_t cap = cap_ppm(policy, tenant);
  if (cap == CGPU_PPM) return;
  int64_t grown = tenant->budget + (int64_t)(time_ns * cap);
  tenant->budget = least_of(grown, most_budget(policy, cap, tenant->backlogged));
  if (tenant->budget >= full_budget(policy)) tenant->throttled = false;
  if (tenant->budget <= 0) tenant->throttled = true;
}

/* The same for the budget of high priority. Where it takes from nobody it keeps no credit, for which
 * others would have to wait. */
static void grow_priority(struct cgpu_policy *policy, uint64_t time_ns, bool waits) {
  uint32_t ratio = policy->settings.prio_ratio * PPM_PER_PERCENT;
  int64_t grown = policy->priority_budget + (int64_t)(time_ns * ratio);
  policy->priority_budget = least_of(grown, most_budget(policy, ratio, waits));
  if (policy->priority_budget >= full_budget(policy)) policy->priority_throttled = false;
  if (policy->priority_budget <= 0) policy->priority_throttled = true;
}

void cgpu_arbiter_policy_pass(struct cgpu_policy *policy, uint64_t time_ns) {
  if (time_ns > LONGEST_NS) time_ns = LONGEST_NS;
  /* As it was in that time, when the charges were made: before anybody's pause ends. */
  bool waits = wanted_by(policy, 1) && (contended(policy) || !conserves_work(policy));
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (policy->tenant[i].present) grow(policy, &policy->tenant[i], time_ns);
  }
  grow_priority(policy, time_ns, waits);
  advance_clock(policy);
}

/* Whether the tenant's time is charged to the budget of high priority. */
static bool takes_from_others(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant) {
  return tenant->share.priority && (contended(policy) || !conserves_work(policy));
}

void cgpu_arbiter_policy_charge(struct cgpu_policy *policy, int index, uint64_t time_ns) {
  struct cgpu_policy_tenant *tenant = &policy->tenant[index];
  if (time_ns > LONGEST_NS) time_ns = LONGEST_NS;
  tenant->charged_ns += time_ns;
  tenant->virtual_time += virtual_length(policy, tenant, time_ns);
  if (takes_from_others(policy, tenant)) policy->priority_budget = spent(policy->priority_budget, time_ns);
  if (cap_ppm(policy, tenant) < CGPU_PPM) tenant->budget = spent(tenant->budget, time_ns);
  advance_clock(policy);
}

/* How long a budget lasts that grows by `ppm` of the time in which it is used up. */
static uint64_t lasts_ns(int64_t budget, uint32_t ppm) {
  if (budget <= 0) return 0;
  uint64_t loss = CGPU_PPM - ppm;
  return ((uint64_t)budget + loss - 1) / loss;
}

uint64_t cgpu_arbiter_policy_allowance(const struct cgpu_policy *policy, int index) {
  const struct cgpu_policy_tenant *tenant = &policy->tenant[index];
  uint64_t allowance = CGPU_POLICY_FOREVER;
  uint32_t cap = cap_ppm(policy, tenant);
  if (cap < CGPU_PPM) allowance = tenant->throttled ? 0 : lasts_ns(tenant->budget, cap);
  if (takes_from_others(policy, tenant)) {
    uint32_t ratio = policy->settings.prio_ratio * PPM_PER_PERCENT;
    uint64_t group = policy->priority_throttled ? 0 : lasts_ns(policy->priority_budget, ratio);
    if (group < allowance) allowance = group;
  }
  return allowance;
}

static uint64_t fills_ns(int64_t missing, uint32_t ppm) {
  return missing <= 0 ? 0 : ((uint64_t)missing + ppm - 1) / ppm;
}

uint64_t cgpu_arbiter_policy_pause(const struct cgpu_policy *policy) {
  uint64_t least = CGPU_POLICY_FOREVER;
  bool high = false;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
    high = high || (competes(tenant) && tenant->share.priority);
    if (!tenant->present || !tenant->backlogged || !tenant->throttled) continue;
    uint64_t pause = fills_ns(full_budget(policy) - tenant->budget, cap_ppm(policy, tenant));
    if (pause < least) least = pause;
  }
  if (high && policy->priority_throttled) {
    uint32_t ratio = policy->settings.prio_ratio * PPM_PER_PERCENT;
    uint64_t pause = fills_ns(full_budget(policy) - policy->priority_budget, ratio);
    if (pause < least) least = pause;
  }
  return least;
}

/* ---- settings and tenants ---- */

static struct cgpu_policy_share within_bounds(const struct cgpu_policy_share *share) {
  struct cgpu_policy_share bounded = *share;
  if (bounded.weight < 1) bounded.weight = 1;
  if (bounded.weight > CGPU_WEIGHT_MAX) bounded.weight = CGPU_WEIGHT_MAX;
  if (bounded.compute_percent > 100) bounded.compute_percent = 100;
  if (bounded.compute_limit_percent > 100) bounded.compute_limit_percent = 100;
  bounded.priority = bounded.priority != 0;
  return bounded;
}

static void adopt_settings(struct cgpu_policy *policy, const struct cgpu_policy_settings *settings) {
  policy->settings = *settings;
  if (policy->settings.max_inst < 1) policy->settings.max_inst = 1;
  if (policy->settings.max_inst > CGPU_POLICY_TENANTS) policy->settings.max_inst = CGPU_POLICY_TENANTS;
  if (policy->settings.prio_ratio < 20) policy->settings.prio_ratio = 20;
  if (policy->settings.prio_ratio > 99) policy->settings.prio_ratio = 99;
}

/* After the tenant's share or the settings have changed: it stays ahead or behind by the same time, among
 * those of its priority. */
static void adopt_share(struct cgpu_policy *policy, struct cgpu_policy_tenant *tenant, const struct cgpu_policy *old,
                        const struct cgpu_policy_tenant *old_tenant) {
  int64_t lead = reweighed(ahead(old, old_tenant), weight_of(old, old_tenant), weight_of(policy, tenant));
  tenant->virtual_time = policy->clock[tenant->share.priority] + (uint64_t)lead;
  review(policy, tenant);
}

void cgpu_arbiter_policy_init(struct cgpu_policy *policy, const struct cgpu_policy_settings *settings) {
  memset(policy, 0, sizeof *policy);
  adopt_settings(policy, settings);
  policy->priority_budget = full_budget(policy);
}

void cgpu_arbiter_policy_set(struct cgpu_policy *policy, const struct cgpu_policy_settings *settings) {
  const struct cgpu_policy old = *policy;
  adopt_settings(policy, settings);
  policy->priority_budget = least_of(policy->priority_budget, full_budget(policy));
  if (policy->priority_budget == full_budget(policy)) policy->priority_throttled = false;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (policy->tenant[i].present) adopt_share(policy, &policy->tenant[i], &old, &old.tenant[i]);
  }
  advance_clock(policy);
}

int cgpu_arbiter_policy_join(struct cgpu_policy *policy, const struct cgpu_policy_share *share) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    struct cgpu_policy_tenant *tenant = &policy->tenant[i];
    if (tenant->present) continue;
    *tenant = (struct cgpu_policy_tenant){.share = within_bounds(share), .present = true};
    tenant->virtual_time = policy->clock[tenant->share.priority];
    tenant->budget = full_budget(policy);
    return (int)i;
  }
  return CGPU_POLICY_NOBODY;
}

void cgpu_arbiter_policy_share(struct cgpu_policy *policy, int index, const struct cgpu_policy_share *share) {
  struct cgpu_policy_tenant *tenant = &policy->tenant[index];
  const struct cgpu_policy_tenant old = *tenant;
  tenant->share = within_bounds(share);
  adopt_share(policy, tenant, policy, &old);
  advance_clock(policy);
}

void cgpu_arbiter_policy_leave(struct cgpu_policy *policy, int tenant) {
  policy->tenant[tenant].present = false;
  policy->tenant[tenant].backlogged = false;
  advance_clock(policy);
}

void cgpu_arbiter_policy_wake(struct cgpu_policy *policy, int tenant) {
  policy->tenant[tenant].backlogged = true;
  advance_clock(policy);
}

void cgpu_arbiter_policy_sleep(struct cgpu_policy *policy, int tenant) {
  policy->tenant[tenant].backlogged = false;
  advance_clock(policy);
}

/* ---- decisions ---- */

int cgpu_arbiter_policy_next_after(const struct cgpu_policy *policy, int holder, uint64_t time_ns) {
  int best[2] = {CGPU_POLICY_NOBODY, CGPU_POLICY_NOBODY}; /* by priority */
  uint64_t best_time[2] = {0, 0};
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
    if (!competes(tenant)) continue;
    uint64_t time = tenant->virtual_time;
    uint32_t priority = tenant->share.priority;
    if ((int)i == holder) {
      if (cgpu_arbiter_policy_allowance(policy, holder) <= time_ns) continue;
      time += virtual_length(policy, tenant, time_ns);
    }
    bool better = best[priority] == CGPU_POLICY_NOBODY || before(time, best_time[priority]) ||
                  (time == best_time[priority] && tenant->turn < policy->tenant[best[priority]].turn);
    if (!better) continue;
    best[priority] = (int)i;
    best_time[priority] = time;
  }
  bool may = !policy->priority_throttled || (best[0] == CGPU_POLICY_NOBODY && conserves_work(policy));
  return best[1] != CGPU_POLICY_NOBODY && may ? best[1] : best[0];
}

int cgpu_arbiter_policy_next(const struct cgpu_policy *policy) {
  return cgpu_arbiter_policy_next_after(policy, CGPU_POLICY_NOBODY, 0);
}

bool cgpu_arbiter_policy_preempts(const struct cgpu_policy *policy, int rival, int holder) {
  bool higher = policy->tenant[rival].share.priority > policy->tenant[holder].share.priority;
  return higher && cgpu_arbiter_policy_eligible(policy, rival);
}

void cgpu_arbiter_policy_begin(struct cgpu_policy *policy, int tenant) {
  policy->tenant[tenant].turn = ++policy->turns;
}

/* ---- entitlements ---- */

/* Under policy 5 all are one group. */
static uint32_t group_of(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant) {
  return policy->settings.kind == CGPU_POLICY_NATIVE ? 0 : tenant->share.priority;
}

/* The tenant's part of `total` millionths, which those of one group divide by weight; what is above
 * a cap goes to the others. */
static uint32_t part_of(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *wanted, uint64_t total) {
  bool full[CGPU_POLICY_TENANTS] = {false};
  for (;;) {
    uint64_t sum = 0, taken = 0;
    for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
      const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
      if (!tenant->present || group_of(policy, tenant) != group_of(policy, wanted) || full[i]) continue;
      sum += weight_of(policy, tenant);
    }
    for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
      const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
      if (!tenant->present || group_of(policy, tenant) != group_of(policy, wanted) || full[i]) continue;
      uint64_t part = total * weight_of(policy, tenant) / sum;
      uint32_t cap = cap_ppm(policy, tenant);
      if (part < cap) continue;
      if (tenant == wanted) return cap;
      full[i] = true;
      taken += cap;
    }
    if (!taken) return (uint32_t)(total * weight_of(policy, wanted) / sum);
    total -= taken;
  }
}

uint32_t cgpu_arbiter_policy_share_ppm(const struct cgpu_policy *policy, int index) {
  const struct cgpu_policy_tenant *wanted = &policy->tenant[index];
  uint64_t caps[2] = {0, 0}; /* what each group may have at most */
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
    if (tenant->present) caps[group_of(policy, tenant)] += cap_ppm(policy, tenant);
  }
  uint64_t high = (uint64_t)policy->settings.prio_ratio * PPM_PER_PERCENT;
  /* High priority also has what the others may not have, and they what it may not. */
  if (conserves_work(policy) && caps[0] + high < CGPU_PPM) high = CGPU_PPM - caps[0];
  if (caps[1] < high) high = caps[1];
  return part_of(policy, wanted, group_of(policy, wanted) ? high : CGPU_PPM - high);
}

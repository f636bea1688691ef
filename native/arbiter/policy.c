/* policy.c - see policy.h. Everything that decides about shares is here, and nothing else is. */
#include "policy.h"

#include <string.h>

/* Virtual time has ten bits below the nanosecond, so that dividing by a weight of up to 1024 loses
 * less than a nanosecond per charge. Differences stay meaningful up to 2^53 ns, a hundred days. */
#define VIRTUAL_SHIFT 10

bool cgpu_arbiter_policy_known(uint32_t kind) {
  return kind == CGPU_POLICY_PREEMPTIVE || kind == CGPU_POLICY_WEIGHTED || kind == CGPU_POLICY_NATIVE;
}

static uint64_t weight_of(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant) {
  return policy->kind == CGPU_POLICY_WEIGHTED ? tenant->weight : 1;
}

static uint64_t virtual_length(const struct cgpu_policy *policy, const struct cgpu_policy_tenant *tenant,
                               uint64_t time_ns) {
  return (time_ns << VIRTUAL_SHIFT) / weight_of(policy, tenant);
}

static bool before(uint64_t left, uint64_t right) { return (int64_t)(left - right) < 0; }

/* The system's virtual time follows the backlogged tenant that is furthest behind. */
static void advance_clock(struct cgpu_policy *policy) {
  const struct cgpu_policy_tenant *least = NULL;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
    if (!tenant->present || !tenant->backlogged) continue;
    if (!least || before(tenant->virtual_time, least->virtual_time)) least = tenant;
  }
  if (least && before(policy->clock, least->virtual_time)) policy->clock = least->virtual_time;
}

void cgpu_arbiter_policy_init(struct cgpu_policy *policy, uint32_t kind, uint64_t quantum_ns) {
  memset(policy, 0, sizeof *policy);
  policy->kind = kind;
  policy->quantum_ns = quantum_ns;
}

int cgpu_arbiter_policy_join(struct cgpu_policy *policy, uint32_t weight, uint32_t compute_percent,
                             uint32_t priority) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    struct cgpu_policy_tenant *tenant = &policy->tenant[i];
    if (tenant->present) continue;
    *tenant = (struct cgpu_policy_tenant){.virtual_time = policy->clock, .present = true};
    cgpu_arbiter_policy_set(policy, (int)i, weight, compute_percent, priority);
    return (int)i;
  }
  return CGPU_POLICY_NOBODY;
}

void cgpu_arbiter_policy_set(struct cgpu_policy *policy, int index, uint32_t weight, uint32_t compute_percent,
                             uint32_t priority) {
  struct cgpu_policy_tenant *tenant = &policy->tenant[index];
  tenant->weight = weight < 1 ? 1 : weight > CGPU_WEIGHT_MAX ? CGPU_WEIGHT_MAX : weight;
  tenant->compute_percent = compute_percent;
  tenant->priority = priority;
}

void cgpu_arbiter_policy_leave(struct cgpu_policy *policy, int tenant) {
  policy->tenant[tenant].present = false;
  policy->tenant[tenant].backlogged = false;
  advance_clock(policy);
}

void cgpu_arbiter_policy_wake(struct cgpu_policy *policy, int index) {
  struct cgpu_policy_tenant *tenant = &policy->tenant[index];
  if (tenant->backlogged) return;
  uint64_t oldest = policy->clock - virtual_length(policy, tenant, policy->quantum_ns);
  if (before(tenant->virtual_time, oldest)) tenant->virtual_time = oldest;
  tenant->backlogged = true;
  advance_clock(policy);
}

void cgpu_arbiter_policy_sleep(struct cgpu_policy *policy, int tenant) {
  policy->tenant[tenant].backlogged = false;
  advance_clock(policy);
}

void cgpu_arbiter_policy_charge(struct cgpu_policy *policy, int index, uint64_t time_ns) {
  struct cgpu_policy_tenant *tenant = &policy->tenant[index];
  tenant->charged_ns += time_ns;
  tenant->virtual_time += virtual_length(policy, tenant, time_ns);
  advance_clock(policy);
}

int cgpu_arbiter_policy_next_after(const struct cgpu_policy *policy, int holder, uint64_t time_ns) {
  int best = CGPU_POLICY_NOBODY;
  uint64_t best_time = 0;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_policy_tenant *tenant = &policy->tenant[i];
    if (!tenant->present || !tenant->backlogged) continue;
    uint64_t time = tenant->virtual_time;
    if ((int)i == holder) time += virtual_length(policy, tenant, time_ns);
    bool better = best == CGPU_POLICY_NOBODY || before(time, best_time) ||
                  (time == best_time && tenant->turn < policy->tenant[best].turn);
    if (!better) continue;
    best = (int)i;
    best_time = time;
  }
  return best;
}

int cgpu_arbiter_policy_next(const struct cgpu_policy *policy) {
  return cgpu_arbiter_policy_next_after(policy, CGPU_POLICY_NOBODY, 0);
}

void cgpu_arbiter_policy_begin(struct cgpu_policy *policy, int tenant) {
  policy->tenant[tenant].turn = ++policy->turns;
}

uint64_t cgpu_arbiter_policy_quantum(const struct cgpu_policy *policy, int tenant) {
  (void)tenant; /* weights act through virtual time: equal turns keep every tenant's wait short */
  return policy->quantum_ns;
}

uint32_t cgpu_arbiter_policy_share_ppm(const struct cgpu_policy *policy, int index) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (policy->tenant[i].present) sum += weight_of(policy, &policy->tenant[i]);
  }
  return sum ? (uint32_t)(weight_of(policy, &policy->tenant[index]) * 1000000 / sum) : 1000000;
}

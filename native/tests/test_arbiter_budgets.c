// sources: arbiter/policy.c arbiter/turns.c
/* Turns that budgets bound: caps, high priority, and tenants that are stuck while they have none left. */
#include "support/turns_fixture.h"

#define PERCENT(value) ((struct cgpu_policy_share){.compute_percent = (value)})
#define LIMIT(value) ((struct cgpu_policy_share){.compute_limit_percent = (value)})
#define HIGH ((struct cgpu_policy_share){.priority = 1})
#define NORMAL ((struct cgpu_policy_share){0})

/* ---- caps ---- */

/* A quantum of budget that grows by half of the time lasts two. */
static void test_capped_turn_ends_when_its_budget_is_used_up_and_comes_back(void) {
  begin_with(CGPU_POLICY_FIXED);
  join(PERCENT(50));
  see(0, 0, WANTS);
  REQUIRE(is_open(0) && deadline(0) == 2 * QUANTUM);
  REQUIRE(see(0, 0, RUNS_AND_WANTS) == 2 * QUANTUM);
  at(2 * QUANTUM); /* nobody else wants the card */
  REQUIRE(is_closed(0) && throttled(0));
  uint64_t again = see(2 * QUANTUM, 0, WANTS);
  REQUIRE(again == 4 * QUANTUM && turns.phase == CGPU_TURNS_IDLE);
  at(again - 1);
  REQUIRE(is_closed(0));
  at(again);
  REQUIRE(is_open(0) && deadline(0) == again + 2 * QUANTUM);
  REQUIRE(turns.tenant[0].preempted == 0); /* nobody made it stop */
}

static void test_kernel_beyond_the_budget_is_paid_for(void) {
  begin_with(CGPU_POLICY_FIXED);
  join(PERCENT(50));
  hold_at(0, 0, RUNS_AND_WANTS);
  at(2 * QUANTUM);
  uint64_t again = see(3 * QUANTUM, 0, WANTS); /* half a quantum of debt, and a quantum's worth to begin with */
  REQUIRE(again == 6 * QUANTUM);
}

static void test_idle_capped_holder_gives_its_turn_back(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(LIMIT(30));
  hold(0);
  REQUIRE(contenders(0) == 2); /* so that it rings when it has nothing more to do */
  see(3 * MS, 0, IDLE);
  REQUIRE(is_closed(0) && turns.phase == CGPU_TURNS_IDLE);
  see(5 * MS, 0, WANTS);
  REQUIRE(is_open(0) && charged(0) == 3 * MS);
}

static void test_limit_set_in_the_middle_of_a_turn_bounds_it(void) {
  begin(1);
  hold_at(0, 0, RUNS_AND_WANTS);
  cgpu_arbiter_turns_advance(&turns, 700 * MS);
  reshare(0, LIMIT(50));
  REQUIRE(at(700 * MS) == 700 * MS + 2 * QUANTUM && contenders(0) == 2);
  at(700 * MS + 2 * QUANTUM);
  REQUIRE(is_closed(0));
  reshare(0, NORMAL); /* while it drains, without a rival */
  at(700 * MS + 2 * QUANTUM + 1);
  REQUIRE(is_open(0) && deadline(0) == CGPU_TURNS_NEVER && contenders(0) == 1);
}

static void test_policy_set_in_the_middle_of_a_turn_bounds_it(void) {
  begin(2);
  hold_at(0, 0, RUNS_AND_WANTS);
  struct cgpu_policy_settings settings = settings_of(CGPU_POLICY_FAIR);
  settings.max_inst = 4;
  reset(settings);
  uint64_t end = at(0);
  REQUIRE(end == (QUANTUM * 4 + 2) / 3); /* a quarter grows meanwhile */
  at(end);
  REQUIRE(is_closed(0));
  uint64_t again = see(end, 0, WANTS);
  reset(settings_of(CGPU_POLICY_PREEMPTIVE));
  at(again - MS);
  REQUIRE(is_open(0) && !throttled(0));
}

/* The quantum is what a throttled tenant waits for: when it becomes shorter, the wait may be over. */
static void test_shorter_quantum_ends_a_pause(void) {
  begin_with(CGPU_POLICY_FIXED);
  join(PERCENT(50));
  hold_at(0, 0, RUNS_AND_WANTS);
  at(2 * QUANTUM);
  see(2 * QUANTUM, 0, WANTS);
  at(3 * QUANTUM); /* half a quantum is there */
  REQUIRE(is_closed(0));
  struct cgpu_policy_settings settings = settings_of(CGPU_POLICY_FIXED);
  settings.quantum_ns = QUANTUM / 4;
  reset(settings);
  uint64_t next = cgpu_arbiter_turns_decide(&turns);
  REQUIRE(is_open(0) && next > turns.now_ns);
}

static void test_card_goes_to_the_others_while_one_is_throttled(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(LIMIT(10));
  join(NORMAL);
  hold_at(0, 0, RUNS_AND_WANTS);
  see(0, 1, WANTS);
  at(QUANTUM);
  see(QUANTUM + 2 * MS, 0, WANTS); /* throttled */
  see(QUANTUM + 2 * MS, 1, RUNS_AND_WANTS);
  REQUIRE(throttled(0) && is_open(1) && deadline(1) == CGPU_TURNS_NEVER);
  uint64_t again = at(QUANTUM + 3 * MS);
  at(again);
  REQUIRE(!throttled(0) && is_closed(1)); /* its quantum was over long ago */
}

/* Two on the card at once: the ends of budgets and pauses come later than foretold, and are not looked
 * for nanosecond by nanosecond. */
static void test_budgets_of_two_on_the_card_cost_few_looks(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(NORMAL);
  join(LIMIT(29));
  hold_at(0, 0, RUNS_AND_WANTS);
  uint64_t next = see(0, 1, WANTS);
  while (turns.holder == 0) next = at(next); /* its kernel is long: it is passed over */
  see(turns.now_ns, 0, RUNS);
  next = see(turns.now_ns, 1, RUNS_AND_WANTS);
  unsigned looks = 0; /* each pays half */
  for (; !throttled(1) && looks < 1000; looks++) next = at(next);
  REQUIRE(looks > 3 && looks < 30);
}

/* ---- high priority ---- */

static void test_high_priority_ends_anothers_turn_at_once(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(NORMAL);
  join(HIGH);
  hold_at(0, 0, RUNS_AND_WANTS);
  see(MS, 1, WANTS);
  REQUIRE(is_closed(0));
  see(2 * MS, 0, WANTS);
  REQUIRE(is_open(1) && turns.tenant[0].preempted == 1 && turns.tenant[1].preempting == 1);
}

/* 80 % of the time: a quantum of budget lasts five, and takes a quarter of that to come back. */
static void test_high_priority_stops_at_its_ratio(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(NORMAL);
  join(HIGH);
  hold_at(0, 1, RUNS_AND_WANTS);
  REQUIRE(deadline(1) == CGPU_TURNS_NEVER); /* nobody to take it from */
  see(200 * MS, 0, WANTS);
  REQUIRE(deadline(1) <= 200 * MS + QUANTUM && contenders(1) == 2);
  uint64_t next = 200 * MS;
  while (is_open(1)) next = at(next);
  REQUIRE(turns.now_ns == 250 * MS && turns.policy.priority_throttled);
  see(250 * MS, 1, WANTS);
  see(250 * MS, 0, RUNS_AND_WANTS);
  REQUIRE(is_open(0));
  uint64_t back = at(251 * MS);
  while (is_open(0)) back = at(back);
  REQUIRE(turns.now_ns == 250 * MS + 12500000);
  see(turns.now_ns, 0, WANTS);
  REQUIRE(is_open(1));
}

static void test_ratio_bounds_a_turn_that_began_without_a_rival(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(NORMAL);
  join(HIGH);
  struct cgpu_policy_settings settings = settings_of(CGPU_POLICY_PREEMPTIVE);
  settings.prio_ratio = 20;
  reset(settings);
  hold_at(0, 1, RUNS_AND_WANTS);
  see(100 * MS, 0, WANTS); /* a fifth grows meanwhile: 12.5 ms, and not two quanta */
  uint64_t next = 100 * MS;
  while (is_open(1)) next = at(next);
  REQUIRE(turns.now_ns == 112500000);
}

static void test_high_priority_goes_on_when_nobody_else_wants(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(NORMAL);
  join(HIGH);
  hold_at(0, 1, RUNS_AND_WANTS);
  see(0, 0, WANTS);
  uint64_t next = 0;
  while (is_open(1)) next = at(next);
  see(turns.now_ns, 1, WANTS);
  see(turns.now_ns + MS, 0, IDLE);
  REQUIRE(turns.policy.priority_throttled && is_open(1));
  see(turns.now_ns, 1, RUNS_AND_WANTS);
  at(turns.now_ns + 500 * MS);
  REQUIRE(is_open(1) && deadline(1) == CGPU_TURNS_NEVER);
}

static void test_high_priority_never_exceeds_its_ratio_where_work_is_not_conserved(void) {
  begin_with(CGPU_POLICY_FIXED);
  join(HIGH);
  hold_at(0, 0, RUNS_AND_WANTS);
  REQUIRE(deadline(0) == 5 * QUANTUM);
  at(5 * QUANTUM);
  REQUIRE(is_closed(0) && see(5 * QUANTUM, 0, WANTS) == 5 * QUANTUM + 12500000);
}

static void test_priority_given_in_the_middle_of_a_turn_ends_it(void) {
  begin(2);
  hold_at(0, 0, RUNS_AND_WANTS);
  see(0, 1, WANTS);
  cgpu_arbiter_turns_advance(&turns, 2 * MS);
  reshare(1, HIGH);
  at(2 * MS);
  REQUIRE(is_closed(0));
  see(3 * MS, 0, WANTS);
  REQUIRE(is_open(1));
  reshare(1, NORMAL);
  at(3 * MS);
  REQUIRE(is_open(1) && deadline(1) == 3 * MS + QUANTUM);
}

/* ---- stuck with nothing left ---- */

/* Its work waits for a launch of its own. Alone on the card it must not wait until its budget is
 * filled again, which its own work prevents. */
static void test_stuck_capped_tenant_is_rescued_without_a_rival(void) {
  begin_with(CGPU_POLICY_FIXED);
  join(PERCENT(30));
  hold_at(0, 0, RUNS_AND_WANTS);
  uint64_t next = 0;
  while (is_open(0)) next = at(next);
  for (int rescue = 0; rescue < 3; rescue++) {
    while (!is_open(0)) {
      REQUIRE(next < 500 * MS);
      next = at(next);
    }
    REQUIRE(deadline(0) == turns.now_ns + QUANTUM); /* time enough to launch */
    while (turns.holder == 0) next = at(next);
  }
  REQUIRE(turns.tenant[0].turns == 4);
  uint64_t again = see(turns.now_ns, 0, WANTS); /* at last it has finished, and pays for all of it */
  REQUIRE(again - turns.now_ns > turns.now_ns * 2);
}

static void test_stuck_tenant_of_high_priority_is_rescued(void) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  join(HIGH);
  join(NORMAL);
  hold_at(0, 0, RUNS_AND_WANTS);
  see(0, 1, WANTS);
  uint64_t next = 0;
  while (is_open(0)) next = at(next);
  while (!is_open(1)) next = at(next);
  REQUIRE(turns.overruns == 1);
  see(turns.now_ns, 1, RUNS_AND_WANTS);
  for (uint64_t until = turns.now_ns + 200 * MS; !is_open(0);) {
    REQUIRE(turns.now_ns < until);
    next = at(next);
    if (turns.holder == 1 && turns.phase == CGPU_TURNS_DRAINING) next = see(turns.now_ns, 1, WANTS);
    if (is_open(1)) next = see(turns.now_ns, 1, RUNS_AND_WANTS);
  }
  REQUIRE(turns.policy.priority_throttled && deadline(0) == turns.now_ns + QUANTUM);
}

int main(void) {
  test_capped_turn_ends_when_its_budget_is_used_up_and_comes_back();
  test_kernel_beyond_the_budget_is_paid_for();
  test_idle_capped_holder_gives_its_turn_back();
  test_limit_set_in_the_middle_of_a_turn_bounds_it();
  test_policy_set_in_the_middle_of_a_turn_bounds_it();
  test_shorter_quantum_ends_a_pause();
  test_card_goes_to_the_others_while_one_is_throttled();
  test_budgets_of_two_on_the_card_cost_few_looks();
  test_high_priority_ends_anothers_turn_at_once();
  test_high_priority_stops_at_its_ratio();
  test_ratio_bounds_a_turn_that_began_without_a_rival();
  test_high_priority_goes_on_when_nobody_else_wants();
  test_high_priority_never_exceeds_its_ratio_where_work_is_not_conserved();
  test_priority_given_in_the_middle_of_a_turn_ends_it();
  test_stuck_capped_tenant_is_rescued_without_a_rival();
  test_stuck_tenant_of_high_priority_is_rescued();
  return 0;
}

// sources: arbiter/policy.c arbiter/turns.c
/* The turns of one GPU, moment by moment: no threads, no clock; time is what the test says. */
#include "support/turns_fixture.h"

static void test_alone_is_never_interrupted(void) {
  begin(2);
  REQUIRE(see(0, 0, WANTS) == CGPU_TURNS_NEVER);
  REQUIRE(is_open(0));
  REQUIRE(deadline(0) == CGPU_TURNS_NEVER);
  REQUIRE(see(1 * MS, 0, RUNS) == CGPU_TURNS_NEVER);
  REQUIRE(see(500 * MS, 0, IDLE) == CGPU_TURNS_NEVER);
  REQUIRE(is_open(0)); /* still, so that its next launch needs nobody */
  REQUIRE(see(900 * MS, 0, RUNS) == CGPU_TURNS_NEVER);
  REQUIRE(charged(0) == 500 * MS); /* not for the time in which it had nothing to do */
}

static void test_turn_ends_drains_and_goes_on(void) {
  begin(2);
  hold(0);
  REQUIRE(see(1 * MS, 1, WANTS) == QUANTUM);
  REQUIRE(deadline(0) == QUANTUM);
  REQUIRE(contenders(0) == 2);
  REQUIRE(at(8 * MS) == QUANTUM);
  REQUIRE(at(QUANTUM) == 3 * QUANTUM); /* two quanta to drain */
  REQUIRE(is_closed(0) && is_closed(1));
  see(12 * MS, 0, WANTS);
  REQUIRE(is_open(1));
  REQUIRE(charged(0) == 12 * MS); /* until its last work had finished */
  REQUIRE(deadline(1) == 22 * MS);
}

static void test_newcomer_ends_a_long_turn_at_once(void) {
  begin(2);
  hold(0);
  see(700 * MS, 0, RUNS_AND_WANTS);
  see(700 * MS, 1, WANTS);
  REQUIRE(is_closed(0));
  see(705 * MS, 0, WANTS);
  REQUIRE(is_open(1));
}

static void test_idle_holder_hands_over_at_once(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  see(2 * MS, 0, IDLE);
  REQUIRE(is_open(1) && is_closed(0));
}

static void test_holder_that_never_drains_is_passed_over(void) {
  begin(2);
  hold(0);
  see(0, 1, WANTS);
  at(QUANTUM);
  REQUIRE(at(3 * QUANTUM - 1) == 3 * QUANTUM && is_closed(1));
  at(3 * QUANTUM);
  REQUIRE(is_open(1) && turns.overruns == 1);
  REQUIRE(charged(0) == 3 * QUANTUM);
  see(3 * QUANTUM, 1, RUNS_AND_WANTS);
  see(3 * QUANTUM + 8 * MS, 0, IDLE); /* both had the card, and both pay half */
  REQUIRE(charged(0) == 3 * QUANTUM + 4 * MS && charged(1) == 4 * MS);
}

static void test_debt_gives_the_other_several_turns_without_a_pause(void) {
  begin(2);
  hold(0);
  see(0, 1, WANTS);
  at(QUANTUM);
  see(25 * MS, 0, WANTS); /* a kernel of 25 ms */
  see(25 * MS, 1, RUNS_AND_WANTS);
  uint64_t next = at(25 * MS);
  while (is_open(1)) {
    uint64_t now = next;
    next = at(now);
    REQUIRE(next > now && now < 60 * MS);
  }
  see(turns.now_ns, 1, WANTS);
  REQUIRE(is_open(0));
  REQUIRE(charged(1) >= 25 * MS && charged(1) <= 25 * MS + QUANTUM);
}

/* Work that waits for a launch of its own tenant must not wait until the tenant's debt is paid, which
 * it only adds to. */
static void test_stuck_tenant_is_rescued_whatever_it_owes(void) {
  begin(2);
  hold(0);
  see(900 * MS, 0, RUNS_AND_WANTS);
  uint64_t next = see(900 * MS, 1, WANTS), since = 0, waited[4];
  for (int rescue = 0; rescue < 4;) {
    bool before = is_open(0);
    next = at(next);
    if (is_open(1)) see(turns.now_ns, 1, RUNS_AND_WANTS);
    if (turns.phase == CGPU_TURNS_DRAINING && turns.holder == 1) see(turns.now_ns, 1, WANTS);
    if (before && is_closed(0)) since = 0;
    if (!since && turns.holder == 1) since = turns.now_ns;
    if (before || !is_open(0)) continue;
    waited[rescue++] = turns.now_ns - since;
  }
  REQUIRE(waited[0] <= 6 * QUANTUM); /* two rounds and a turn that had begun */
  REQUIRE(waited[1] > waited[0] && waited[2] > waited[1] && waited[3] > waited[2]);
}

/* The arbiter was not there to end the turn: nobody is charged for that. */
static void test_skipped_time_is_nobodys(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  cgpu_arbiter_turns_advance(&turns, 2 * QUANTUM);
  cgpu_arbiter_turns_skip(&turns, 5000 * MS);
  see(5000 * MS, 0, WANTS);
  REQUIRE(is_open(1));
  REQUIRE(charged(0) == 2 * QUANTUM && charged(1) == 0);
}

static void test_rival_that_gives_up_lifts_the_deadline(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  see(2 * MS, 1, IDLE);
  REQUIRE(deadline(0) == CGPU_TURNS_NEVER);
  see(5 * MS, 1, WANTS);
  at(QUANTUM);
  REQUIRE(is_closed(0));
  see(QUANTUM + 1, 1, IDLE); /* while it drains */
  REQUIRE(is_open(0));
}

static void test_holder_that_leaves(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  cgpu_arbiter_turns_leave(&turns, 0);
  at(2 * MS);
  REQUIRE(is_open(1));
}

static void test_native_policy_frees_everybody_and_charges_nobody(void) {
  begin(2);
  hold(0);
  see(0, 1, WANTS);
  reset(settings_of(CGPU_POLICY_NATIVE));
  REQUIRE(at(50 * MS) == CGPU_TURNS_NEVER);
  REQUIRE(cgpu_arbiter_turns_grant(&turns, 0).state == CGPU_GRANT_FREE);
  REQUIRE(cgpu_arbiter_turns_grant(&turns, 1).state == CGPU_GRANT_FREE);
  REQUIRE(charged(0) == 0 && charged(1) == 0);
  reset(settings_of(CGPU_POLICY_PREEMPTIVE));
  at(51 * MS);
  REQUIRE(is_open(1) && is_closed(0));
}

/* The question whether the holder goes on is decided a quarter of a quantum early. */
static void test_extension_is_taken_back_for_whoever_wakes_up(void) {
  begin(3);
  cgpu_arbiter_policy_charge(&turns.policy, 1, 100 * MS); /* 1 owes a lot: 0 goes before it */
  hold_at(MS, 0, RUNS_AND_WANTS);
  uint64_t next = see(MS, 1, WANTS);
  REQUIRE(next == MS + QUANTUM - QUANTUM / 4);
  at(next);
  REQUIRE(deadline(0) == MS + 2 * QUANTUM && turns.tenant[0].turns == 2);
  uint64_t woken = next + MS;
  see(woken, 2, WANTS);
  REQUIRE(deadline(0) == MS + QUANTUM && turns.tenant[0].turns == 1);
  at(MS + QUANTUM);
  see(MS + QUANTUM, 0, WANTS);
  REQUIRE(is_open(2) && turns.now_ns - woken < QUANTUM);
}

static void test_extension_stays_for_whoever_wakes_up_in_debt(void) {
  begin(3);
  cgpu_arbiter_policy_charge(&turns.policy, 1, 100 * MS);
  cgpu_arbiter_policy_charge(&turns.policy, 2, 100 * MS);
  hold_at(MS, 0, RUNS_AND_WANTS);
  uint64_t next = see(MS, 1, WANTS);
  at(next);
  see(next + MS, 2, WANTS);
  REQUIRE(deadline(0) == MS + 2 * QUANTUM && turns.tenant[0].turns == 2);
}

/* Whoever was stopped, and whoever came next. */
static void test_counts_of_turns_ended_by_time(void) {
  begin(2);
  hold_at(0, 0, RUNS_AND_WANTS);
  see(0, 1, WANTS);
  at(QUANTUM);
  REQUIRE(turns.tenant[0].preempted == 0); /* not before it has ended */
  see(12 * MS, 0, WANTS);
  REQUIRE(is_open(1) && turns.tenant[0].preempted == 1 && turns.tenant[1].preempting == 1);
  see(13 * MS, 1, RUNS);
  see(14 * MS, 1, IDLE); /* ends by itself */
  REQUIRE(is_open(0) && turns.tenant[1].preempted == 0 && turns.tenant[0].preempting == 0);
  REQUIRE(turns.tenant[0].turns == 2 && turns.tenant[1].turns == 1);
}

static void test_turn_that_goes_on_after_all_was_not_ended(void) {
  begin(2);
  hold_at(0, 0, RUNS_AND_WANTS);
  see(0, 1, WANTS);
  at(QUANTUM);
  see(11 * MS, 1, IDLE);
  REQUIRE(is_open(0) && turns.tenant[0].preempted == 0);
  see(15 * MS, 0, IDLE); /* and now it ends, but not by time */
  see(15 * MS, 1, WANTS);
  REQUIRE(is_open(1) && turns.tenant[0].preempted == 0 && turns.tenant[1].preempting == 0);
}

/* What a tenant got and what it waited add up to the time in which it had work. */
static void test_waiting_is_wanting_without_holding(void) {
  begin(2);
  hold_at(0, 0, RUNS_AND_WANTS);
  see(MS, 1, WANTS);
  at(QUANTUM);
  see(14 * MS, 0, WANTS); /* drained from 10 to 14 ms, and wanted more */
  see(20 * MS, 1, RUNS_AND_WANTS);
  REQUIRE(charged(0) == 14 * MS && turns.tenant[0].waited_ns == 6 * MS);
  REQUIRE(charged(1) == 6 * MS && turns.tenant[1].waited_ns == 13 * MS);
}

static struct cgpu_policy_share any_share(void) {
  return (struct cgpu_policy_share){.weight = 1 + (uint32_t)rand() % 1024,
                                    .compute_percent = (uint32_t)rand() % 101,
                                    .compute_limit_percent = (uint32_t)(rand() % 2 * rand() % 101),
                                    .priority = rand() % 4 == 0};
}

static void change_something(void) {
  struct cgpu_policy_settings settings = settings_of((uint32_t)rand() % 6);
  settings.max_inst = 1 + (uint32_t)rand() % 20;
  settings.prio_ratio = 20 + (uint32_t)rand() % 80;
  settings.quantum_ns = (uint64_t)(1 + rand() % 20) * MS;
  if (rand() % 2) reset(settings);
  else reshare(rand() % 6, any_share());
}

static void check_invariants(void) {
  int opened = 0;
  bool eligible = false;
  for (int j = 0; j < 6; j++) {
    opened += is_open(j);
    eligible = eligible || cgpu_arbiter_policy_eligible(&turns.policy, j);
    REQUIRE(turns.policy.tenant[j].backlogged ==
            (turns.tenant[j].sight.want || (turns.holder == j && turns.tenant[j].sight.busy)));
  }
  bool native = turns.policy.settings.kind == CGPU_POLICY_NATIVE;
  REQUIRE(opened == (turns.phase == CGPU_TURNS_OPEN && !native));
  REQUIRE(native || !eligible || turns.phase != CGPU_TURNS_IDLE);
  REQUIRE(turns.phase != CGPU_TURNS_DRAINING || turns.tenant[turns.holder].sight.busy);
}

/* Whatever is observed and whatever is changed, the machine settles, at most one tenant holds an open
 * grant, and somebody does whenever somebody may have the card and nobody drains. */
static void test_invariants_under_random_observations(void) {
  srand(7);
  begin(6);
  uint64_t now = 0;
  for (int i = 0; i < 200000; i++) {
    now += (uint64_t)(rand() % 4000) * 1000;
    uint64_t next = see(now, rand() % 6, rand() % 4);
    REQUIRE(next > now);
    check_invariants();
    if (rand() % 100) continue;
    change_something();
    decide();
    check_invariants();
  }
}

/* What is known to take longer than a slot is waited for, on top of the two quanta; not where the tenant
 * waits for another card, whose holder may wait for this one. */
static void test_long_work_is_waited_for_unless_another_card_is(void) {
  for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
    begin(2);
    hold(0);
    see(0, 1, WANTS);
    see_sight(QUANTUM, 0, (struct cgpu_turns_sight){.busy = true, .elsewhere = elsewhere, .long_ns = 100 * MS});
    at(3 * QUANTUM);
    REQUIRE(is_open(1) == (elsewhere == 1));
    at(3 * QUANTUM + 100 * MS - 1);
    REQUIRE(is_open(1) == (elsewhere == 1));
    at(3 * QUANTUM + 100 * MS);
    REQUIRE(is_open(1));
  }
}

/* A holder that launched since it was last seen idle is not passed over for that. */
static void test_holder_is_looked_at_before_it_is_passed_over(void) {
  begin(2);
  hold_at(0, 0, IDLE);
  cgpu_arbiter_turns_advance(&turns, 1 * MS);
  struct cgpu_turns_sight wants = {.want = true}, runs = {.busy = true};
  cgpu_arbiter_turns_observe(&turns, 1, &wants);
  cgpu_arbiter_turns_decide(&turns);
  REQUIRE(is_closed(0) && is_closed(1));
  cgpu_arbiter_turns_observe(&turns, 0, &runs);
  cgpu_arbiter_turns_decide(&turns);
  REQUIRE(is_closed(0) && is_closed(1));
  see(2 * MS, 0, IDLE);
  REQUIRE(is_open(1));
}

/* A tenant's turn in which it works for a part of the time. */
static uint64_t leaky_turn(uint64_t now, int who, uint64_t *worked) {
  struct cgpu_turns_sight sight = {.busy = true, .worked_ns = *worked};
  see_sight(now, who, sight);
  *worked += QUANTUM / 2;
  sight.worked_ns = *worked;
  sight.want = true;
  see_sight(now + QUANTUM, who, sight);
  sight.busy = false;
  see_sight(now + QUANTUM, who, sight);
  return now + QUANTUM;
}

static void begin_leaky(uint32_t weight) {
  struct cgpu_policy_settings settings = settings_of(CGPU_POLICY_WEIGHTED);
  uint64_t worked[3] = {0};
  settings.share_slots = 1;
  cgpu_arbiter_turns_init(&turns, &settings, 0);
  for (int i = 0; i < 3; i++) REQUIRE(join((struct cgpu_policy_share){.weight = i ? 1 : weight}) == i);
  for (int i = 0; i < 3; i++) see(0, i, WANTS);
  for (uint64_t now = 0, turn = 0; turn < 3; turn++) {
    int who = turns.holder;
    now = leaky_turn(now, who, &worked[who]);
  }
}

/* Two that are known to leave the card idle for half of their turns fill it together; a third waits. */
static void test_slots_are_shared_by_those_that_leave_the_card_idle(void) {
  begin_leaky(1);
  REQUIRE(is_open(0) + is_open(1) + is_open(2) == 2);
  int third = is_closed(0) ? 0 : is_closed(1) ? 1 : 2;
  uint64_t before[3] = {charged(0), charged(1), charged(2)};
  at(4 * QUANTUM);
  for (int i = 0; i < 3; i++) REQUIRE(charged(i) - before[i] == (i == third ? 0 : QUANTUM / 2));
  REQUIRE(is_open(third));
}

static void test_shared_slot_ends_for_all_and_drains_for_all(void) {
  begin_leaky(1);
  int guest = turns.holder == 0 ? 1 : 0;
  while (!turns.tenant[guest].guest) guest++;
  see(3 * QUANTUM + MS, guest, RUNS_AND_WANTS);
  at(4 * QUANTUM);
  REQUIRE(is_closed(0) && is_closed(1) && is_closed(2));
  see(4 * QUANTUM + MS, guest, WANTS);
  REQUIRE(is_open(0) + is_open(1) + is_open(2) >= 2);
}

static void test_shared_slots_keep_to_the_weights(void) {
  begin_leaky(3);
  see(3 * QUANTUM, 2, IDLE);
  uint64_t before[2] = {charged(0), charged(1)};
  for (uint64_t now = 3 * QUANTUM; now < 403 * QUANTUM; now += MS) at(now);
  double heavy = (double)(charged(0) - before[0]), light = (double)(charged(1) - before[1]);
  REQUIRE(heavy / light > 2.9 && heavy / light < 3.1);
}

static void test_slots_are_not_shared_unless_the_settings_say_so(void) {
  begin_leaky(1);
  reset(settings_of(CGPU_POLICY_WEIGHTED));
  at(4 * QUANTUM);
  REQUIRE(is_open(0) + is_open(1) + is_open(2) == 1);
}

/* Handing over is part of the quantum that somebody who wakes up and owes nothing waits at most. */
static void test_quantum_that_has_just_begun_ends_sooner_for_who_wakes_up(void) {
  begin(3);
  hold(0);
  see(0, 1, WANTS);
  see(QUANTUM, 0, WANTS);
  REQUIRE(is_open(1) && deadline(1) == 2 * QUANTUM);
  see(QUANTUM + MS / 4, 2, WANTS);
  REQUIRE(deadline(1) == 2 * QUANTUM - MS / 4);
  see(QUANTUM + MS, 2, IDLE);
  see(QUANTUM + 2 * MS, 2, WANTS); /* the rest is shorter than a quantum anyhow */
  REQUIRE(deadline(1) <= 2 * QUANTUM);
}

int main(void) {
  test_quantum_that_has_just_begun_ends_sooner_for_who_wakes_up();
  test_slots_are_shared_by_those_that_leave_the_card_idle();
  test_shared_slot_ends_for_all_and_drains_for_all();
  test_shared_slots_keep_to_the_weights();
  test_slots_are_not_shared_unless_the_settings_say_so();
  test_long_work_is_waited_for_unless_another_card_is();
  test_holder_is_looked_at_before_it_is_passed_over();
  test_alone_is_never_interrupted();
  test_turn_ends_drains_and_goes_on();
  test_newcomer_ends_a_long_turn_at_once();
  test_idle_holder_hands_over_at_once();
  test_holder_that_never_drains_is_passed_over();
  test_debt_gives_the_other_several_turns_without_a_pause();
  test_stuck_tenant_is_rescued_whatever_it_owes();
  test_skipped_time_is_nobodys();
  test_rival_that_gives_up_lifts_the_deadline();
  test_holder_that_leaves();
  test_native_policy_frees_everybody_and_charges_nobody();
  test_extension_is_taken_back_for_whoever_wakes_up();
  test_extension_stays_for_whoever_wakes_up_in_debt();
  test_counts_of_turns_ended_by_time();
  test_turn_that_goes_on_after_all_was_not_ended();
  test_waiting_is_wanting_without_holding();
  test_invariants_under_random_observations();
  return 0;
}

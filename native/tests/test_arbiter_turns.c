// sources: arbiter/policy.c arbiter/turns.c
/* The turns of one GPU, moment by moment: no threads, no clock; time is what the test says. */
#include "../arbiter/turns.h"

#include <stdio.h>
#include <stdlib.h>

#include "region.h"

#define MS 1000000ull
#define QUANTUM (10 * MS)
#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

enum { IDLE, WANTS, RUNS, RUNS_AND_WANTS };

static struct cgpu_turns turns;

static int tenant(void) { return cgpu_arbiter_policy_join(&turns.policy, 1, 0, 0); }

static void begin(int tenants) {
  cgpu_arbiter_turns_init(&turns, CGPU_POLICY_PREEMPTIVE, QUANTUM, 0);
  for (int i = 0; i < tenants; i++) CHECK(tenant() == i);
}

/* At `now` the tenant is seen in `state`; returns when to look again. */
static uint64_t see(uint64_t now, int who, int state) {
  cgpu_arbiter_turns_advance(&turns, now);
  cgpu_arbiter_turns_observe(&turns, who, state == WANTS || state == RUNS_AND_WANTS, state >= RUNS);
  return cgpu_arbiter_turns_decide(&turns);
}

static uint64_t at(uint64_t now) {
  cgpu_arbiter_turns_advance(&turns, now);
  return cgpu_arbiter_turns_decide(&turns);
}

/* The tenant asks for the idle card, gets it, and launches. */
static void hold(int who) {
  see(0, who, WANTS);
  see(0, who, RUNS);
}

static uint32_t state(int who) { return cgpu_arbiter_turns_grant(&turns, who).state; }
static uint64_t charged(int who) { return turns.policy.tenant[who].charged_ns; }

static void test_alone_is_never_interrupted(void) {
  begin(2);
  CHECK(see(0, 0, WANTS) == CGPU_TURNS_NEVER);
  CHECK(state(0) == CGPU_GRANT_OPEN);
  CHECK(cgpu_arbiter_turns_grant(&turns, 0).deadline_ns == CGPU_TURNS_NEVER);
  CHECK(see(1 * MS, 0, RUNS) == CGPU_TURNS_NEVER);
  CHECK(see(500 * MS, 0, IDLE) == CGPU_TURNS_NEVER);
  CHECK(state(0) == CGPU_GRANT_OPEN); /* still, so that its next launch needs nobody */
  CHECK(see(900 * MS, 0, RUNS) == CGPU_TURNS_NEVER);
  CHECK(charged(0) == 500 * MS); /* not for the time in which it had nothing to do */
}

static void test_turn_ends_drains_and_goes_on(void) {
  begin(2);
  hold(0);
  CHECK(see(1 * MS, 1, WANTS) == QUANTUM);
  CHECK(cgpu_arbiter_turns_grant(&turns, 0).deadline_ns == QUANTUM);
  CHECK(cgpu_arbiter_turns_grant(&turns, 0).contenders == 2);
  CHECK(at(8 * MS) == QUANTUM);
  CHECK(at(QUANTUM) == 3 * QUANTUM); /* two quanta to drain */
  CHECK(state(0) == CGPU_GRANT_CLOSED && state(1) == CGPU_GRANT_CLOSED);
  see(12 * MS, 0, WANTS);
  CHECK(state(1) == CGPU_GRANT_OPEN);
  CHECK(charged(0) == 12 * MS); /* until its last work had finished */
  CHECK(cgpu_arbiter_turns_grant(&turns, 1).deadline_ns == 22 * MS);
}

static void test_newcomer_ends_a_long_turn_at_once(void) {
  begin(2);
  hold(0);
  see(700 * MS, 0, RUNS_AND_WANTS);
  see(700 * MS, 1, WANTS);
  CHECK(state(0) == CGPU_GRANT_CLOSED);
  see(705 * MS, 0, WANTS);
  CHECK(state(1) == CGPU_GRANT_OPEN);
}

static void test_idle_holder_hands_over_at_once(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  see(2 * MS, 0, IDLE);
  CHECK(state(1) == CGPU_GRANT_OPEN && state(0) == CGPU_GRANT_CLOSED);
}

static void test_holder_that_never_drains_is_passed_over(void) {
  begin(2);
  hold(0);
  see(0, 1, WANTS);
  at(QUANTUM);
  CHECK(at(3 * QUANTUM - 1) == 3 * QUANTUM && state(1) == CGPU_GRANT_CLOSED);
  at(3 * QUANTUM);
  CHECK(state(1) == CGPU_GRANT_OPEN && turns.overruns == 1);
  CHECK(charged(0) == 3 * QUANTUM);
  see(3 * QUANTUM, 1, RUNS_AND_WANTS);
  see(3 * QUANTUM + 8 * MS, 0, IDLE); /* both had the card, and both pay half */
  CHECK(charged(0) == 3 * QUANTUM + 4 * MS && charged(1) == 4 * MS);
}

static void test_debt_gives_the_other_several_turns_without_a_pause(void) {
  begin(2);
  hold(0);
  see(0, 1, WANTS);
  at(QUANTUM);
  see(25 * MS, 0, WANTS); /* a kernel of 25 ms */
  see(25 * MS, 1, RUNS_AND_WANTS);
  uint64_t next = at(25 * MS);
  while (state(1) == CGPU_GRANT_OPEN) {
    uint64_t now = next;
    next = at(now);
    CHECK(next > now && now < 60 * MS);
  }
  see(turns.now_ns, 1, WANTS);
  CHECK(state(0) == CGPU_GRANT_OPEN);
  CHECK(charged(1) >= 25 * MS && charged(1) <= 25 * MS + QUANTUM);
}

/* Work that waits for a launch of its own tenant must not wait until the tenant's debt is paid, which
 * it only adds to. */
static void test_stuck_tenant_is_rescued_whatever_it_owes(void) {
  begin(2);
  hold(0);
  see(900 * MS, 0, RUNS_AND_WANTS);
  uint64_t next = see(900 * MS, 1, WANTS), since = 0, waited[4];
  for (int rescue = 0; rescue < 4;) {
    uint32_t before = state(0);
    next = at(next);
    if (state(1) == CGPU_GRANT_OPEN) see(turns.now_ns, 1, RUNS_AND_WANTS);
    if (turns.phase == CGPU_TURNS_DRAINING && turns.holder == 1) see(turns.now_ns, 1, WANTS);
    if (before == CGPU_GRANT_OPEN && state(0) == CGPU_GRANT_CLOSED) since = 0;
    if (!since && turns.holder == 1) since = turns.now_ns;
    if (before == CGPU_GRANT_OPEN || state(0) != CGPU_GRANT_OPEN) continue;
    waited[rescue++] = turns.now_ns - since;
  }
  CHECK(waited[0] <= 6 * QUANTUM); /* two rounds and a turn that had begun */
  CHECK(waited[1] > waited[0] && waited[2] > waited[1] && waited[3] > waited[2]);
}

/* The arbiter was not there to end the turn: nobody is charged for that. */
static void test_skipped_time_is_nobodys(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  cgpu_arbiter_turns_advance(&turns, 2 * QUANTUM);
  cgpu_arbiter_turns_skip(&turns, 5000 * MS);
  see(5000 * MS, 0, WANTS);
  CHECK(state(1) == CGPU_GRANT_OPEN);
  CHECK(charged(0) == 2 * QUANTUM && charged(1) == 0);
}

static void test_rival_that_gives_up_lifts_the_deadline(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  see(2 * MS, 1, IDLE);
  CHECK(cgpu_arbiter_turns_grant(&turns, 0).deadline_ns == CGPU_TURNS_NEVER);
  see(5 * MS, 1, WANTS);
  at(QUANTUM);
  CHECK(state(0) == CGPU_GRANT_CLOSED);
  see(QUANTUM + 1, 1, IDLE); /* while it drains */
  CHECK(state(0) == CGPU_GRANT_OPEN);
}

static void test_holder_that_leaves(void) {
  begin(2);
  hold(0);
  see(1 * MS, 1, WANTS);
  cgpu_arbiter_turns_leave(&turns, 0);
  at(2 * MS);
  CHECK(state(1) == CGPU_GRANT_OPEN);
}

static void test_native_policy_frees_everybody_and_charges_nobody(void) {
  begin(2);
  hold(0);
  see(0, 1, WANTS);
  cgpu_arbiter_turns_policy(&turns, CGPU_POLICY_NATIVE, QUANTUM);
  CHECK(at(50 * MS) == CGPU_TURNS_NEVER);
  CHECK(state(0) == CGPU_GRANT_FREE && state(1) == CGPU_GRANT_FREE);
  CHECK(charged(0) == 0 && charged(1) == 0);
  cgpu_arbiter_turns_policy(&turns, CGPU_POLICY_PREEMPTIVE, QUANTUM);
  at(51 * MS);
  CHECK(state(1) == CGPU_GRANT_OPEN && state(0) == CGPU_GRANT_CLOSED);
}

/* Whatever is observed, the machine settles, at most one tenant holds an open grant, and somebody
 * does whenever somebody wants the card and nobody drains. */
static void test_invariants_under_random_observations(void) {
  srand(7);
  begin(6);
  uint64_t now = 0;
  for (int i = 0; i < 200000; i++) {
    now += (uint64_t)(rand() % 4000) * 1000;
    uint64_t next = see(now, rand() % 6, rand() % 4);
    CHECK(next > now);
    int open = 0;
    bool wanted = false;
    for (int j = 0; j < 6; j++) {
      open += state(j) == CGPU_GRANT_OPEN;
      wanted = wanted || turns.tenant[j].want;
    }
    CHECK(open == (turns.phase == CGPU_TURNS_OPEN));
    CHECK(!wanted || turns.phase != CGPU_TURNS_IDLE);
    CHECK(turns.phase != CGPU_TURNS_DRAINING || turns.tenant[turns.holder].busy);
  }
}

int main(void) {
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
  test_invariants_under_random_observations();
  return 0;
}

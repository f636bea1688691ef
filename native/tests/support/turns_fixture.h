/* turns_fixture.h - one GPU's turns for tests: no threads, no clock; time is what the test says. */
#ifndef CGPU_TESTS_TURNS_FIXTURE_H
#define CGPU_TESTS_TURNS_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>

#include "region.h"
#include "turns.h"

#define MS 1000000ull
#define QUANTUM (10 * MS)
#define REQUIRE(condition)                                                          \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

enum { IDLE, WANTS, RUNS, RUNS_AND_WANTS };

static struct cgpu_turns turns;

static inline struct cgpu_policy_settings settings_of(uint32_t kind) {
  return (struct cgpu_policy_settings){.kind = kind, .max_inst = 20, .prio_ratio = 80, .quantum_ns = QUANTUM};
}

static inline void begin_with(uint32_t kind) {
  struct cgpu_policy_settings settings = settings_of(kind);
  cgpu_arbiter_turns_init(&turns, &settings, 0);
}

static inline int join(struct cgpu_policy_share share) {
  if (!share.weight) share.weight = 1;
  return cgpu_arbiter_turns_join(&turns, &share);
}

static inline void begin(int tenants) {
  begin_with(CGPU_POLICY_PREEMPTIVE);
  for (int i = 0; i < tenants; i++) REQUIRE(join((struct cgpu_policy_share){0}) == i);
}

static inline void reshare(int tenant, struct cgpu_policy_share share) {
  if (!share.weight) share.weight = 1;
  cgpu_arbiter_turns_share(&turns, tenant, &share);
}

static inline void reset(struct cgpu_policy_settings settings) { cgpu_arbiter_turns_set(&turns, &settings); }

/* A holder whose turn was closed is seen as it was before. */
static inline uint64_t decide(void) {
  uint64_t next = cgpu_arbiter_turns_decide(&turns);
  while (turns.unseen) {
    int who = __builtin_ctz(turns.unseen);
    struct cgpu_turns_sight sight = turns.tenant[who].sight;
    cgpu_arbiter_turns_observe(&turns, who, &sight);
    next = cgpu_arbiter_turns_decide(&turns);
  }
  return next;
}

static inline uint64_t see_sight(uint64_t now, int who, struct cgpu_turns_sight sight) {
  cgpu_arbiter_turns_advance(&turns, now);
  cgpu_arbiter_turns_observe(&turns, who, &sight);
  return decide();
}

/* At `now` the tenant is seen in `state`; returns when to look again. */
static inline uint64_t see(uint64_t now, int who, int state) {
  return see_sight(now, who,
                   (struct cgpu_turns_sight){.want = state == WANTS || state == RUNS_AND_WANTS, .busy = state >= RUNS});
}

static inline uint64_t at(uint64_t now) {
  cgpu_arbiter_turns_advance(&turns, now);
  return decide();
}

/* The tenant asks for the idle card at `now`, gets it, and launches. */
static inline void hold_at(uint64_t now, int who, int state) {
  see(now, who, WANTS);
  see(now, who, state);
}

static inline void hold(int who) { hold_at(0, who, RUNS); }

static inline bool is_open(int who) { return cgpu_arbiter_turns_grant(&turns, who).state == CGPU_GRANT_OPEN; }
static inline bool is_closed(int who) { return cgpu_arbiter_turns_grant(&turns, who).state == CGPU_GRANT_CLOSED; }
static inline uint64_t deadline(int who) { return cgpu_arbiter_turns_grant(&turns, who).deadline_ns; }
static inline uint32_t contenders(int who) { return cgpu_arbiter_turns_grant(&turns, who).contenders; }
static inline uint64_t charged(int who) { return turns.policy.tenant[who].charged_ns; }
static inline bool throttled(int who) { return turns.policy.tenant[who].throttled; }

#endif

// sources: arbiter/policy.c arbiter/turns.c
/* The arithmetic of turns with what tenants tell of themselves: a launch of any length, any work done. Whoever has
 * the card loses it in the end, and the arbiter is not kept from sleeping. */
#include <stdio.h>

#include "region.h"
#include "reading.h"
#include "turns.h"

#define MS 1000000ull
#define STEPS_MAX 150
#define ROUNDS_MAX 64 /* of decisions and observations at one moment */

#define PATIENCE_QUANTA (2 + 50) /* a holder that has not drained by then is passed over: turns.h */

static struct cgpu_turns turns;
static bool joined[CGPU_POLICY_TENANTS];

static struct cgpu_policy_settings settings_of(struct reading *input) {
  return (struct cgpu_policy_settings){.kind = (uint32_t)take(input, 1) % 6,
                                       .max_inst = 1 + (uint32_t)take(input, 1) % CGPU_POLICY_TENANTS,
                                       .prio_ratio = 20 + (uint32_t)take(input, 1) % 80,
                                       .share_slots = (uint32_t)take(input, 1) % 2,
                                       .quantum_ns = MS * (1 + take(input, 1) % 100)};
}

static struct cgpu_policy_share share_of(struct reading *input) {
  return (struct cgpu_policy_share){.weight = 1 + (uint32_t)take(input, 2) % CGPU_WEIGHT_MAX,
                                    .compute_percent = (uint32_t)take(input, 1) % 101,
                                    .compute_limit_percent = (uint32_t)take(input, 1) % 101,
                                    .priority = (uint32_t)take(input, 1) % 2};
}

static uint64_t quantum_ns(void) { return turns.policy.settings.quantum_ns; }

static void decide(void) {
  for (int rounds = 0; rounds < ROUNDS_MAX; rounds++) {
    uint64_t next = cgpu_arbiter_turns_decide(&turns);
    if (!turns.unseen) {
      HOLDS(next > turns.now_ns);
      /* However long its launches are said to be. */
      if (turns.phase == CGPU_TURNS_DRAINING) HOLDS(turns.now_ns < turns.closed_ns + PATIENCE_QUANTA * quantum_ns());
      return;
    }
    int who = __builtin_ctz(turns.unseen);
    struct cgpu_turns_sight sight = turns.tenant[who].sight;
    cgpu_arbiter_turns_observe(&turns, who, &sight);
  }
  HOLDS(!"the decisions of a moment come to an end");
}

static void observe(struct reading *input, int who) {
  unsigned flags = (unsigned)take(input, 1);
  struct cgpu_turns_sight sight = {.want = flags & 1, .busy = flags & 2, .elsewhere = flags & 4};
  if (flags & 8) sight.long_ns = take(input, 8);
  if (flags & 16) sight.worked_ns = take(input, 8);
  if (joined[who]) cgpu_arbiter_turns_observe(&turns, who, &sight);
}

static void change(struct reading *input, int who) {
  struct cgpu_policy_share share = share_of(input);
  if (!joined[who]) {
    int place = cgpu_arbiter_turns_join(&turns, &share);
    if (place >= 0) joined[place] = true;
  } else if (take(input, 1) % 2) {
    cgpu_arbiter_turns_share(&turns, who, &share);
  } else {
    cgpu_arbiter_turns_leave(&turns, who);
    joined[who] = false;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct reading input = {data, data + size};
  struct cgpu_policy_settings settings = settings_of(&input);
  uint64_t expected_ns;
  memset(joined, 0, sizeof joined);
  cgpu_arbiter_turns_init(&turns, &settings, 0);
  for (int step = 0; step < STEPS_MAX && input.at < input.end; step++) {
    unsigned kind = (unsigned)take(&input, 1);
    int who = (int)(kind >> 3) % CGPU_POLICY_TENANTS;
    switch (kind % 8) {
      case 0: change(&input, who); break;
      case 1: settings = settings_of(&input), cgpu_arbiter_turns_set(&turns, &settings); break;
      case 2: cgpu_arbiter_turns_skip(&turns, turns.now_ns + take(&input, 5)); break;
      case 3:
      case 4: cgpu_arbiter_turns_advance(&turns, turns.now_ns + take(&input, 4)); break;
      default: observe(&input, who); break;
    }
    decide();
    cgpu_arbiter_turns_expected(&turns, &expected_ns);
    if (joined[who]) HOLDS(cgpu_arbiter_turns_grant(&turns, who).state <= CGPU_GRANT_FREE);
  }
  return 0;
}

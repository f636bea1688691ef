// Charging against a pure model: ten million random operations in all; totals must be exact.
// sources: tests/support/no_driver.c shim/account.c shim/region.c shim/region_slot.c shim/say.c
#include <pthread.h>
#include <sys/wait.h>

#include "../shim/memory.h"
#include "charge.h"
#include "support/check.h"
#include "support/make_region.h"

#define SCALE (SANITIZED ? 100 : 1) /* sanitized code does as much less as it is slower */
#define MODEL_OPERATIONS (4000000 / SCALE)
#define SHARED_OPERATIONS (6000000 / SCALE)
#define PROCESSES 4
#define THREADS 2
#define QUOTA_UNITS 100000u
#define HELD 64 /* blocks that one thread holds at a time */

static uint64_t next_random(uint64_t *state) { /* xorshift64* */
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1dull;
}

/* ---- one thread, several slots, and what each operation must do ---- */

static void against_a_model(void) {
  enum { SLOTS = 6, GPUS = 2 };
  static struct cgpu_usage usage;
  uint64_t model[SLOTS][GPUS] = {{0}}, random = 88172645463325252ull;
  for (int i = 0; i < MODEL_OPERATIONS; i++) {
    uint64_t dice = next_random(&random);
    unsigned slot = dice % SLOTS, gpu = dice / SLOTS % GPUS;
    uint64_t used = 0, limit = (dice >> 20) % 10 ? QUOTA_UNITS : QUOTA_UNITS / 2; /* now and then a smaller quota */
    for (int k = 0; k < SLOTS; k++) used += model[k][gpu];
    int64_t delta = (int64_t)((dice >> 24) % 3000);
    bool give_back = dice >> 63;
    if (give_back) delta = -(int64_t)(model[slot][gpu] ? (dice >> 24) % (model[slot][gpu] + 1) : 0);
    bool fits = delta <= 0 || used + (uint64_t)delta <= limit;
    bool done = cgpu_charge(&usage, slot, gpu, delta, limit);
    CHECK(done == fits, "operation %d", i);
    if (done) model[slot][gpu] += (uint64_t)delta, used += (uint64_t)delta;
    CHECK(cgpu_charge_units(usage.slot[slot].gpu[gpu].charge) == model[slot][gpu], "operation %d", i);
    CHECK(cgpu_account_used(usage.gpu[gpu].account) == used, "operation %d", i);
    if (failures) return;
  }
}

static void limits(void) {
  static struct cgpu_usage usage;
  CHECK(cgpu_charge(&usage, 3, 0, 10, 10));
  CHECK(!cgpu_charge(&usage, 4, 0, 1, 10));
  CHECK(cgpu_charge(&usage, 3, 0, -100, 0), "more than is held: all of it");
  CHECK(cgpu_account_used(usage.gpu[0].account) == 0 && cgpu_charge_units(usage.slot[3].gpu[0].charge) == 0);
  CHECK(cgpu_charge(&usage, 3, 0, (int64_t)CGPU_MAX_UNITS, UINT64_MAX), "the word's whole range");
  CHECK(!cgpu_charge(&usage, 3, 0, 1, UINT64_MAX), "and no unit beyond");
  CHECK(cgpu_charge(&usage, 3, 0, -(int64_t)CGPU_MAX_UNITS, 0));
}

/* ---- several processes with several threads, through the shim's own account ---- */

static void *churn(void *argument) {
  uint64_t random = (uint64_t)(uintptr_t)argument, held[HELD] = {0}, total = 0;
  for (int i = 0; i < SHARED_OPERATIONS / PROCESSES / THREADS; i++) {
    uint64_t dice = next_random(&random), bytes = (1 + (dice >> 24) % 1000) * CGPU_UNIT_BYTES;
    unsigned k = dice % HELD;
    bool estimate = k % 2;
    if (!held[k]) {
      if ((estimate ? cg_reserve_estimate : cg_reserve)(0, bytes) == CG_GRANTED) held[k] = bytes;
      continue;
    }
    (estimate ? cg_return_estimate : cg_return)(0, held[k]);
    held[k] = 0;
  }
  for (int k = 0; k < HELD; k++) total += held[k];
  return (void *)(uintptr_t)total;
}

struct outcome {
  pid_t pid;
  uint64_t held_bytes;
};

static void work(int answer, unsigned number) {
  pthread_t threads[THREADS];
  struct outcome outcome = {.pid = getpid()};
  for (uintptr_t i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, churn, (void *)(0x1234567 + number * THREADS + i))) _exit(2);
  for (int i = 0; i < THREADS; i++) {
    void *held;
    pthread_join(threads[i], &held);
    outcome.held_bytes += (uintptr_t)held;
  }
  _exit(write(answer, &outcome, sizeof outcome) != sizeof outcome);
}

static uint64_t charge_of(const struct cgpu_usage *usage, pid_t pid) {
  for (unsigned slot = 0; slot < CGPU_MAX_SLOTS; slot++)
    if (usage->slot[slot].header.state == CGPU_SLOT_LIVE && usage->slot[slot].header.pid == (uint32_t)pid)
      return cgpu_charge_units(usage->slot[slot].gpu[0].charge) * CGPU_UNIT_BYTES;
  return UINT64_MAX;
}

static void processes_and_threads(void) {
  struct made_region made = make_region(1, QUOTA_UNITS * CGPU_UNIT_BYTES);
  setenv("CGPU_REGION", made.folder, 1);
  /* An agent lives, so what a process holds as it ends is not reclaimed by those that still run. */
  made.grants->header.heartbeat_ns = UINT64_MAX / 2;
  int answers[2], running = PROCESSES;
  if (pipe(answers)) exit(2);
  fflush(stdout);
  for (unsigned i = 0; i < PROCESSES; i++)
    if (!fork()) work(answers[1], i);
  uint64_t looked = 0, above = 0, total = 0;
  while (running) { /* the quota holds at every moment */
    above += cgpu_account_used(cgpu_load(&made.usage->gpu[0].account)) > QUOTA_UNITS;
    looked++;
    int status;
    if (looked % 1024) continue;
    while (running && waitpid(-1, &status, WNOHANG) > 0) {
      CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a process failed: %x", status);
      running--;
    }
    sched_yield();
  }
  CHECK(above == 0, "used was above the quota %llu times", (unsigned long long)above);
  for (int i = 0; i < PROCESSES && !failures; i++) {
    struct outcome outcome;
    CHECK(read(answers[0], &outcome, sizeof outcome) == sizeof outcome);
    CHECK(charge_of(made.usage, outcome.pid) == outcome.held_bytes, "process %d", outcome.pid);
    total += outcome.held_bytes;
  }
  CHECK(cgpu_account_used(made.usage->gpu[0].account) * CGPU_UNIT_BYTES == total);
  CHECK(made.usage->gpu[0].oom_count > 0, "the quota was never met: the test is too easy");
  for (unsigned slot = 0; slot < CGPU_MAX_SLOTS; slot++) cgpu_charge_reclaim(made.usage, slot);
  CHECK(cgpu_account_used(made.usage->gpu[0].account) == 0);
  remove_region(&made);
}

/* ---- estimates, surplus, overhead, resizing ---- */

static void one_process(void) {
  struct made_region made = make_region(2, 1000 * CGPU_UNIT_BYTES);
  setenv("CGPU_REGION", made.folder, 1);
  const struct cg_region *region = cg_region();
  CHECK(region->state == CG_REGION_READY);
  struct cgpu_usage_slot_gpu *own = &made.usage->slot[region->slot].gpu[0];
  uint64_t used, quota;

  CHECK(cg_reserve(-1, 1) == CG_PASS, "a device that is not the tenant's");
  CHECK(cg_reserve(0, 1000 * CGPU_UNIT_BYTES + 1) == CG_REFUSED);
  CHECK(made.usage->gpu[0].oom_count == 1);
  CHECK(cg_reserve(0, 1) == CG_GRANTED && cg_reserve(1, 1000 * CGPU_UNIT_BYTES) == CG_GRANTED);
  cg_usage_now(0, &used, &quota);
  CHECK(used == CGPU_UNIT_BYTES && quota == 1000 * CGPU_UNIT_BYTES, "each GPU has its own account");
  CHECK(made.usage->gpu[1].peak_bytes == 1000 * CGPU_UNIT_BYTES);
  cg_return(0, 1);
  cg_return(0, 1);
  CHECK(cgpu_charge_units(own->charge) == 0, "nothing is returned twice");

  /* What the card holds beyond the charges counts; a quota below what is used refuses, and frees pass. */
  made.grants->gpu[0].overhead_bytes = 400 * CGPU_UNIT_BYTES;
  CHECK(cg_reserve(0, 601 * CGPU_UNIT_BYTES) == CG_REFUSED && cg_reserve(0, 600 * CGPU_UNIT_BYTES) == CG_GRANTED);
  made.grants->gpu[0].quota_bytes = 500 * CGPU_UNIT_BYTES;
  CHECK(cg_reserve(0, 1) == CG_REFUSED);
  cg_return(0, 550 * CGPU_UNIT_BYTES);
  CHECK(cg_reserve(0, 50 * CGPU_UNIT_BYTES) == CG_GRANTED);
  cg_return(0, 100 * CGPU_UNIT_BYTES);
  made.grants->gpu[0].quota_bytes = 1000 * CGPU_UNIT_BYTES;
  made.grants->gpu[0].overhead_bytes = 0;

  /* Surplus: of estimates only, once, and only if nothing was charged since the agent looked. */
  CHECK(cg_reserve(0, 100 * CGPU_UNIT_BYTES) == CG_GRANTED);
  CHECK(cg_reserve_estimate(0, 200 * CGPU_UNIT_BYTES) == CG_GRANTED && cg_reserve_estimate(0, 50 * CGPU_UNIT_BYTES) == CG_GRANTED);
  CHECK(own->explicit_bytes == 100 * CGPU_UNIT_BYTES);
  struct cgpu_grants_surplus *surplus = &made.grants->surplus[region->slot][0];
  surplus->surplus_bytes = 120 * CGPU_UNIT_BYTES;
  surplus->charge_seq = cgpu_charge_seq(own->charge) - 1;
  CHECK(cg_reserve(0, CGPU_UNIT_BYTES) == CG_GRANTED);
  CHECK(cgpu_charge_units(own->charge) == 351, "stale: not taken up");
  surplus->charge_seq = cgpu_charge_seq(own->charge);
  CHECK(cg_reserve(0, CGPU_UNIT_BYTES) == CG_GRANTED && cg_reserve(0, CGPU_UNIT_BYTES) == CG_GRANTED);
  CHECK(cgpu_charge_units(own->charge) == 353 - 120, "taken up once");
  CHECK(own->explicit_bytes == 103 * CGPU_UNIT_BYTES);
  cg_return_estimate(0, 200 * CGPU_UNIT_BYTES);
  CHECK(cgpu_charge_units(own->charge) == 103 + 50, "what was taken up is not returned again");
  cg_return_estimate(0, 50 * CGPU_UNIT_BYTES);
  CHECK(cgpu_charge_units(own->charge) == 103);
  cg_return(0, 103 * CGPU_UNIT_BYTES);
  cg_return(1, 1000 * CGPU_UNIT_BYTES);

  cg_charge_truth(0, 2000 * CGPU_UNIT_BYTES);
  CHECK(cgpu_charge_units(own->charge) == 2000, "the truth is not refused");
  cg_return(0, 2000 * CGPU_UNIT_BYTES);
  CHECK(cgpu_account_used(made.usage->gpu[0].account) == 0 && cgpu_account_used(made.usage->gpu[1].account) == 0);
  remove_region(&made);
}

int main(void) {
  against_a_model();
  limits();
  processes_and_threads(); /* its children are tenants, this process is not yet */
  one_process();
  return failures != 0;
}

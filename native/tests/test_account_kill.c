// A process is killed at every single instruction of a charge and of a return: nothing leaks, nothing counts twice.
// sources: tests/support/no_driver.c shim/account.c shim/region.c shim/region_slot.c shim/say.c
// sanitizers: no
// emulated: no
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "../shim/memory.h"
#include "charge.h"
#include "support/check.h"
#include "support/make_region.h"

/* Single steps never get a load-linked and store-conditional pair through; with the atomic
 * instructions of x86-64 there is no such pair. */
#if defined(__x86_64__)

#define KEPT 5000u /* units that the victim holds before */
#define MOVED 70u  /* units that it charges or returns when it is killed */
#define SIBLINGS 7u
#define SIBLING_SLOT 1000u

enum operation { CHARGE, RETURN };

static void victim(enum operation operation) {
  if (cg_reserve(0, KEPT * CGPU_UNIT_BYTES) != CG_GRANTED || ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(2);
  raise(SIGSTOP);
  if (operation == CHARGE) cg_reserve(0, MOVED * CGPU_UNIT_BYTES);
  else cg_return(0, MOVED * CGPU_UNIT_BYTES);
  raise(SIGSTOP);
  _exit(0);
}

/* Lets a victim do so many instructions of the operation, then kills it. False when it was done before. */
static bool kill_after(enum operation operation, unsigned instructions) {
  fflush(stdout);
  pid_t pid = fork();
  if (!pid) victim(operation);
  int status;
  bool inside = waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
  CHECK(inside, "the victim did not begin: %x", status);
  for (unsigned i = 0; inside && i < instructions; i++) {
    ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
    waitpid(pid, &status, 0);
    inside = WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return inside;
}

static unsigned slot_of_victim(const struct cgpu_usage *usage) {
  for (unsigned slot = 0; slot < SIBLING_SLOT; slot++)
    if (usage->slot[slot].header.state == CGPU_SLOT_LIVE) return slot;
  return 0;
}

static uint64_t used(const struct cgpu_usage *usage) { return cgpu_account_used(usage->gpu[0].account); }

static unsigned kill_everywhere(enum operation operation) {
  unsigned instructions = 0, happened = 0;
  for (bool inside = true; inside && !failures; instructions++) {
    struct made_region made = make_region(1, 1ull << 30);
    setenv("CGPU_REGION", made.folder, 1);
    inside = kill_after(operation, instructions);
    unsigned slot = slot_of_victim(made.usage);
    const uint64_t *charge = &made.usage->slot[slot].gpu[0].charge;
    uint64_t after = operation == CHARGE ? KEPT + MOVED : KEPT - MOVED, left = used(made.usage);
    CHECK(left == KEPT || left == after, "at instruction %u: %llu", instructions, (unsigned long long)left);
    happened += left == after;

    /* A living sibling goes on, and with its operation completes what the dead one had begun. */
    CHECK(cgpu_charge(made.usage, SIBLING_SLOT, 0, SIBLINGS, UINT64_MAX));
    CHECK(cgpu_charge_units(*charge) == left, "at instruction %u", instructions);
    CHECK(used(made.usage) == left + SIBLINGS, "at instruction %u", instructions);
    cgpu_charge_reclaim(made.usage, slot);
    CHECK(used(made.usage) == SIBLINGS && cgpu_charge_units(*charge) == 0, "at instruction %u", instructions);
    CHECK(cgpu_charge_units(made.usage->slot[SIBLING_SLOT].gpu[0].charge) == SIBLINGS);
    remove_region(&made);
  }
  CHECK(happened > 1 && happened < instructions, "both sides of the decisive instruction were met");
  return instructions;
}

/* The same where nobody touches the account between the death and the reclaiming. */
static void reclaimed_at_once(unsigned instructions) {
  for (unsigned i = 0; i < instructions && !failures; i += 7) {
    struct made_region made = make_region(1, 1ull << 30);
    setenv("CGPU_REGION", made.folder, 1);
    kill_after(CHARGE, i);
    cgpu_charge_reclaim(made.usage, slot_of_victim(made.usage));
    CHECK(used(made.usage) == 0, "at instruction %u: %llu units are left", i, (unsigned long long)used(made.usage));
    remove_region(&made);
  }
}

int main(void) {
  unsigned charging = kill_everywhere(CHARGE), returning = kill_everywhere(RETURN);
  reclaimed_at_once(charging);
  printf("killed at each of %u instructions of a charge, %u of a return\n", charging, returning);
  CHECK(charging > 50 && returning > 50, "single steps do not work here");
  return failures != 0;
}

#else
int main(void) { return puts("not on this architecture: see the comment above") < 0; }
#endif

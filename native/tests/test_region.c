// Slots: who owns one, and what happens to it when processes fork, close everything, die, or are too many.
// sources: tests/support/no_driver.c shim/account.c shim/region.c shim/region_slot.c shim/say.c
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "../shim/memory.h"
#include "charge.h"
#include "support/check.h"
#include "support/make_region.h"

#define UNIT CGPU_UNIT_BYTES

/* Runs a test in a process of its own, in a tenant of its own: what a process knows is known once. */
static struct made_region made;
static void in_a_process(const char *name, void (*test)(void)) {
  made = make_region(1, 1000 * UNIT);
  setenv("CGPU_REGION", made.folder, 1);
  fflush(stdout);
  pid_t pid = fork();
  if (!pid) {
    failures = 0;
    test();
    fflush(stdout);
    _exit(failures != 0);
  }
  int status;
  waitpid(pid, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %x", name, status);
  remove_region(&made);
}

static bool locked(unsigned slot) {
  char path[300];
  snprintf(path, sizeof path, "%s/locks", made.folder);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  fcntl(fd, F_OFD_GETLK, &lock);
  close(fd);
  return lock.l_type != F_UNLCK;
}

static uint64_t used(void) { return cgpu_account_used(cgpu_load(&made.usage->gpu[0].account)); }
static uint64_t charge(unsigned slot) { return cgpu_charge_units(cgpu_load(&made.usage->slot[slot].gpu[0].charge)); }

/* A byte from the other end says: go on. */
struct gate {
  int end[2];
};
static struct gate make_gate(void) {
  struct gate gate;
  if (pipe(gate.end)) _exit(2);
  return gate;
}
static void pass_gate(struct gate gate) {
  char byte;
  if (read(gate.end[0], &byte, 1) != 1) _exit(2);
}
static void open_gate(struct gate gate) {
  if (write(gate.end[1], "", 1) != 1) _exit(2);
}

/* ---- */

static void registers_once(void) {
  CHECK(made.usage->header.slots_seen == 0, "before the first call nothing is taken");
  const struct cg_region *region = cg_region();
  CHECK(region->state == CG_REGION_READY && region == cg_region() && region->slot == 0);
  const struct cgpu_usage_slot_header *own = &made.usage->slot[0].header;
  CHECK(own->state == CGPU_SLOT_LIVE && own->pid == (uint32_t)getpid() && own->claim == 1 && own->start_ticks);
  CHECK(strncmp(own->comm, program_invocation_short_name, sizeof own->comm - 1) == 0 && own->pid_namespace);
  CHECK(made.usage->header.slots_seen == 1 && made.usage->header.doorbell > 0 && locked(0) && !locked(1));
}

static void the_environment_is_read_once(void) {
  CHECK(cg_is_tenant() && made.usage->header.slots_seen == 0, "looking takes no slot");
  setenv("CGPU_REGION", "/nowhere", 1);
  CHECK(cg_region()->state == CG_REGION_READY);
  unsetenv("CGPU_REGION");
  CHECK(cg_reserve(0, 2000 * UNIT) == CG_REFUSED);
}

static void forked_children_have_slots_of_their_own(void) {
  CHECK(cg_reserve(0, 10 * UNIT) == CG_GRANTED);
  struct gate charged = make_gate(), end = make_gate();
  pid_t child = fork();
  if (!child) {
    CHECK(cg_reserve(0, 3 * UNIT) == CG_GRANTED && cg_region()->slot == 1);
    cg_return(0, 10 * UNIT); /* it has not charged its parent's: nothing but its own can go */
    CHECK(charge(1) == 0 && charge(0) == 10);
    CHECK(cg_reserve(0, 3 * UNIT) == CG_GRANTED);
    open_gate(charged);
    pass_gate(end);
    _exit(failures != 0);
  }
  pass_gate(charged);
  CHECK(used() == 13 && charge(0) == 10 && charge(1) == 3 && locked(0) && locked(1));
  open_gate(end);
  int status;
  waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 0 && !locked(1) && locked(0));
}

/* A child that never calls the driver must not keep its dead parent's lock. */
static void surviving_children_let_go(void) {
  struct gate ready = make_gate(), end = make_gate();
  pid_t parent = fork();
  if (!parent) {
    cg_region();
    if (!fork()) {
      open_gate(ready);
      pass_gate(end);
      _exit(0);
    }
    pass_gate(ready); /* the child runs: its handlers are through */
    _exit(locked(0) ? 0 : 1);
  }
  int status;
  waitpid(parent, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(!locked(0), "the grandchild keeps the lock");
  open_gate(end);
}

static void wait_past_the_lock_check(void) { /* the clock is the thing tested */
  struct timespec pause = {0, 300000000};
  nanosleep(&pause, NULL);
}

static void closing_everything_loses_no_slot(void) {
  CHECK(cg_reserve(0, 10 * UNIT) == CG_GRANTED);
  for (int fd = 3; fd < 4096; fd++) close(fd);
  CHECK(!locked(0));
  int reused[8];
  for (int i = 0; i < 8; i++) reused[i] = open("/dev/null", O_RDONLY); /* numbers are used again */
  wait_past_the_lock_check();
  CHECK(cg_reserve(0, 5 * UNIT) == CG_GRANTED);
  CHECK(locked(0) && cg_region()->slot == 0 && charge(0) == 15 && made.usage->slot[0].header.claim == 1);
  for (int i = 0; i < 8; i++) CHECK(fcntl(reused[i], F_GETFD) >= 0, "a descriptor of the user's was closed");
}

/* Declared dead while it lives: it takes a new slot, and what it holds comes along. */
static void declared_dead_it_comes_back(void) {
  CHECK(cg_reserve(0, 10 * UNIT) == CG_GRANTED && cg_reserve_estimate(0, 4 * UNIT) == CG_GRANTED);
  for (int fd = 3; fd < 4096; fd++) close(fd);
  cgpu_charge_reclaim(made.usage, 0);
  CHECK(used() == 0);
  CHECK(cgpu_charge(made.usage, 500, 0, 990, UINT64_MAX), "somebody else has taken what seemed free");
  CHECK(cg_reserve(0, 5 * UNIT) == CG_REFUSED, "and so there is no room for more");
  CHECK(used() == 990 + 14 && charge(cg_region()->slot) == 14, "but what is held is charged again");
  cg_return(0, 10 * UNIT);
  cg_return_estimate(0, 4 * UNIT);
  CHECK(used() == 990 && charge(cg_region()->slot) == 0 && locked(cg_region()->slot));
}

/* All slots from this one on belong to dead processes that hold something. */
static void occupy(unsigned first) {
  for (unsigned slot = first; slot < CGPU_MAX_SLOTS; slot++) {
    made.usage->slot[slot].header.state = CGPU_SLOT_LIVE;
    made.usage->slot[slot].gpu[0].charge = cgpu_charge_word(1, 0);
  }
}

static void slots_of_the_dead(void) {
  pid_t child = fork();
  if (!child) _exit(cg_region()->state != CG_REGION_READY); /* dies holding nothing */
  waitpid(child, NULL, 0);
  child = fork();
  if (!child) _exit(cg_reserve(0, 10 * UNIT) != CG_GRANTED); /* dies holding something */
  waitpid(child, NULL, 0);
  CHECK(made.usage->slot[0].header.state == CGPU_SLOT_LIVE && made.usage->slot[1].header.state == CGPU_SLOT_LIVE);
  CHECK(!locked(0) && !locked(1) && charge(1) == 10, "a charge outlives its process until it is reclaimed");
  occupy(2);
  CHECK(cg_region()->state == CG_REGION_READY && cg_region()->slot == 0, "one that holds nothing is taken again");
  CHECK(made.usage->slot[0].header.claim >= 2);
}

static void no_slot_left(void) {
  occupy(0);
  CHECK(cg_region()->state == CG_REGION_BROKEN && cg_reserve(0, 1) == CG_REFUSED && cg_reserve(-1, 1) == CG_REFUSED);
  made.usage->slot[77].header.state = CGPU_SLOT_FREE;
  made.usage->slot[77].gpu[0].charge = 0;
  CHECK(cg_reserve(0, 1) == CG_GRANTED && cg_region()->slot == 77, "one has become free");
}

/* Without an agent a sibling returns what a dead process held: when it is needed, and not before the
 * process has been gone for a second. */
static void siblings_reclaim_for_a_missing_agent(void) {
  struct gate charged = make_gate();
  pid_t child = fork();
  if (!child) {
    if (cg_reserve(0, 600 * UNIT) != CG_GRANTED) _exit(2);
    open_gate(charged);
    pause();
  }
  pass_gate(charged);
  CHECK(cg_reserve(0, 600 * UNIT) == CG_REFUSED, "its owner lives");
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  made.grants->header.heartbeat_ns = (uint64_t)now.tv_sec * 1000000000u;
  CHECK(cg_reserve(0, 600 * UNIT) == CG_REFUSED, "that is the agent's business while it lives");
  made.grants->header.heartbeat_ns = 0;
  CHECK(cg_reserve(0, 600 * UNIT) == CG_REFUSED, "the card may not have released it yet");
  struct timespec second = {1, 50000000};
  nanosleep(&second, NULL);
  CHECK(cg_reserve(0, 600 * UNIT) == CG_GRANTED && used() == 600);
}

static void broken(const char *file, off_t size, size_t offset, uint64_t value) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", made.folder, file);
  if (size >= 0 && truncate(path, size)) _exit(2);
  int fd = open(path, O_WRONLY);
  if (size < 0 && pwrite(fd, &value, offset == 8 ? 4 : 8, (off_t)offset) < 0) _exit(2);
  close(fd);
  CHECK(!cg_is_tenant() && cg_region()->state == CG_REGION_BROKEN);
  CHECK(cg_reserve(0, 1) == CG_REFUSED && cg_reserve(-1, 1) == CG_REFUSED && cg_reserve_estimate(-1, 0) == CG_REFUSED);
}
static void grants_truncated(void) { broken("grants", sizeof(struct cgpu_grants) - 1, 0, 0); }
static void usage_empty(void) { broken("usage", 0, 0, 0); }
static void grants_foreign(void) { broken("grants", -1, 0, 0x1234567812345678); }
static void usage_of_another_version(void) { broken("usage", -1, 8, CGPU_REGION_MAJOR + 1); }
static void grants_claim_to_be_longer(void) { broken("grants", -1, 16, sizeof(struct cgpu_grants) + 1); }
static void folder_missing(void) {
  setenv("CGPU_REGION", "/nowhere/at/all", 1);
  CHECK(cg_region()->state == CG_REGION_BROKEN && cg_reserve(0, 1) == CG_REFUSED);
}
static void no_tenant(void) {
  unsetenv("CGPU_REGION");
  CHECK(cg_region()->state == CG_REGION_NONE && cg_reserve(0, 1ull << 40) == CG_PASS);
  cg_return(0, 1ull << 40);
}

int main(void) {
#define RUN(test) in_a_process(#test, test)
  RUN(registers_once);
  RUN(the_environment_is_read_once);
  RUN(forked_children_have_slots_of_their_own);
  RUN(surviving_children_let_go);
  RUN(closing_everything_loses_no_slot);
  RUN(declared_dead_it_comes_back);
  RUN(slots_of_the_dead);
  RUN(no_slot_left);
  RUN(siblings_reclaim_for_a_missing_agent);
  RUN(grants_truncated);
  RUN(usage_empty);
  RUN(grants_foreign);
  RUN(usage_of_another_version);
  RUN(grants_claim_to_be_longer);
  RUN(folder_missing);
  if (access("/.cgpu/tenant", F_OK) != 0) RUN(no_tenant);
  return failures != 0;
}

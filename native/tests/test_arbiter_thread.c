// sources: arbiter/policy.c arbiter/turns.c arbiter/seat.c arbiter/guard.c arbiter/arbiter.c
// emulated: no
/* The arbiter's thread over real files and futexes: the tenants are threads of this program, each with
 * a region in memory, whose "work" is to be busy for a while. */
#include "../arbiter/arbiter.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "futex_words.h"
#include "region.h"

#define MS 1000000ull
#define QUANTUM (2 * MS)
#define ROW 3
#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)
#define ATOMIC(pointer) ((_Atomic(__typeof__(*(pointer))) *)(pointer))

struct tenant {
  uint64_t id;
  int usage_fd, grants_fd;
  struct cgpu_usage *usage;
  struct cgpu_grants *grants;
  _Atomic(bool) stop;
  _Atomic(uint64_t) turns;
  pthread_t thread;
};

static int file(const char *name, size_t size) {
  int fd = (int)syscall(SYS_memfd_create, name, 0);
  CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
  return fd;
}

static void *map(int fd, size_t size) {
  void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(address != MAP_FAILED);
  return address;
}

static void make(struct tenant *tenant, uint64_t id) {
  memset(tenant, 0, sizeof *tenant);
  tenant->id = id;
  tenant->usage_fd = file("usage", sizeof(struct cgpu_usage));
  tenant->grants_fd = file("tenant/grants", sizeof(struct cgpu_grants));
  tenant->usage = map(tenant->usage_fd, sizeof(struct cgpu_usage));
  tenant->grants = map(tenant->grants_fd, sizeof(struct cgpu_grants));
  tenant->usage->header.magic = CGPU_USAGE_MAGIC;
  tenant->usage->header.major = tenant->grants->header.major = CGPU_REGION_MAJOR;
  tenant->grants->header.magic = CGPU_GRANTS_MAGIC;
  tenant->usage->header.slots_seen = 20; /* the last one is used: more than one read is needed */
  tenant->usage->slot[19].header.state = CGPU_SLOT_LIVE;
}

static void unmake(struct tenant *tenant) {
  munmap(tenant->usage, sizeof(struct cgpu_usage));
  munmap(tenant->grants, sizeof(struct cgpu_grants));
  close(tenant->usage_fd);
  close(tenant->grants_fd);
}

static struct cgpu_policy_settings settings_of(uint32_t kind) {
  return (struct cgpu_policy_settings){.kind = kind, .max_inst = 20, .prio_ratio = 80, .quantum_ns = QUANTUM};
}

static int start(uint32_t kind, struct cgpu_arbiter **arbiter) {
  struct cgpu_policy_settings settings = settings_of(kind);
  return cgpu_arbiter_start(&settings, arbiter);
}

static int set_policy(struct cgpu_arbiter *arbiter, uint32_t kind) {
  struct cgpu_policy_settings settings = settings_of(kind);
  return cgpu_arbiter_set_policy(arbiter, &settings);
}

static int add(struct cgpu_arbiter *arbiter, struct tenant *tenant, uint32_t weight) {
  struct cgpu_policy_share share = {.weight = weight};
  return cgpu_arbiter_add(arbiter, tenant->id, tenant->usage_fd, tenant->grants_fd, ROW, &share);
}

static uint32_t grant(struct tenant *tenant) { return atomic_load(ATOMIC(&tenant->grants->gpu[ROW].grant)); }

static void say(struct tenant *tenant, uint32_t gate) {
  atomic_store(ATOMIC(&tenant->usage->slot[19].gpu[ROW].gate), gate);
  _Atomic(uint32_t) *doorbell = ATOMIC(&tenant->usage->gpu[ROW].doorbell);
  atomic_fetch_add(doorbell, 1);
  futex_wake_all(doorbell, false);
}

/* Waits for the grant to be in the state; false after two seconds. */
static bool await(struct tenant *tenant, uint32_t state) {
  uint64_t until_ns = futex_now_ns() + 2000 * MS;
  for (;;) {
    uint32_t word = grant(tenant);
    if (CGPU_GRANT_STATE(word) == state) return true;
    uint64_t look_ns = futex_now_ns() + MS; /* closing a grant wakes nobody */
    if (look_ns > until_ns) return false;
    struct futex_word wait = futex_word_of(ATOMIC(&tenant->grants->gpu[ROW].grant), word, false);
    futex_wait_one(&wait, look_ns);
  }
}

static void rest_until(uint64_t until_ns) {
  struct timespec time = futex_time(until_ns);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR) continue;
}

/* Backlogged: is busy for as long as its slot lasts, and wants the next one. */
static void *backlogged(void *argument) {
  struct tenant *tenant = argument;
  while (!atomic_load(&tenant->stop)) {
    say(tenant, CGPU_GATE_WANT);
    if (!await(tenant, CGPU_GRANT_OPEN)) break;
    say(tenant, CGPU_GATE_BUSY | CGPU_GATE_WANT);
    atomic_fetch_add(&tenant->turns, 1);
    while (CGPU_GRANT_STATE(grant(tenant)) == CGPU_GRANT_OPEN && !atomic_load(&tenant->stop)) {
      rest_until(futex_now_ns() + MS / 10);
    }
  }
  say(tenant, 0);
  return NULL;
}

static uint64_t charged(struct cgpu_arbiter *arbiter, const struct tenant *tenant) {
  struct cgpu_arbiter_tenant_counters counters;
  CHECK(cgpu_arbiter_tenant(arbiter, tenant->id, &counters) == 0);
  return counters.charged_ns;
}

/* Whether all that was charged so far is as the weights 1, 2, 4 ask, to three hundredths. */
static bool by_weight(struct cgpu_arbiter *arbiter, const struct tenant tenant[3], bool tell) {
  uint64_t time[3], sum = 0;
  bool right = true;
  for (int i = 0; i < 3; i++) sum += time[i] = charged(arbiter, &tenant[i]);
  for (int i = 0; i < 3; i++) {
    double share = (double)time[i] / (double)(sum ? sum : 1), asked = (double)(1u << i) / 7;
    bool close = share > asked - 0.03 && share < asked + 0.03;
    if (tell && !close) fprintf(stderr, "tenant %d: %.3f of %.3f\n", i, share, asked);
    right = right && close;
  }
  return right;
}

static void test_shares_by_weight(void) {
  struct cgpu_arbiter *arbiter;
  struct tenant tenant[3];
  CHECK(start(CGPU_POLICY_WEIGHTED, &arbiter) == 0);
  for (int i = 0; i < 3; i++) {
    make(&tenant[i], (uint64_t)i);
    CHECK(add(arbiter, &tenant[i], 1u << i) == 0);
    CHECK(pthread_create(&tenant[i].thread, NULL, backlogged, &tenant[i]) == 0);
  }
  /* A busy machine makes turns longer than they should be; that is a debt, and evens out. */
  uint64_t end_ns = futex_now_ns() + 15000 * MS;
  do {
    rest_until(futex_now_ns() + 500 * MS);
  } while (!by_weight(arbiter, tenant, false) && futex_now_ns() < end_ns);
  CHECK(by_weight(arbiter, tenant, true));
  for (int i = 0; i < 3; i++) atomic_store(&tenant[i].stop, true);
  for (int i = 0; i < 3; i++) pthread_join(tenant[i].thread, NULL);
  for (int i = 0; i < 3; i++) {
    CHECK(atomic_load(&tenant[i].turns) > 3);
    CHECK(tenant[i].grants->gpu[ROW].share_ppm == 1000000 * (1u << i) / 7);
    CHECK(tenant[i].grants->gpu[ROW].share_window_ns > 6 * QUANTUM);
  }
  cgpu_arbiter_stop(arbiter);
  for (int i = 0; i < 3; i++) {
    CHECK(atomic_load(ATOMIC(&tenant[i].grants->header.heartbeat_ns)) == 0); /* on their own now */
    CHECK(CGPU_GRANT_STATE(grant(&tenant[i])) == CGPU_GRANT_CLOSED);
    unmake(&tenant[i]);
  }
}

static void test_holder_that_never_ends_does_not_block(void) {
  struct cgpu_arbiter *arbiter;
  struct tenant stuck, other;
  struct cgpu_arbiter_counters counters;
  make(&stuck, 1);
  make(&other, 2);
  CHECK(start(CGPU_POLICY_PREEMPTIVE, &arbiter) == 0);
  CHECK(add(arbiter, &stuck, 1) == 0 && add(arbiter, &other, 1) == 0);
  say(&stuck, CGPU_GATE_WANT);
  CHECK(await(&stuck, CGPU_GRANT_OPEN));
  say(&stuck, CGPU_GATE_BUSY);
  say(&other, CGPU_GATE_WANT);
  CHECK(await(&other, CGPU_GRANT_OPEN));
  cgpu_arbiter_counters(arbiter, &counters);
  CHECK(counters.overruns == 1 && counters.tenants == 2);
  CHECK(CGPU_GRANT_STATE(grant(&stuck)) == CGPU_GRANT_CLOSED);
  /* A dead process's words count for nothing, before anybody has cleared them. */
  atomic_store(ATOMIC(&other.usage->slot[19].header.state), CGPU_SLOT_FREE);
  say(&stuck, CGPU_GATE_WANT);
  CHECK(await(&stuck, CGPU_GRANT_OPEN));
  cgpu_arbiter_stop(arbiter);
  unmake(&stuck);
  unmake(&other);
}

static int start_with(struct cgpu_policy_settings settings) {
  struct cgpu_arbiter *arbiter;
  return cgpu_arbiter_start(&settings, &arbiter);
}

static void test_settings_out_of_range_are_refused(void) {
  struct cgpu_policy_settings settings = settings_of(CGPU_POLICY_PREEMPTIVE);
  settings.quantum_ns = CGPU_ARBITER_QUANTUM_MIN_NS - 1;
  CHECK(start_with(settings) == EINVAL);
  settings.quantum_ns = CGPU_ARBITER_QUANTUM_MAX_NS + 1;
  CHECK(start_with(settings) == EINVAL);
  settings = settings_of(CGPU_POLICY_FAIR);
  settings.max_inst = 0;
  CHECK(start_with(settings) == EINVAL);
  settings = settings_of(CGPU_POLICY_PREEMPTIVE);
  settings.prio_ratio = 19;
  CHECK(start_with(settings) == EINVAL);
  settings.prio_ratio = 100;
  CHECK(start_with(settings) == EINVAL);
  CHECK(start_with(settings_of(CGPU_POLICY_NATIVE + 1)) == EOPNOTSUPP);
}

static void test_tenants_come_and_go(void) {
  struct cgpu_arbiter *arbiter;
  struct tenant tenant;
  make(&tenant, 9);
  CHECK(start(CGPU_POLICY_PREEMPTIVE, &arbiter) == 0);
  CHECK(cgpu_arbiter_remove(arbiter, 9) == ENOENT);
  CHECK(add(arbiter, &tenant, 1) == 0 && add(arbiter, &tenant, 1) == EEXIST);
  say(&tenant, CGPU_GATE_WANT);
  CHECK(await(&tenant, CGPU_GRANT_OPEN));
  CHECK(set_policy(arbiter, CGPU_POLICY_NATIVE) == 0);
  CHECK(await(&tenant, CGPU_GRANT_FREE));
  CHECK(set_policy(arbiter, CGPU_POLICY_PREEMPTIVE) == 0);
  CHECK(await(&tenant, CGPU_GRANT_OPEN));
  CHECK(cgpu_arbiter_remove(arbiter, 9) == 0);
  CHECK(await(&tenant, CGPU_GRANT_FREE)); /* leftovers wait for nobody */
  tenant.usage->header.major++;
  CHECK(add(arbiter, &tenant, 1) == EPROTO);
  cgpu_arbiter_stop(arbiter);
  unmake(&tenant);
}

/* A tenant may shorten its own file, and who is the agent's user the agent's too; that must not kill the agent nor
 * stop its neighbours. */
static void test_shortened_file(bool grants) {
  struct cgpu_arbiter *arbiter;
  struct tenant hostile, other;
  make(&hostile, 1);
  make(&other, 2);
  CHECK(start(CGPU_POLICY_PREEMPTIVE, &arbiter) == 0);
  CHECK(add(arbiter, &hostile, 1) == 0 && add(arbiter, &other, 1) == 0);
  CHECK(ftruncate(grants ? hostile.grants_fd : hostile.usage_fd, 0) == 0);
  if (grants) rest_until(futex_now_ns() + 150 * MS); /* several heartbeats are written */
  say(&other, CGPU_GATE_WANT);
  CHECK(await(&other, CGPU_GRANT_OPEN));
  cgpu_arbiter_stop(arbiter);
  unmake(&hostile);
  unmake(&other);
}

/* What a killed process was about to do is nobody's any more, long before its slot is free. One that has only
 * closed its descriptors takes its lock again, and is heard again. */
static void test_dead_process_wants_nothing(void) {
  struct cgpu_arbiter *arbiter;
  struct tenant dead, other;
  char path[64];
  int locks = file("locks", 0);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 19, .l_len = 1};
  snprintf(path, sizeof path, "/proc/self/fd/%d", locks);
  int owner = open(path, O_RDWR);
  CHECK(owner >= 0 && fcntl(owner, F_OFD_SETLK, &lock) == 0);
  make(&dead, 1);
  make(&other, 2);
  CHECK(start(CGPU_POLICY_PREEMPTIVE, &arbiter) == 0);
  CHECK(add(arbiter, &dead, 1) == 0 && add(arbiter, &other, 1) == 0);
  CHECK(cgpu_arbiter_watch(arbiter, 1, locks) == 0 && cgpu_arbiter_watch(arbiter, 3, locks) == ENOENT);
  say(&dead, CGPU_GATE_BUSY | CGPU_GATE_WANT);
  CHECK(await(&dead, CGPU_GRANT_OPEN));
  close(owner);
  rest_until(futex_now_ns() + 150 * MS);
  struct cgpu_arbiter_tenant_counters counters;
  CHECK(cgpu_arbiter_tenant(arbiter, 1, &counters) == 0 && !counters.want && !counters.busy);
  say(&other, CGPU_GATE_BUSY | CGPU_GATE_WANT);
  CHECK(await(&other, CGPU_GRANT_OPEN));
  CHECK(atomic_load(ATOMIC(&other.grants->gpu[ROW].contenders)) == 1);
  owner = open(path, O_RDWR);
  CHECK(owner >= 0 && fcntl(owner, F_OFD_SETLK, &lock) == 0);
  CHECK(await(&dead, CGPU_GRANT_OPEN));
  cgpu_arbiter_stop(arbiter);
  close(owner);
  close(locks);
  unmake(&dead);
  unmake(&other);
}

/* What the tenant had had stands in its region, and goes on from there. */
static void test_second_arbiter_goes_on_with_the_regions_counters(void) {
  struct cgpu_arbiter *arbiter;
  struct tenant tenant, other;
  make(&tenant, 1);
  make(&other, 2);
  struct cgpu_grants_gpu *gpu = &tenant.grants->gpu[ROW];
  gpu->preempting = 1000;
  struct cgpu_grants_gpu first = *gpu;
  for (int round = 1; round <= 2; round++) {
    CHECK(start(CGPU_POLICY_PREEMPTIVE, &arbiter) == 0);
    CHECK(add(arbiter, &tenant, 1) == 0 && add(arbiter, &other, 1) == 0);
    say(&other, CGPU_GATE_WANT);
    CHECK(await(&other, CGPU_GRANT_OPEN));
    say(&other, CGPU_GATE_BUSY);
    say(&tenant, CGPU_GATE_WANT);
    CHECK(await(&other, CGPU_GRANT_CLOSED)); /* by time, for the tenant that wants it */
    say(&other, 0);
    CHECK(await(&tenant, CGPU_GRANT_OPEN));
    say(&tenant, CGPU_GATE_BUSY);
    say(&other, CGPU_GATE_WANT);
    CHECK(await(&tenant, CGPU_GRANT_CLOSED));
    say(&tenant, 0);
    CHECK(await(&other, CGPU_GRANT_OPEN));
    say(&other, 0);
    struct cgpu_arbiter_tenant_counters had;
    CHECK(cgpu_arbiter_tenant(arbiter, tenant.id, &had) == 0);
    cgpu_arbiter_stop(arbiter);
    CHECK(gpu->turns == first.turns + had.turns && had.turns >= 1);
    CHECK(gpu->busy_ns == first.busy_ns + had.charged_ns && had.charged_ns > 0);
    CHECK(gpu->waited_ns == first.waited_ns + had.waited_ns && had.waited_ns > 0);
    CHECK(gpu->preempted == first.preempted + 1);
    CHECK(gpu->preempting == first.preempting + 1);
    first = *gpu;
  }
  unmake(&tenant);
  unmake(&other);
}

/* Alone on the card: its budget ends its turn, and opens the next one. */
static void test_capped_tenant_gets_its_part_of_an_idle_card(void) {
  struct cgpu_arbiter *arbiter;
  struct tenant tenant;
  struct cgpu_policy_share share = {.weight = 1, .compute_limit_percent = 50};
  make(&tenant, 1);
  CHECK(start(CGPU_POLICY_PREEMPTIVE, &arbiter) == 0);
  CHECK(cgpu_arbiter_add(arbiter, tenant.id, tenant.usage_fd, tenant.grants_fd, ROW, &share) == 0);
  CHECK(pthread_create(&tenant.thread, NULL, backlogged, &tenant) == 0);
  double part = 0;
  for (int i = 0; i < 20 && (part < 0.45 || part > 0.55); i++) { /* a busy machine may need several looks */
    uint64_t from_ns = futex_now_ns(), had_ns = charged(arbiter, &tenant);
    rest_until(from_ns + 500 * MS);
    part = (double)(charged(arbiter, &tenant) - had_ns) / (double)(futex_now_ns() - from_ns);
  }
  CHECK(part >= 0.45 && part <= 0.55);
  share.compute_limit_percent = 0;
  CHECK(cgpu_arbiter_update(arbiter, tenant.id, &share) == 0);
  CHECK(await(&tenant, CGPU_GRANT_OPEN));
  rest_until(futex_now_ns() + 100 * MS);
  CHECK(CGPU_GRANT_STATE(grant(&tenant)) == CGPU_GRANT_OPEN);
  atomic_store(&tenant.stop, true);
  pthread_join(tenant.thread, NULL);
  cgpu_arbiter_stop(arbiter);
  unmake(&tenant);
}

static void test_heartbeat_and_rest(void) {
  struct cgpu_arbiter *arbiter;
  struct tenant tenant;
  struct cgpu_arbiter_counters before, after;
  make(&tenant, 1);
  CHECK(start(CGPU_POLICY_PREEMPTIVE, &arbiter) == 0);
  CHECK(add(arbiter, &tenant, 1) == 0);
  rest_until(futex_now_ns() + 100 * MS);
  cgpu_arbiter_counters(arbiter, &before);
  uint64_t oldest_ns = 0, end_ns = futex_now_ns() + 500 * MS;
  for (uint64_t now_ns; (now_ns = futex_now_ns()) < end_ns; rest_until(now_ns + 5 * MS)) {
    uint64_t age_ns = now_ns - atomic_load(ATOMIC(&tenant.grants->header.heartbeat_ns));
    if ((int64_t)age_ns > (int64_t)oldest_ns) oldest_ns = age_ns;
  }
  cgpu_arbiter_counters(arbiter, &after);
  CHECK(oldest_ns < 1000 * MS); /* 50 ms on an idle machine; a tenant calls 1 s stale */
  CHECK(after.wakeups - before.wakeups <= 15); /* it sleeps in between */
  cgpu_arbiter_stop(arbiter);
  unmake(&tenant);
}

int main(void) {
  test_settings_out_of_range_are_refused();
  test_tenants_come_and_go();
  test_second_arbiter_goes_on_with_the_regions_counters();
  test_capped_tenant_gets_its_part_of_an_idle_card();
  test_shares_by_weight();
  test_holder_that_never_ends_does_not_block();
  test_shortened_file(false);
  test_shortened_file(true);
  test_dead_process_wants_nothing();
  test_heartbeat_and_rest();
  return 0;
}

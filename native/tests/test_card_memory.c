// sources: simgpu/card_cgroup.c simgpu/card_context.c simgpu/card_engine.c simgpu/card_fault.c simgpu/card_list.c simgpu/card_lock.c simgpu/card_phys.c simgpu/card_process.c simgpu/card_profile.c simgpu/card_pump.c simgpu/card_state.c simgpu/card_submit.c simgpu/card_usage.c simgpu/card_wait.c
// Physical memory: exact amounts, contents, sharing between processes, limits of cgroups.
#include <sys/mman.h>

#include "card_fixture.h"

#define OBJECTS 64

static uint64_t granules(uint64_t bytes) { return (bytes + SG_GRANULE_BYTES - 1) / SG_GRANULE_BYTES; }

/* Random takes and gives against a model that only adds: refused exactly when the card is full. */
static void test_against_model(void) {
  struct { sg_phys name; uint64_t granules, references; } held[OBJECTS] = {{0}};
  uint64_t used = 0;
  srand(1);
  for (int step = 0; step < 4000; step++) {
    int i = rand() % OBJECTS;
    uint64_t bytes = (uint64_t)(1 + rand() % (rand() % 8 ? 16 : 300)) * SG_GRANULE_BYTES - (uint64_t)(rand() % 1000);
    if (!held[i].name) {
      int rc = sg_phys_create(0, bytes, &held[i].name);
      REQUIRE_EQUAL(rc, used + granules(bytes) <= CARD_GRANULES ? SG_OK : SG_E_NOMEM);
      if (rc != SG_OK) held[i].name = 0;
      held[i].granules = rc == SG_OK ? granules(bytes) : 0;
      held[i].references = rc == SG_OK;
      used += held[i].granules;
    } else if (rand() % 4 == 0) {
      OK(sg_phys_retain(held[i].name));
      held[i].references++;
    } else {
      OK(sg_phys_release(held[i].name));
      if (--held[i].references) continue;
      REQUIRE_EQUAL(sg_phys_release(held[i].name), SG_E_INVALID);
      held[i].name = 0;
      used -= held[i].granules;
    }
    if (step % 100 == 0) check_invariants();
  }
  REQUIRE_EQUAL(fixture_used(0), used * SG_GRANULE_BYTES);
  for (int i = 0; i < OBJECTS; i++)
    while (held[i].name && held[i].references--) OK(sg_phys_release(held[i].name));
  REQUIRE_EQUAL(fixture_used(0), 0);
  check_invariants();
}

static char *map(sg_phys object, uint64_t bytes) {
  char *address = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(address != MAP_FAILED);
  OK(sg_phys_map(object, 0, address, bytes, PROT_READ | PROT_WRITE));
  return address;
}

/* An object in pieces is one piece where it is mapped; memory comes back empty. */
static void test_contents(void) {
  enum { COUNT = 16 };
  sg_phys piece[COUNT], whole;
  uint64_t left = (uint64_t)CARD_GRANULES * SG_GRANULE_BYTES, each = left / COUNT;
  for (int i = 0; i < COUNT; i++) OK(sg_phys_create(1, each, &piece[i]));
  for (int i = 0; i < COUNT; i += 2) {
    char *address = map(piece[i], SG_GRANULE_BYTES);
    memset(address, 0xa5, SG_GRANULE_BYTES);
    munmap(address, SG_GRANULE_BYTES);
    OK(sg_phys_release(piece[i]));
  }
  OK(sg_phys_create(1, 3 * each, &whole)); /* more than any hole */
  check_invariants();
  char *address = map(whole, 3 * each), *again = map(whole, 3 * each);
  for (uint64_t at = 0; at < 3 * each; at += each) REQUIRE_EQUAL(address[at], 0);
  for (uint64_t at = 0; at < 3 * each; at += SG_GRANULE_BYTES) memcpy(address + at, &at, sizeof at);
  for (uint64_t at = 0; at < 3 * each; at += SG_GRANULE_BYTES) REQUIRE_EQUAL(memcmp(again + at, &at, sizeof at), 0);
  munmap(address, 3 * each);
  munmap(again, 3 * each);
  OK(sg_phys_release(whole));
  for (int i = 1; i < COUNT; i += 2) OK(sg_phys_release(piece[i]));
  REQUIRE_EQUAL(fixture_used(1), 0);
}

/* Another process sees the same bytes, and keeps the memory alive when its maker dies. */
static void test_sharing(void) {
  int names[2], seen[2];
  char byte = 0;
  REQUIRE(pipe(names) == 0 && pipe(seen) == 0);
  pid_t maker = fork();
  if (maker == 0) {
    sg_phys made;
    fixture_rejoin();
    OK(sg_phys_create(0, SG_GRANULE_BYTES, &made));
    memcpy(map(made, SG_GRANULE_BYTES), "truth", 6);
    REQUIRE(write(names[1], &made, sizeof made) == sizeof made);
    REQUIRE(read(seen[0], &byte, 1) == 1);
    _exit(0);
  }
  sg_phys object;
  REQUIRE(read(names[0], &object, sizeof object) == sizeof object);
  OK(sg_phys_retain(object));
  char *address = map(object, SG_GRANULE_BYTES);
  REQUIRE_EQUAL(strcmp(address, "truth"), 0);
  REQUIRE(write(seen[1], &byte, 1) == 1 && waitpid(maker, NULL, 0) == maker);
  REQUIRE_EQUAL(fixture_used(0), SG_GRANULE_BYTES);
  REQUIRE_EQUAL(strcmp(address, "truth"), 0);
  check_invariants();
  munmap(address, SG_GRANULE_BYTES);
  OK(sg_phys_release(object));
  REQUIRE_EQUAL(fixture_used(0), 0);
}

/* A limit binds the cgroup's processes and those below it; managed memory and neighbours pass. */
static void test_limits(void) {
  sg_phys object, managed;
  uint64_t limit, used, hard, soft;
  OK(sg_set_memory_limit(0, "/sys/fs/cgroup/tree", 3 * SG_GRANULE_BYTES, SG_GRANULE_BYTES));
  OK(sg_get_memory_limit(0, "/tree", &hard, &soft));
  REQUIRE(hard == 3 * SG_GRANULE_BYTES && soft == SG_GRANULE_BYTES);
  for (int child = 0; child < 3; child++) {
    pid_t pid = fork();
    if (pid == 0) {
      setenv("CGPU_SIM_CGROUP", child == 0 ? "/tree" : child == 1 ? "/tree/leaf" : "/treehouse", 1);
      fixture_rejoin();
      OK(sg_phys_create(0, 3 * SG_GRANULE_BYTES, &object));
      OK(sg_phys_create_managed(0, SG_GRANULE_BYTES, &managed));
      REQUIRE_EQUAL(sg_phys_create(0, 1, &managed), child == 2 ? SG_OK : SG_E_NOMEM);
      OK(sg_memory_limit(0, &limit, &used));
      REQUIRE_EQUAL(limit, child == 0 ? 3 * SG_GRANULE_BYTES : UINT64_MAX);
      OK(sg_phys_release(object));
      OK(sg_phys_create(0, 1, &object));
      _exit(0);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE_EQUAL(status, 0);
  }
  REQUIRE_EQUAL(fixture_used(0), 0);
}

static void test_faults(void) {
  sg_phys object;
  sg_context context;
  uint64_t free_bytes, used_bytes;
  OK(sg_fault_set(0, SG_FAULT_OOM, 2));
  REQUIRE_EQUAL(sg_phys_create(0, 1, &object), SG_E_NOMEM);
  REQUIRE_EQUAL(sg_context_create(0, &context), SG_E_NOMEM);
  OK(sg_phys_create(0, 1, &object));
  OK(sg_phys_release(object));
  OK(sg_fault_set(0, SG_FAULT_LOST, 1));
  REQUIRE(sg_card_lost(0) && !sg_card_lost(1));
  REQUIRE_EQUAL(sg_phys_create(0, 1, &object), SG_E_LOST);
  OK(sg_fault_set(0, SG_FAULT_LOST, 0));
  OK(sg_phys_create(0, 1, &object));
  OK(sg_phys_release(object));
  REQUIRE_EQUAL(sg_memory(2, &free_bytes, &used_bytes), SG_E_INVALID);
  REQUIRE_EQUAL(sg_phys_create(0, 0, &object), SG_E_INVALID);
}

static void tell(int end) { REQUIRE(write(end, "t", 1) == 1); }
static void hear(int end) { char byte; REQUIRE(read(end, &byte, 1) == 1); }

/* A process that closes all its descriptors loses its card, as with a real driver; it harms neither
 * the files that now have those numbers nor the other processes. */
static void test_closed_descriptors(void) {
  enum { FILES = 16 };
  static char page[4096];
  int to_child[2], to_parent[2];
  sg_phys own, object;
  OK(sg_phys_create(0, SG_GRANULE_BYTES, &own));
  REQUIRE(pipe(to_child) == 0 && pipe(to_parent) == 0);
  pid_t child = fork();
  if (child == 0) {
    fixture_rejoin();
    OK(sg_phys_create(0, SG_GRANULE_BYTES, &object));
    map(object, SG_GRANULE_BYTES)[0] = 1;
    for (int file = 3; file < 256; file++)
      if (file != to_child[0] && file != to_parent[1]) close(file);
    int files[FILES];
    memset(page, 'v', sizeof page);
    for (int i = 0; i < FILES; i++) {
      REQUIRE((files[i] = fileno(tmpfile())) >= 0);
      for (int pages = 0; pages < 512; pages++) REQUIRE(write(files[i], page, sizeof page) == sizeof page);
    }
    sg_sweep();
    OK(sg_phys_release(object));
    for (int i = 0; i < FILES; i++)
      for (int pages = 0; pages < 512; pages++) {
        REQUIRE(pread(files[i], page, sizeof page, pages * (off_t)sizeof page) == sizeof page);
        for (size_t at = 0; at < sizeof page; at++) REQUIRE(page[at] == 'v');
      }
    OK(sg_phys_create(0, SG_GRANULE_BYTES, &object));
    tell(to_parent[1]);
    hear(to_child[0]);
    REQUIRE_EQUAL(sg_phys_create(0, SG_GRANULE_BYTES, &object), SG_E_LOST);
    _exit(0);
  }
  int status;
  hear(to_parent[0]);
  REQUIRE_EQUAL(fixture_used(0), SG_GRANULE_BYTES); /* ours is there, the child's is not */
  tell(to_child[1]);
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE_EQUAL(status, 0);
  OK(sg_phys_release(own));
}

int main(void) {
  fixture_join();
  test_against_model();
  test_contents();
  test_sharing();
  test_limits();
  test_faults();
  test_closed_descriptors();
  return 0;
}

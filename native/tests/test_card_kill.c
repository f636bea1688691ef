// sources: simgpu/card_cgroup.c simgpu/card_context.c simgpu/card_engine.c simgpu/card_fault.c simgpu/card_list.c simgpu/card_lock.c simgpu/card_phys.c simgpu/card_process.c simgpu/card_profile.c simgpu/card_pump.c simgpu/card_state.c simgpu/card_submit.c simgpu/card_usage.c simgpu/card_wait.c
// sanitizers: no
// emulated: no
// A kill at any instruction of any call leaves a whole machine, gives back all that the dead process
// held, and harms nobody else. The child is stepped by ptrace and killed after N instructions.
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

#include "card_fixture.h"

#define KILLS_PER_CALL 6 /* evenly over its instructions; or at every Nth, with N as argument */
#define RANDOM_KILLS 200
#define CROWD 100

static sg_fence shared_fence; /* of the parent, the witness */
static sg_context witness;
static sg_channel witness_channel;
static uint64_t witness_bytes;
static char *witness_memory;

/* What a child has when the stepping begins. */
static struct { sg_phys small, large; sg_context context; sg_channel channel; sg_fence fence; char *map; } mine;

static struct sg_item kernel_item(uint64_t duration_ns) { return (struct sg_item){.op = SG_OP_KERNEL, .duration_ns = duration_ns}; }

static void set_up(void) {
  fixture_rejoin();
  OK(sg_phys_create(0, 3 * SG_GRANULE_BYTES, &mine.small));
  OK(sg_phys_create(0, 20 * SG_GRANULE_BYTES, &mine.large));
  OK(sg_phys_release(mine.small)); /* a hole */
  OK(sg_phys_create(0, SG_GRANULE_BYTES, &mine.small));
  mine.map = mmap(NULL, SG_GRANULE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OK(sg_phys_map(mine.small, 0, mine.map, SG_GRANULE_BYTES, PROT_READ | PROT_WRITE));
  mine.map[0] = 1;
  OK(sg_context_create(0, &mine.context));
  OK(sg_channel_open(mine.context, 0, &mine.channel));
  OK(sg_fence_create(&mine.fence));
  struct sg_item item = kernel_item(1000);
  for (int i = 0; i < 3; i++) OK(sg_submit(mine.channel, &item));
  item = (struct sg_item){.op = SG_OP_SIGNAL, .fence = mine.fence, .value = 1};
  OK(sg_submit(mine.channel, &item));
}

static void call_create(void) { sg_phys object; OK(sg_phys_create(0, 5 * SG_GRANULE_BYTES, &object)); }
static void call_release(void) { OK(sg_phys_release(mine.small)); }
static void call_map(void) { OK(sg_phys_map(mine.large, 0, mine.map, SG_GRANULE_BYTES, PROT_READ)); }
static void call_context(void) { sg_context context; OK(sg_context_create(0, &context)); }
static void call_destroy(void) { OK(sg_context_destroy(mine.context)); }
static void call_channel(void) { sg_channel channel; OK(sg_channel_open(mine.context, 0, &channel)); }
static void call_fence(void) { sg_fence fence; OK(sg_fence_create(&fence)); OK(sg_fence_destroy(fence)); }
static void call_pump(void) { uint64_t value, time_ns; OK(sg_fence_read(mine.fence, &value, &time_ns)); }
static void call_predict(void) { sg_fence_wait(mine.fence, 2, 0); }
static void call_list(void) { struct sg_process_usage rows[4]; unsigned count; OK(sg_processes(0, rows, 4, &count)); }
static void call_leave(void) { OK(sg_leave()); }
static void call_rejoin(void) { OK(sg_leave()); fixture_rejoin(); }
static void call_submit(void) {
  struct sg_item wait = {.op = SG_OP_WAIT, .fence = shared_fence, .value = 1000}, item = kernel_item(50);
  OK(sg_submit(mine.channel, &wait));
  OK(sg_submit(mine.channel, &item));
  call_pump();
}

static const struct { const char *name; void (*call)(void); } calls[] = {
    {"sg_phys_create", call_create}, {"sg_phys_release", call_release}, {"sg_phys_map", call_map},
    {"sg_context_create", call_context}, {"sg_context_destroy", call_destroy}, {"sg_channel_open", call_channel},
    {"sg_fence_create and _destroy", call_fence}, {"sg_fence_read", call_pump}, {"sg_fence_wait", call_predict},
    {"sg_submit", call_submit}, {"sg_processes", call_list}, {"sg_leave", call_leave}, {"sg_join", call_rejoin},
};

/* Runs a call under ptrace for that many instructions, then kills; how many were left before its end. */
static long step_and_kill(void (*call)(void), long steps) {
  pid_t child = fork();
  if (child == 0) {
    set_up();
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    call();
    raise(SIGSTOP);
    _exit(0);
  }
  int status;
  REQUIRE(child > 0 && waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  struct sg_item item = kernel_item(1000);
  OK(sg_submit(witness_channel, &item)); /* for the child to find, and not to lose */
  long done = 0;
  for (; done < steps; done++) {
    REQUIRE(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
    REQUIRE(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    if (WSTOPSIG(status) == SIGSTOP) break;
    REQUIRE_EQUAL(WSTOPSIG(status), SIGTRAP);
  }
  REQUIRE(kill(child, SIGKILL) == 0);
  while (waitpid(child, &status, 0) == child && !WIFSIGNALED(status)) continue;
  return done;
}

/* Nothing of the dead is left, and the witness has its memory and its time. */
static void check_survivors(const char *where, long step) {
  struct sg_item item = kernel_item(1000);
  if (fixture_used(0) != witness_bytes) {
    fprintf(stderr, "killed in %s after %ld instructions: %llu bytes are left\n", where, step,
            (unsigned long long)(fixture_used(0) - witness_bytes));
    _exit(1);
  }
  check_invariants();
  REQUIRE(memcmp(witness_memory, "witness", 8) == 0);
  OK(sg_channel_wait(witness_channel, 1000 * MILLISECOND));
  OK(sg_submit(witness_channel, &item));
  OK(sg_channel_wait(witness_channel, 1000 * MILLISECOND));
}

static void kill_in_every_call(long every) {
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    long length = step_and_kill(calls[i].call, 1 << 24);
    check_survivors(calls[i].name, length);
    long stride = every ? every : length / KILLS_PER_CALL + 1;
    for (long step = 1; step < length; step += stride) {
      step_and_kill(calls[i].call, step);
      check_survivors(calls[i].name, step);
    }
  }
  REQUIRE(atomic_load(&sg_state->recoveries) > 0); /* some died with the lock */
}

static void busy_client(void) {
  set_up();
  for (;;) {
    struct sg_item item = kernel_item((uint64_t)(rand() % 20000));
    sg_phys object;
    sg_context context;
    OK(sg_phys_create(0, (uint64_t)(1 + rand() % 8) * SG_GRANULE_BYTES, &object));
    OK(sg_context_create(0, &context));
    for (int i = 0; i < 10; i++) OK(sg_submit(mine.channel, &item));
    call_pump();
    OK(sg_context_destroy(context));
    OK(sg_phys_release(object));
  }
}

/* Clients at full speed, killed whenever it may be. */
static void kill_at_random(void) {
  pid_t clients[4] = {0};
  srand(7);
  for (int round = 0; round < RANDOM_KILLS; round++) {
    pid_t *client = &clients[rand() % 4];
    if (*client) REQUIRE(kill(*client, SIGKILL) == 0 && waitpid(*client, NULL, 0) == *client);
    *client = fork();
    if (*client == 0) busy_client();
    check_invariants();
    for (int i = rand() % 20; i; i--) OK(sg_fence_signal(shared_fence, 0)); /* other work of the lock */
  }
  for (int i = 0; i < 4; i++)
    if (clients[i]) REQUIRE(kill(clients[i], SIGKILL) == 0 && waitpid(clients[i], NULL, 0) == clients[i]);
  check_survivors("a busy client", 0);
}

/* A forked child that lives on does not keep its dead parent's slot, once its own fork has returned. */
static void survive_as_child(void) {
  int ends[2], forked[2];
  char byte = 0;
  REQUIRE(pipe(ends) == 0 && pipe(forked) == 0);
  pid_t parent = fork();
  if (parent == 0) {
    set_up();
    if (fork() == 0) {
      close(ends[1]);
      if (write(forked[1], &byte, 1) != 1) _exit(1);
      _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1); /* until the test itself ends */
    }
    REQUIRE(read(forked[0], &byte, 1) == 1);
    raise(SIGKILL);
  }
  REQUIRE(waitpid(parent, NULL, 0) == parent);
  check_survivors("a parent", 0);
  close(ends[1]);
}

static void kill_a_crowd(void) {
  pid_t crowd[CROWD];
  int ready[2];
  char byte = 0;
  REQUIRE(pipe(ready) == 0);
  for (int i = 0; i < CROWD; i++) {
    crowd[i] = fork();
    if (crowd[i]) continue;
    sg_phys object;
    fixture_rejoin();
    OK(sg_phys_create(0, 3 * SG_GRANULE_BYTES, &object));
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    for (;;) pause();
  }
  for (int i = 0; i < CROWD; i++) REQUIRE(read(ready[0], &byte, 1) == 1);
  for (int i = 0; i < CROWD; i++) REQUIRE(kill(crowd[i], SIGKILL) == 0 && waitpid(crowd[i], NULL, 0) == crowd[i]);
}

/* What many dead processes held comes back by parts, and at once where it is needed; their slots are used again. */
static void bury_a_crowd(void) {
  sg_phys object;
  kill_a_crowd();
  int looks = 1;
  while (fixture_used(0) != witness_bytes) looks++;
  REQUIRE(looks > 1 && looks <= CROWD / 20);
  uint32_t slots = sg_state->process_pool.fresh;
  REQUIRE(slots > CROWD);
  kill_a_crowd();
  OK(sg_phys_create(0, CARD_GRANULES * SG_GRANULE_BYTES - witness_bytes, &object));
  OK(sg_phys_release(object));
  kill_a_crowd();
  REQUIRE_EQUAL(sg_state->process_pool.fresh, slots);
}

int main(int argc, char **argv) {
  fixture_join();
  sg_phys object;
  OK(sg_phys_create(0, SG_GRANULE_BYTES, &object));
  witness_memory = mmap(NULL, SG_GRANULE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OK(sg_phys_map(object, 0, witness_memory, SG_GRANULE_BYTES, PROT_READ | PROT_WRITE));
  memcpy(witness_memory, "witness", 8);
  OK(sg_context_create(0, &witness));
  OK(sg_channel_open(witness, 0, &witness_channel));
  OK(sg_fence_create(&shared_fence));
  witness_bytes = fixture_used(0);
  kill_in_every_call(argc > 1 ? atol(argv[1]) : 0);
  kill_at_random();
  survive_as_child();
  bury_a_crowd();
  return 0;
}

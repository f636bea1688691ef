// sources: simgpu/card_cgroup.c simgpu/card_context.c simgpu/card_engine.c simgpu/card_fault.c simgpu/card_list.c simgpu/card_lock.c simgpu/card_phys.c simgpu/card_process.c simgpu/card_profile.c simgpu/card_pump.c simgpu/card_state.c simgpu/card_submit.c simgpu/card_usage.c simgpu/card_wait.c
// Without cgpu, backlogged processes get equal parts of a card, whatever the length of their kernels:
// the card's own time slices. Exact, for the work becomes ready for all in one instant.
#include <signal.h>

#include "card_fixture.h"

#define SLICE (1 * MILLISECOND)
#define SWITCH 10000u
#define TURNS 20u /* of each process */
#define MOST 8

struct share { sg_fence gate, done[MOST]; };

/* TURNS slices of work in kernels of one length, behind the gate. */
static void client(const struct share *share, int self, uint64_t kernel_ns, int ready) {
  sg_context context;
  sg_channel channel;
  fixture_rejoin();
  OK(sg_context_create(0, &context));
  OK(sg_channel_open(context, 0, &channel));
  OK(sg_submit(channel, &(struct sg_item){.op = SG_OP_WAIT, .fence = share->gate, .value = 1}));
  for (uint64_t i = 0; i < TURNS * SLICE / kernel_ns; i++)
    OK(sg_submit(channel, &(struct sg_item){.op = SG_OP_KERNEL, .duration_ns = kernel_ns}));
  OK(sg_submit(channel, &(struct sg_item){.op = SG_OP_SIGNAL, .fence = share->done[self], .value = 1}));
  REQUIRE(write(ready, "r", 1) == 1);
  OK(sg_channel_wait(channel, UINT64_MAX));
  pause(); /* keeps its row in the list of processes */
}

static void share_among(int processes) {
  struct share share;
  pid_t clients[MOST];
  int ready[2];
  char byte;
  uint64_t value, opened_ns, done_ns;
  REQUIRE(pipe(ready) == 0);
  OK(sg_fence_create(&share.gate));
  for (int i = 0; i < processes; i++) OK(sg_fence_create(&share.done[i]));
  for (int i = 0; i < processes; i++) {
    clients[i] = fork();
    if (clients[i] == 0) client(&share, i, i % 2 ? SLICE / 10 : 5 * SLICE, ready[1]);
  }
  for (int i = 0; i < processes; i++) REQUIRE(read(ready[0], &byte, 1) == 1);
  OK(sg_fence_signal(share.gate, 1));
  OK(sg_fence_read(share.gate, &value, &opened_ns));
  unsigned places = 0;
  for (int i = 0; i < processes; i++) {
    OK(sg_fence_wait(share.done[i], 1, UINT64_MAX));
    OK(sg_fence_read(share.done[i], &value, &done_ns));
    /* It had every Nth turn, so its last one ends in the last round; each place in that is taken once. */
    uint64_t turns = (done_ns - opened_ns) / (SWITCH + SLICE);
    REQUIRE_EQUAL((done_ns - opened_ns) % (SWITCH + SLICE), 0);
    REQUIRE(turns > (TURNS - 1) * (uint64_t)processes && turns <= TURNS * (uint64_t)processes);
    places |= 1u << (turns - (TURNS - 1) * (uint64_t)processes - 1);
  }
  REQUIRE_EQUAL(places, (1u << processes) - 1);
  struct sg_process_usage rows[MOST + 1];
  unsigned count;
  OK(sg_processes(0, rows, MOST + 1, &count));
  REQUIRE_EQUAL(count, processes);
  for (int i = 0; i < processes; i++) REQUIRE_EQUAL(rows[i].busy_ns, TURNS * SLICE);
  for (int i = 0; i < processes; i++) REQUIRE(kill(clients[i], SIGKILL) == 0 && waitpid(clients[i], NULL, 0) == clients[i]);
  REQUIRE_EQUAL(fixture_used(0), 0);
  check_invariants();
}

int main(void) {
  struct sg_card_usage usage;
  fixture_join();
  share_among(2);
  share_among(MOST);
  OK(sg_card_usage(0, &usage));
  REQUIRE_EQUAL(usage.busy_ns, (2 + MOST) * TURNS * SLICE);
  return 0;
}

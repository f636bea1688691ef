// sources: simgpu/card_cgroup.c simgpu/card_context.c simgpu/card_engine.c simgpu/card_fault.c simgpu/card_list.c simgpu/card_lock.c simgpu/card_phys.c simgpu/card_process.c simgpu/card_profile.c simgpu/card_pump.c simgpu/card_state.c simgpu/card_submit.c simgpu/card_usage.c simgpu/card_wait.c
// Threads of one process: they may share channels and fences, and none is left asleep.
#include <pthread.h>

#include "card_fixture.h"

#define THREADS 4
#define ROUNDS 150

static sg_context context;
static sg_channel shared;
static atomic_int copies;

static void submit(sg_channel channel, struct sg_item item) { OK(sg_submit(channel, &item)); }

/* Each round: a kernel on the shared channel, then a copy on the own one that waits for it. */
static void *use(void *unused) {
  sg_channel own;
  sg_fence kernel, copy;
  (void)unused;
  OK(sg_channel_open(context, 0, &own));
  OK(sg_fence_create(&kernel));
  OK(sg_fence_create(&copy));
  for (uint64_t round = 1; round <= ROUNDS; round++) {
    sg_phys object;
    OK(sg_phys_create(0, SG_GRANULE_BYTES, &object));
    submit(own, (struct sg_item){.op = SG_OP_WAIT, .fence = kernel, .value = round});
    submit(own, (struct sg_item){.op = SG_OP_LOCAL, .engine = SG_ENGINE_COPY_IN, .value = round, .duration_ns = 500});
    submit(own, (struct sg_item){.op = SG_OP_SIGNAL, .fence = copy, .value = round});
    submit(shared, (struct sg_item){.op = SG_OP_KERNEL, .duration_ns = 1000});
    submit(shared, (struct sg_item){.op = SG_OP_SIGNAL, .fence = kernel, .value = round});
    if (round % 3 == 0)
      OK(sg_channel_wait(own, UINT64_MAX));
    else
      OK(sg_fence_wait(copy, round, UINT64_MAX));
    OK(sg_phys_release(object));
  }
  OK(sg_fence_destroy(kernel));
  OK(sg_fence_destroy(copy));
  OK(sg_channel_close(own));
  return NULL;
}

static void *work(void *unused) {
  struct sg_local local;
  (void)unused;
  while (copies < (1 + THREADS) * ROUNDS) {
    OK(sg_local_next(&local, UINT64_MAX));
    OK(sg_local_done(&local));
    copies++;
  }
  return NULL;
}

int main(void) {
  pthread_t threads[THREADS], worker;
  struct sg_process_usage row;
  unsigned count;
  fixture_join();
  OK(sg_context_create(0, &context));
  OK(sg_channel_open(context, 0, &shared));
  REQUIRE(pthread_create(&worker, NULL, work, NULL) == 0);
  uint64_t start = sg_now_ns();
  use(NULL);
  /* If the worker did not ring, each round would end 200 ms late, when the waiter looks by itself. */
  REQUIRE(sg_now_ns() - start < ROUNDS * 100 * MILLISECOND);
  for (int i = 0; i < THREADS; i++) REQUIRE(pthread_create(&threads[i], NULL, use, NULL) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  pthread_join(worker, NULL);
  OK(sg_processes(0, &row, 1, &count));
  REQUIRE_EQUAL(count, 1);
  REQUIRE_EQUAL(row.kernels, (1 + THREADS) * ROUNDS);
  REQUIRE_EQUAL(row.busy_ns, (1 + THREADS) * ROUNDS * 1000);
  REQUIRE_EQUAL(row.copy_ns, (1 + THREADS) * ROUNDS * 500);
  REQUIRE_EQUAL(row.memory_bytes, CONTEXT_GRANULES * SG_GRANULE_BYTES);
  check_invariants();
  return 0;
}

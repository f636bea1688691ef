// sources: simgpu/card_cgroup.c simgpu/card_context.c simgpu/card_engine.c simgpu/card_fault.c simgpu/card_list.c simgpu/card_lock.c simgpu/card_phys.c simgpu/card_process.c simgpu/card_profile.c simgpu/card_pump.c simgpu/card_state.c simgpu/card_submit.c simgpu/card_usage.c simgpu/card_wait.c
// The time of a card is exact, whoever looks at it and when: kernels, turns, holds, copies, faults.
//
// Work is queued behind a wait for a gate, so that all of it becomes ready in one instant, when the
// gate opens; times are the cards' own stamps. So nothing here depends on how busy the machine is.
#include <pthread.h>

#include "card_fixture.h"

#define SLICE (1 * MILLISECOND)
#define SWITCH 10000u

static sg_fence gate;
static uint64_t opened; /* value of the gate that opens the next round */

struct queue { sg_context context; sg_channel channel; sg_fence done; uint64_t signals; };

static struct queue queue_on(sg_context context, int priority) {
  struct queue queue = {.context = context};
  OK(sg_channel_open(context, priority, &queue.channel));
  OK(sg_fence_create(&queue.done));
  OK(sg_submit(queue.channel, &(struct sg_item){.op = SG_OP_WAIT, .fence = gate, .value = opened + 1}));
  return queue;
}

static struct queue queue_of(int card) {
  sg_context context;
  OK(sg_context_create(card, &context));
  return queue_on(context, 0);
}

static void put(struct queue *queue, struct sg_item item) {
  OK(sg_submit(queue->channel, &item));
  OK(sg_submit(queue->channel, &(struct sg_item){.op = SG_OP_SIGNAL, .fence = queue->done, .value = ++queue->signals}));
}

static void kernel(struct queue *queue, uint64_t duration_ns) {
  put(queue, (struct sg_item){.op = SG_OP_KERNEL, .duration_ns = duration_ns});
}

/* Opens the gate: the instant from which the times below count. */
static uint64_t start(void) {
  uint64_t value, time_ns;
  OK(sg_fence_signal(gate, ++opened));
  OK(sg_fence_read(gate, &value, &time_ns));
  return time_ns;
}

/* When the queue's last item was complete. */
static uint64_t finish(struct queue *queue) {
  uint64_t value, time_ns;
  OK(sg_fence_wait(queue->done, queue->signals, UINT64_MAX));
  OK(sg_fence_read(queue->done, &value, &time_ns));
  REQUIRE_EQUAL(value, queue->signals);
  return time_ns;
}

static void drop(struct queue *queue) {
  OK(sg_fence_destroy(queue->done));
  OK(sg_context_destroy(queue->context));
  check_invariants();
}

static struct sg_process_usage own_usage(int card) {
  struct sg_process_usage rows[8];
  unsigned count;
  OK(sg_processes(card, rows, 8, &count));
  REQUIRE(count <= 8);
  for (unsigned i = 0; i < count; i++)
    if (rows[i].own_pid == (uint32_t)getpid()) return rows[i];
  return (struct sg_process_usage){0};
}

/* A round begins on an idle card whose last context was another one, so the first kernel pays a switch. */
static void test_kernels_in_order(void) {
  struct sg_process_usage before = own_usage(0), after;
  struct queue queue = queue_of(0);
  for (int i = 0; i < 10; i++) kernel(&queue, 3 * MILLISECOND / 10);
  uint64_t from = start();
  REQUIRE_EQUAL(finish(&queue) - from, SWITCH + 3 * MILLISECOND);
  after = own_usage(0);
  REQUIRE_EQUAL(after.busy_ns - before.busy_ns, 3 * MILLISECOND);
  REQUIRE_EQUAL(after.kernels - before.kernels, 10);
  drop(&queue);
}

/* Two contexts take turns of a slice, each turn after a switch; a long kernel is suspended. */
static void test_turns(void) {
  struct queue one = queue_of(0), two = queue_of(0);
  kernel(&one, 3 * SLICE);
  for (int i = 0; i < 20; i++) kernel(&two, SLICE / 10);
  uint64_t from = start();
  REQUIRE_EQUAL(finish(&two) - from, 4 * (SWITCH + SLICE));
  REQUIRE_EQUAL(finish(&one) - from, 5 * (SWITCH + SLICE));
  drop(&one);
  drop(&two);
}

/* Kernels of one context's channels run one at a time: the more urgent first, then by readiness. */
static void test_channels_of_a_context(void) {
  struct queue low = queue_of(0), high = queue_on(low.context, -1), late = queue_on(low.context, 0);
  for (int i = 0; i < 2; i++) kernel(&low, SLICE);
  kernel(&high, SLICE);
  kernel(&late, SLICE);
  uint64_t from = start();
  REQUIRE_EQUAL(finish(&high) - from, SWITCH + SLICE);
  REQUIRE_EQUAL(finish(&late) - from, SWITCH + 3 * SLICE);
  REQUIRE_EQUAL(finish(&low) - from, SWITCH + 4 * SLICE);
  OK(sg_fence_destroy(high.done));
  OK(sg_fence_destroy(late.done));
  drop(&low);
}

/* A persistent kernel takes its context's turns until its fence comes, and lets its siblings run. */
static void test_hold(void) {
  struct queue hold = queue_of(0), feeder = queue_on(hold.context, 0), rival = queue_of(0);
  kernel(&feeder, 2 * SLICE - SLICE / 2);
  put(&hold, (struct sg_item){.op = SG_OP_HOLD, .fence = feeder.done, .value = 1});
  kernel(&rival, 3 * SLICE);
  uint64_t from = start();
  REQUIRE_EQUAL(finish(&feeder) - from, 3 * SWITCH + 5 * SLICE / 2);
  REQUIRE_EQUAL(finish(&hold) - from, 3 * SWITCH + 5 * SLICE / 2);
  REQUIRE_EQUAL(finish(&rival) - from, 4 * SWITCH + 9 * SLICE / 2); /* alone for its last slice */
  OK(sg_fence_destroy(feeder.done));
  drop(&hold);
  drop(&rival);
}

/* A suspended persistent kernel sees its fence only in its next turn. */
static void test_hold_of_another_card(void) {
  struct queue hold = queue_of(0), rival = queue_of(0), other = queue_of(1);
  kernel(&other, 3 * SLICE / 2); /* in the middle of the rival's turn */
  put(&hold, (struct sg_item){.op = SG_OP_HOLD, .fence = other.done, .value = 1});
  kernel(&rival, 5 * SLICE);
  uint64_t from = start();
  REQUIRE_EQUAL(finish(&other) - from, SWITCH + 3 * SLICE / 2);
  REQUIRE_EQUAL(finish(&hold) - from, 2 * (SWITCH + SLICE) + SWITCH);
  REQUIRE_EQUAL(finish(&rival) - from, 4 * SWITCH + 6 * SLICE);
  drop(&hold);
  drop(&rival);
  drop(&other);
}

/* A collective: each card's persistent kernel ends when the other's part has come. */
static void test_collective(void) {
  struct queue left = queue_of(0), right = queue_of(1);
  struct queue left_part = queue_on(left.context, 0), right_part = queue_on(right.context, 0);
  put(&left, (struct sg_item){.op = SG_OP_HOLD, .fence = right_part.done, .value = 1});
  put(&right, (struct sg_item){.op = SG_OP_HOLD, .fence = left_part.done, .value = 1});
  kernel(&left_part, 2 * SLICE);
  kernel(&right_part, 5 * SLICE);
  uint64_t from = start();
  REQUIRE_EQUAL(finish(&left) - from, SWITCH + 5 * SLICE);
  REQUIRE_EQUAL(finish(&right) - from, SWITCH + 2 * SLICE);
  REQUIRE_EQUAL(finish(&right_part) - from, SWITCH + 5 * SLICE);
  OK(sg_fence_destroy(left_part.done));
  OK(sg_fence_destroy(right_part.done));
  drop(&left);
  drop(&right);
}

static void *work(void *count) {
  for (int i = 0; i < *(int *)count; i++) {
    struct sg_local local;
    OK(sg_local_next(&local, UINT64_MAX));
    OK(sg_local_done(&local));
  }
  return NULL;
}

/* Copies run beside kernels, one at a time in each direction; what follows waits for the owner. */
static void test_copies(void) {
  pthread_t worker;
  int count = 4;
  struct sg_process_usage before = own_usage(0);
  struct queue compute = queue_of(0), first = queue_of(0), second = queue_of(0), back = queue_of(0);
  kernel(&compute, 20 * MILLISECOND);
  struct sg_item copy = {.op = SG_OP_LOCAL, .engine = SG_ENGINE_COPY_IN, .value = 1, .duration_ns = 2 * MILLISECOND};
  put(&first, copy);
  put(&second, copy);
  copy.engine = SG_ENGINE_COPY_OUT;
  put(&back, copy);
  put(&back, (struct sg_item){.op = SG_OP_LOCAL, .engine = SG_ENGINE_NONE, .value = 2});
  uint64_t from = start();
  REQUIRE_EQUAL(pthread_create(&worker, NULL, work, &count), 0);
  REQUIRE(finish(&first) - from >= 2 * MILLISECOND);
  REQUIRE(finish(&second) - from >= 4 * MILLISECOND);
  REQUIRE(finish(&back) - from >= 2 * MILLISECOND);
  REQUIRE_EQUAL(finish(&compute) - from, SWITCH + 20 * MILLISECOND);
  pthread_join(worker, NULL);
  REQUIRE_EQUAL(own_usage(0).copy_ns - before.copy_ns, 6 * MILLISECOND);
  drop(&compute);
  drop(&first);
  drop(&second);
  drop(&back);
}

/* An Xid of an application ends the context on the engine and gives its signals; others go on. */
static void test_xid(void) {
  uint64_t cursor = 0, xid = 0, before = own_usage(1).busy_ns;
  struct queue guilty = queue_of(1), neighbour = queue_of(0);
  kernel(&guilty, 3600 * 1000 * MILLISECOND);
  kernel(&neighbour, MILLISECOND);
  start();
  while (own_usage(1).busy_ns == before) continue; /* until the kernel has the engine */
  REQUIRE_EQUAL(sg_xid_wait(1, &cursor, &xid, 0), SG_E_TIMEOUT);
  OK(sg_fault_set(1, SG_FAULT_XID, 31));
  finish(&guilty);
  OK(sg_context_error(guilty.context, &xid));
  REQUIRE_EQUAL(xid, 31);
  REQUIRE_EQUAL(sg_channel_wait(guilty.channel, UINT64_MAX), SG_E_FAULT);
  REQUIRE_EQUAL(sg_submit(guilty.channel, &(struct sg_item){.op = SG_OP_KERNEL}), SG_E_FAULT);
  OK(sg_xid_wait(1, &cursor, &xid, UINT64_MAX));
  REQUIRE_EQUAL(xid, 31);
  REQUIRE_EQUAL(sg_xid_wait(1, &cursor, &xid, 0), SG_E_TIMEOUT);
  finish(&neighbour);
  OK(sg_context_error(neighbour.context, &xid));
  REQUIRE_EQUAL(xid, 0);
  drop(&guilty);
  drop(&neighbour);
}

/* A lost card ends every context that it has, waiting ones too, and no one waits for ever. */
static void test_lost_card(void) {
  struct queue running = queue_of(1), waiting = queue_of(1);
  uint64_t xid;
  kernel(&running, 3600 * 1000 * MILLISECOND);
  put(&waiting, (struct sg_item){.op = SG_OP_HOLD, .fence = running.done, .value = 100});
  start();
  OK(sg_fault_set(1, SG_FAULT_LOST, 1));
  finish(&running);
  finish(&waiting);
  OK(sg_context_error(waiting.context, &xid));
  REQUIRE_EQUAL(xid, 79);
  sg_context context;
  REQUIRE_EQUAL(sg_context_create(1, &context), SG_E_LOST);
  OK(sg_fault_set(1, SG_FAULT_LOST, 0));
  drop(&running);
  drop(&waiting);
}

/* More items than a ring holds; a wait that times out; a channel that closes itself. */
static void test_full_ring_and_waits(void) {
  struct queue queue = queue_of(0);
  uint64_t from = start();
  for (int i = 0; i < 3000; i++) OK(sg_submit(queue.channel, &(struct sg_item){.op = SG_OP_KERNEL, .duration_ns = 3000}));
  kernel(&queue, 50 * MILLISECOND);
  REQUIRE_EQUAL(sg_fence_wait(queue.done, 1, 1000), SG_E_TIMEOUT);
  bool idle = true;
  OK(sg_channel_idle(queue.channel, &idle));
  REQUIRE(!idle);
  OK(sg_channel_wait(queue.channel, UINT64_MAX));
  OK(sg_channel_idle(queue.channel, &idle));
  REQUIRE(idle && finish(&queue) - from >= 59 * MILLISECOND);
  OK(sg_channel_retire(queue.channel));
  REQUIRE_EQUAL(sg_submit(queue.channel, &(struct sg_item){.op = SG_OP_KERNEL}), SG_E_INVALID);
  REQUIRE_EQUAL(sg_submit(queue.channel, &(struct sg_item){.op = SG_OP_SIGNAL, .fence = gate}), SG_E_INVALID);
  drop(&queue);
}

/* A destroyed fence keeps its meaning for what is queued. */
static void test_fence_outlives_its_name(void) {
  sg_fence between;
  struct queue first = queue_of(0), second = queue_of(0);
  OK(sg_fence_create(&between));
  OK(sg_submit(second.channel, &(struct sg_item){.op = SG_OP_WAIT, .fence = between, .value = 7}));
  kernel(&second, MILLISECOND);
  OK(sg_submit(first.channel, &(struct sg_item){.op = SG_OP_SIGNAL, .fence = between, .value = 3}));
  kernel(&first, 2 * SLICE);
  OK(sg_submit(first.channel, &(struct sg_item){.op = SG_OP_SIGNAL, .fence = between, .value = 7}));
  OK(sg_fence_destroy(between));
  uint64_t from = start();
  REQUIRE_EQUAL(finish(&second) - from, SWITCH + 2 * SLICE + SWITCH + MILLISECOND);
  REQUIRE_EQUAL(sg_fence_destroy(between), SG_E_INVALID);
  drop(&first);
  drop(&second);
}

/* The busy share of a window, of the card and of one process. */
static void test_utilisation(void) {
  unsigned percent;
  uint64_t now = sg_now_ns();
  sg_lock();
  sg_window_add(&sg_state->card[1].window, now - 2000 * MILLISECOND, now - 1000 * MILLISECOND);
  sg_window_add(&sg_state->card[1].window, now - 1000 * MILLISECOND, now); /* the busy span may be told in parts */
  sg_window_add(&sg_state->process[sg_self].usage[1].window, now - 100000 * MILLISECOND, now - 3000 * MILLISECOND);
  sg_unlock();
  OK(sg_utilisation(1, 0, 1000 * MILLISECOND, &percent));
  REQUIRE(percent > 50 && percent <= 100); /* less than 100 by the time since `now` */
  OK(sg_utilisation(1, (uint32_t)getpid(), 3600 * 1000 * MILLISECOND, &percent));
  REQUIRE(percent < 10); /* what it did more than 2 s ago does not count, nor what the card did */
  REQUIRE_EQUAL(sg_utilisation(2, 0, 1, &percent), SG_E_INVALID);
}

int main(void) {
  fixture_join();
  OK(sg_fence_create(&gate));
  test_kernels_in_order();
  test_turns();
  test_channels_of_a_context();
  test_hold();
  test_hold_of_another_card();
  test_collective();
  test_copies();
  test_xid();
  test_lost_card();
  test_full_ring_and_waits();
  test_fence_outlives_its_name();
  test_utilisation();
  return 0;
}

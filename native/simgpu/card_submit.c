/* card_submit.c - queueing an item without the machine's lock.
 *
 * A channel has one producer, its process, and one consumer, whoever pumps. The producer publishes
 * with one store of the ring's tail, then sets the channel's doorbell bit. What a thread of this
 * process may be waiting for is looked at last, behind the doorbell's full barrier, so that either
 * we see the sleeper or the sleeper's pump sees the item.
 */
#include <pthread.h>

#include "card_internal.h"

#define FULL_BATCH 32u /* a full ring is left with so many free items, not to wait for each */

struct producer {
  pthread_mutex_t lock; /* threads of this process */
  uint64_t seen_head;   /* the channel's head, as it was committed at some time */
  uint32_t seen_name;
};
static struct producer producers[SG_MAX_CHANNELS] = {[0 ... SG_MAX_CHANNELS - 1] = {PTHREAD_MUTEX_INITIALIZER, 0, 0}};

void sg_producers_reset(void) {
  for (uint32_t i = 0; i < SG_MAX_CHANNELS; i++) producers[i] = (struct producer){PTHREAD_MUTEX_INITIALIZER, 0, 0};
}

void sg_foreign(uint32_t other) {
  struct sg_process *self = &sg_state->process[sg_self];
  if (!atomic_load_explicit(&self->foreign, memory_order_relaxed)) atomic_store(&self->foreign, 1);
  if (!atomic_load_explicit(&sg_state->process[other].foreign, memory_order_relaxed))
    atomic_store(&sg_state->process[other].foreign, 1);
}

/* Counts the item as a use of its fence. False: there is no such fence. */
static bool use_fence(const struct sg_item *item) {
  uint32_t index = SG_FIND(fence, item->fence, SG_FENCE_BITS);
  if (!index) return false;
  struct sg_fence_record *fence = &sg_state->fence[index];
  atomic_fetch_add_explicit(&fence->uses, 1, memory_order_relaxed);
  if (fence->process != sg_self) sg_foreign(fence->process);
  return true;
}

static bool valid(const struct sg_item *item) {
  switch (item->op) {
    case SG_OP_KERNEL: return true;
    case SG_OP_LOCAL: return item->engine <= SG_ENGINE_NONE;
    case SG_OP_HOLD: case SG_OP_WAIT: case SG_OP_SIGNAL: return use_fence(item);
    default: return false;
  }
}

/* Waits until the ring has room: for a batch, or for a single item if more will not come by itself. */
static int make_room(uint32_t index, struct producer *producer, uint64_t tail) {
  struct sg_wait wait = {.condition = {SG_WHEN_CHANNEL, index, tail - SG_RING_ITEMS + FULL_BATCH},
                         .name = producer->seen_name, .enough = tail - SG_RING_ITEMS + 1};
  int rc = sg_wait_locked(&wait, SG_NEVER);
  if (rc != SG_OK) return rc;
  sg_commit(); /* the head that we go by must not be rolled back */
  producer->seen_head = sg_state->channel[index].head;
  sg_unlock();
  return SG_OK;
}

static int publish(uint32_t index, struct producer *producer, const struct sg_item *item) {
  struct sg_ring *ring = &sg_state->ring[index];
  uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  if (tail - producer->seen_head >= SG_RING_ITEMS) {
    int rc = make_room(index, producer, tail);
    if (rc != SG_OK) return rc;
  }
  ring->items[tail % SG_RING_ITEMS] = (struct sg_ring_item){.op = item->op, .engine = item->engine,
      .fence = item->fence, .value = item->value, .duration_ns = item->duration_ns, .submit_ns = sg_now_ns()};
  atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
  atomic_fetch_or(&sg_state->doorbell[index / 64], 1ull << index % 64);
  return SG_OK;
}

/* A signal may release whoever waits for one; other work releases at most the worker that does it. */
static void wake_sleepers(const struct sg_item *item) {
  struct sg_process *self = &sg_state->process[sg_self];
  if (item->op == SG_OP_SIGNAL) sg_released(sg_self);
  if (item->op == SG_OP_LOCAL && atomic_load(&self->work_waiters)) sg_ring_bell(sg_self);
}

int sg_submit(sg_channel name, const struct sg_item *item) {
  uint32_t index = sg_self ? sg_channel_of(name) : 0;
  if (!index || sg_state->channel[index].retiring) return SG_E_INVALID;
  if (atomic_load_explicit(&sg_state->channel[index].error, memory_order_relaxed)) return SG_E_FAULT;
  if (!valid(item)) return SG_E_INVALID;
  struct producer *producer = &producers[index];
  pthread_mutex_lock(&producer->lock);
  if (producer->seen_name != name) { /* its first item: another channel had this record before */
    producer->seen_name = name;
    producer->seen_head = atomic_load(&sg_state->ring[index].tail);
  }
  int rc = publish(index, producer, item);
  pthread_mutex_unlock(&producer->lock);
  if (rc == SG_OK) wake_sleepers(item);
  return rc;
}

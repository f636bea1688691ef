/* card_pump.c - the items of channels, and the loop that advances the machine to the present.
 *
 * There is no daemon: whoever looks, first lets all that has happened since the last look happen, in
 * order of its time. Each event leaves the machine consistent and is committed by itself. Items carry
 * the time of their submission, so a late look finds the same history as an early one.
 *
 * An item starts at the latest of: its submission, the completion of the item before it, and the
 * moment when its engine is free.
 */
#include "card_internal.h"

#define SWEEP_EVERY_NS 10000000u
#define PREDICT_EVENTS 400

static struct sg_channel_record *channel_at(uint32_t index) { return &sg_state->channel[index]; }

static int card_of(uint32_t channel) { return (int)sg_state->context[channel_at(channel)->context].card; }

void sg_timer(uint32_t index, enum sg_phase phase, uint64_t wake_ns) {
  uint32_t before = 0;
  for (uint32_t other = sg_state->timers.tail; other && channel_at(other)->wake_ns > wake_ns;
       other = channel_at(other)->queue.prev)
    before = other;
  SG_SET(channel_at(index)->phase, phase);
  SG_SET(channel_at(index)->wake_ns, wake_ns);
  sg_list_insert(&SG_QUEUE, &sg_state->timers, index, before);
}

void sg_fence_set(uint32_t index, uint64_t value, uint64_t now) {
  struct sg_fence_record *fence = &sg_state->fence[index];
  if (value <= fence->value) return;
  SG_SET(fence->value, value);
  SG_SET(fence->time_ns, now);
  for (uint32_t next, channel = fence->waiters.head; channel; channel = next) {
    struct sg_channel_record *record = channel_at(channel);
    next = record->queue.next;
    if (sg_item_at(channel, record->head)->value > value) continue;
    sg_list_remove(&SG_QUEUE, &fence->waiters, channel);
    sg_timer(channel, record->phase == SG_PHASE_HOLD ? SG_PHASE_MET : SG_PHASE_TIMER, now);
  }
}

/* An item has been consumed: a fence that its owner has destroyed ends with the last that names it. */
static void release_fence(const struct sg_ring_item *item) {
  if (item->op != SG_OP_HOLD && item->op != SG_OP_WAIT && item->op != SG_OP_SIGNAL) return;
  uint32_t index = SG_FIND(fence, item->fence, SG_FENCE_BITS);
  if (!index) return;
  struct sg_fence_record *fence = &sg_state->fence[index];
  SG_ADD(fence->uses_done, 1);
  if (fence->dying && fence->uses_done == atomic_load(&fence->uses)) sg_fence_drop(index);
}

/* Whether the item has nothing (more) to wait for: its fence has come, or is no more. */
static bool fence_has_come(const struct sg_ring_item *item, uint32_t *index) {
  *index = SG_FIND(fence, item->fence, SG_FENCE_BITS);
  return !*index || sg_state->fence[*index].value >= item->value;
}

static void wait_for_fence(uint32_t channel, uint32_t fence, enum sg_phase phase) {
  SG_SET(channel_at(channel)->phase, phase);
  SG_SET(channel_at(channel)->fence, fence);
  sg_list_append(&SG_QUEUE, &sg_state->fence[fence].waiters, channel);
}

static void begin_hold(uint32_t channel, const struct sg_ring_item *item, uint64_t now) {
  uint32_t fence;
  bool come = fence_has_come(item, &fence);
  sg_engine_hold(channel, now);
  if (come)
    sg_timer(channel, SG_PHASE_MET, now);
  else
    wait_for_fence(channel, fence, SG_PHASE_HOLD);
}

void sg_effect_begin(uint32_t index) {
  SG_SET(channel_at(index)->effect, SG_EFFECT_DUE);
  sg_list_append(&SG_DUE, &sg_state->process[channel_at(index)->process].due, index);
}

static void start_copy(struct sg_copy_engine *copy, uint64_t now) {
  uint32_t channel = copy->queue.head;
  if (!channel) return;
  SG_SET(copy->end_ns, now + sg_item_at(channel, channel_at(channel)->head)->duration_ns);
  sg_effect_begin(channel);
}

static void begin_local(uint32_t channel, const struct sg_ring_item *item, uint64_t now) {
  if (item->engine == SG_ENGINE_COMPUTE) {
    SG_SET(channel_at(channel)->remaining_ns, item->duration_ns);
    sg_engine_ready(channel, now);
  } else if (item->engine == SG_ENGINE_NONE) {
    sg_timer(channel, SG_PHASE_DELAY, now + item->duration_ns);
  } else {
    struct sg_copy_engine *copy = &sg_state->card[card_of(channel)].copy[item->engine == SG_ENGINE_COPY_OUT];
    bool free = !copy->queue.head;
    SG_SET(channel_at(channel)->phase, SG_PHASE_COPY);
    sg_list_append(&SG_QUEUE, &copy->queue, channel);
    if (free) start_copy(copy, now);
  }
}

/* Does what takes no time; true when the item is complete with that. */
static bool begin_item(uint32_t channel, const struct sg_ring_item *item, uint64_t now) {
  uint32_t fence;
  switch (item->op) {
    case SG_OP_KERNEL:
      SG_SET(channel_at(channel)->remaining_ns, item->duration_ns);
      sg_engine_ready(channel, now);
      return false;
    case SG_OP_HOLD: begin_hold(channel, item, now); return false;
    case SG_OP_LOCAL: begin_local(channel, item, now); return false;
    case SG_OP_WAIT:
      if (fence_has_come(item, &fence)) return true;
      wait_for_fence(channel, fence, SG_PHASE_STALLED);
      return false;
    default: /* SG_OP_SIGNAL; sg_submit lets no other pass */
      fence = SG_FIND(fence, item->fence, SG_FENCE_BITS);
      if (fence) sg_fence_set(fence, item->value, now);
      return true;
  }
}

void sg_channel_step(uint32_t index, uint64_t now) {
  struct sg_channel_record *channel = channel_at(index);
  for (;;) {
    uint64_t tail = atomic_load_explicit(&sg_state->ring[index].tail, memory_order_acquire);
    if (channel->head == tail) break;
    const struct sg_ring_item *item = sg_item_at(index, channel->head);
    if (item->submit_ns > now) {
      sg_timer(index, SG_PHASE_TIMER, item->submit_ns);
      return;
    }
    if (!begin_item(index, item, now)) return;
    release_fence(item);
    SG_ADD(channel->head, 1);
  }
  SG_SET(channel->phase, SG_PHASE_IDLE);
  if (channel->retiring) sg_channel_drop(index);
}

void sg_channel_next(uint32_t index, uint64_t now) {
  release_fence(sg_item_at(index, channel_at(index)->head));
  if (channel_at(index)->effect) SG_SET(channel_at(index)->effect, SG_EFFECT_NONE);
  SG_ADD(channel_at(index)->head, 1);
  sg_channel_step(index, now);
}

void sg_effect_await(uint32_t index, uint64_t now) {
  if (channel_at(index)->effect == SG_EFFECT_DONE)
    sg_channel_next(index, now);
  else
    SG_SET(channel_at(index)->phase, SG_PHASE_LATE);
}

static void end_copy(int card, struct sg_copy_engine *copy, uint64_t now) {
  uint32_t channel = copy->queue.head;
  uint64_t spent = sg_item_at(channel, channel_at(channel)->head)->duration_ns;
  SG_ADD(sg_state->card[card].copy_ns, spent);
  SG_ADD(sg_state->process[channel_at(channel)->process].usage[card].copy_ns, spent);
  sg_list_remove(&SG_QUEUE, &copy->queue, channel);
  start_copy(copy, now);
  sg_effect_await(channel, now);
}

static void cancel_copy(uint32_t channel, uint64_t now) {
  struct sg_card_state *card = &sg_state->card[card_of(channel)];
  const struct sg_ring_item *item = sg_item_at(channel, channel_at(channel)->head);
  struct sg_copy_engine *copy = &card->copy[item->engine == SG_ENGINE_COPY_OUT];
  bool running = copy->queue.head == channel;
  sg_list_remove(&SG_QUEUE, &copy->queue, channel);
  if (running) start_copy(copy, now);
}

/* Takes the oldest item off wherever it is. */
static void stop_item(uint32_t index, uint64_t now) {
  struct sg_channel_record *channel = channel_at(index);
  sg_engine_forget(index, now);
  switch (channel->phase) {
    case SG_PHASE_TIMER: case SG_PHASE_DELAY: case SG_PHASE_MET:
      sg_list_remove(&SG_QUEUE, &sg_state->timers, index);
      break;
    case SG_PHASE_HOLD: case SG_PHASE_STALLED:
      sg_list_remove(&SG_QUEUE, &sg_state->fence[channel->fence].waiters, index);
      break;
    case SG_PHASE_COPY: cancel_copy(index, now); break;
    default: break; /* in no list, or sg_engine_forget has done it */
  }
  if (channel->effect == SG_EFFECT_DUE) sg_list_remove(&SG_DUE, &sg_state->process[channel->process].due, index);
  SG_SET(channel->effect, SG_EFFECT_NONE);
  SG_SET(channel->phase, SG_PHASE_IDLE);
  sg_engine_review(channel->context, now);
}

void sg_channel_cancel(uint32_t index, uint64_t now) {
  struct sg_channel_record *channel = channel_at(index);
  stop_item(index, now);
  uint64_t tail = atomic_load_explicit(&sg_state->ring[index].tail, memory_order_acquire);
  while (channel->head != tail) {
    const struct sg_ring_item *item = sg_item_at(index, channel->head);
    uint32_t fence = item->op == SG_OP_SIGNAL ? SG_FIND(fence, item->fence, SG_FENCE_BITS) : 0;
    if (fence) sg_fence_set(fence, item->value, now);
    release_fence(item);
    SG_ADD(channel->head, 1);
  }
}

/* A callback may look at the time: it is not run before its own. */
static void end_delay(uint32_t channel, uint64_t now) {
  sg_effect_begin(channel);
  sg_effect_await(channel, now);
}

static void timer_event(uint64_t now) {
  uint32_t channel = sg_state->timers.head;
  uint32_t phase = channel_at(channel)->phase;
  sg_list_remove(&SG_QUEUE, &sg_state->timers, channel);
  if (phase == SG_PHASE_MET)
    sg_engine_met(channel, now);
  else if (phase == SG_PHASE_DELAY)
    end_delay(channel, now);
  else
    sg_channel_step(channel, now);
}

/* ---- the loop ---- */

enum source { SOURCE_TIMER, SOURCE_COMPUTE, SOURCE_COPY_IN, SOURCE_COPY_OUT };
struct event { uint64_t time_ns; enum source source; int card; };

static void earlier(struct event *event, uint64_t time_ns, enum source source, int card) {
  if (time_ns < event->time_ns) *event = (struct event){time_ns, source, card};
}

static struct event next_event(void) {
  struct event event = {SG_NEVER, SOURCE_TIMER, 0};
  if (sg_state->timers.head) earlier(&event, channel_at(sg_state->timers.head)->wake_ns, SOURCE_TIMER, 0);
  for (int i = 0; i < sg_state->machine.cards; i++) {
    const struct sg_card_state *card = &sg_state->card[i];
    earlier(&event, sg_engine_next(card), SOURCE_COMPUTE, i);
    if (card->copy[0].queue.head) earlier(&event, card->copy[0].end_ns, SOURCE_COPY_IN, i);
    if (card->copy[1].queue.head) earlier(&event, card->copy[1].end_ns, SOURCE_COPY_OUT, i);
  }
  return event;
}

static void happen(const struct event *event) {
  SG_SET(sg_state->time_ns, event->time_ns);
  switch (event->source) {
    case SOURCE_TIMER: timer_event(event->time_ns); break;
    case SOURCE_COMPUTE: sg_engine_event(event->card, event->time_ns); break;
    case SOURCE_COPY_IN: end_copy(event->card, &sg_state->card[event->card].copy[0], event->time_ns); break;
    case SOURCE_COPY_OUT: end_copy(event->card, &sg_state->card[event->card].copy[1], event->time_ns); break;
  }
}

/* Channels that were idle and have got items go to the timers. */
static void collect_doorbells(void) {
  uint32_t words = (sg_state->channel_pool.fresh + 63) / 64;
  for (uint32_t i = 0; i < words; i++) {
    if (atomic_load(&sg_state->doorbell[i]) == 0) continue;
    uint64_t bits = atomic_exchange(&sg_state->doorbell[i], 0);
    for (; bits; bits &= bits - 1) {
      uint32_t index = i * 64 + (uint32_t)__builtin_ctzll(bits);
      struct sg_channel_record *channel = channel_at(index);
      uint64_t tail = atomic_load_explicit(&sg_state->ring[index].tail, memory_order_acquire);
      if (!channel->context || channel->phase != SG_PHASE_IDLE || channel->head == tail) continue;
      if (channel->error) { /* submitted while a fault was killing the context */
        sg_channel_cancel(index, sg_state->time_ns);
        continue;
      }
      /* Published late: it cannot start in a past that has been told already. */
      uint64_t submit_ns = sg_item_at(index, channel->head)->submit_ns;
      sg_timer(index, SG_PHASE_TIMER, submit_ns > sg_state->time_ns ? submit_ns : sg_state->time_ns);
    }
  }
}

void sg_ring_every_doorbell(void) {
  for (uint32_t i = 0; i < SG_MAX_CHANNELS / 64; i++) atomic_store(&sg_state->doorbell[i], UINT64_MAX);
}

void sg_pump(void) {
  collect_doorbells();
  uint64_t now = sg_now_ns();
  for (;;) {
    struct event event = next_event();
    if (event.time_ns > now) break;
    happen(&event);
    sg_commit();
  }
  if (now > sg_state->time_ns) SG_SET(sg_state->time_ns, now);
  for (int card = 0; card < sg_state->machine.cards; card++) sg_engine_settle(card, sg_state->time_ns);
  sg_commit();
  if (now - sg_state->swept_ns >= SWEEP_EVERY_NS) sg_sweep();
}

bool sg_holds(const struct sg_condition *condition) {
  switch (condition->kind) {
    case SG_WHEN_FENCE: return sg_state->fence[condition->index].value >= condition->value;
    case SG_WHEN_CHANNEL: return channel_at(condition->index)->head >= condition->value;
    default: return sg_state->process[condition->index].due.head != 0;
  }
}

uint64_t sg_predict(const struct sg_condition *condition) {
  struct event event = {sg_state->time_ns, SOURCE_TIMER, 0};
  sg_commit();
  sg_dry = true;
  for (int budget = PREDICT_EVENTS; !sg_holds(condition); budget--) {
    event = next_event();
    if (event.time_ns == SG_NEVER || budget == 0) break;
    happen(&event);
  }
  sg_rollback();
  sg_dry = false;
  return event.time_ns;
}

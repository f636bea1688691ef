/* card_engine.c - the compute engine of a card, as exact virtual time.
 *
 * The engine has one context at a time. Contexts with runnable kernels stand in `runnable`, the one
 * on the engine first; it stays for a slice, or until it has nothing to run, then goes to the end.
 * A change of context costs context_switch_ns. Whoever is alone stays, slice after slice; a context
 * that comes then waits for the end of the slice that is under way.
 *
 * Time is settled (charged to the process that had it) before anything about the engine changes.
 */
#include "card_internal.h"

static struct sg_context_record *context_at(uint32_t index) { return &sg_state->context[index]; }

static bool on_engine(uint32_t context) {
  const struct sg_card_state *card = &sg_state->card[context_at(context)->card];
  return card->mode == SG_ENGINE_RUN && card->loaded == context;
}

static bool alone(const struct sg_card_state *card) { return card->runnable.head == card->runnable.tail; }

uint64_t sg_engine_next(const struct sg_card_state *card) {
  if (card->mode == SG_ENGINE_IDLE) return SG_NEVER;
  if (card->mode == SG_ENGINE_SWITCH) return card->switch_end_ns;
  uint32_t running = context_at(card->loaded)->running;
  uint64_t next = running ? card->since_ns + sg_state->channel[running].remaining_ns : SG_NEVER;
  return alone(card) || next < card->slice_end_ns ? next : card->slice_end_ns;
}

void sg_engine_settle(int index, uint64_t now) {
  struct sg_card_state *card = &sg_state->card[index];
  uint64_t spent = now - card->since_ns;
  if (spent == 0) return;
  if (card->mode == SG_ENGINE_RUN) {
    const struct sg_context_record *context = context_at(card->loaded);
    if (context->running) {
      struct sg_channel_record *channel = &sg_state->channel[context->running];
      SG_SET(channel->remaining_ns, channel->remaining_ns - spent);
    }
    if (!sg_dry) {
      struct sg_usage *usage = &sg_state->process[context->process].usage[index];
      SG_ADD(card->busy_ns, spent);
      SG_ADD(usage->busy_ns, spent);
      sg_window_add(&card->window, card->since_ns, now);
      sg_window_add(&usage->window, card->since_ns, now);
    }
  }
  SG_SET(card->since_ns, now);
}

static bool runnable(const struct sg_context_record *context) {
  return context->running || context->ready.head || context->holds;
}

static void pick_kernel(uint32_t index) {
  struct sg_context_record *context = context_at(index);
  uint32_t channel = context->ready.head;
  if (context->running || !channel) return;
  sg_list_remove(&SG_QUEUE, &context->ready, channel);
  SG_SET(sg_state->channel[channel].phase, SG_PHASE_RUNNING);
  SG_SET(context->running, channel);
  if (sg_item_at(channel, sg_state->channel[channel].head)->op == SG_OP_LOCAL) sg_effect_begin(channel);
}

static void end_hold(uint32_t channel, uint64_t now) {
  struct sg_context_record *context = context_at(sg_state->channel[channel].context);
  struct sg_card_state *card = &sg_state->card[context->card];
  SG_SET(context->holds, context->holds - 1);
  SG_ADD(card->kernels, 1);
  SG_ADD(sg_state->process[context->process].usage[context->card].kernels, 1);
  sg_channel_next(channel, now);
}

/* The loaded context has the engine from now on. */
static void begin_turn(int index, uint64_t now) {
  struct sg_card_state *card = &sg_state->card[index];
  uint32_t loaded = card->loaded;
  struct sg_context_record *context = context_at(loaded);
  SG_SET(card->mode, SG_ENGINE_RUN);
  SG_SET(card->since_ns, now);
  SG_SET(card->slice_end_ns, now + sg_state->info[index].timeslice_ns);
  while (context->met.head) {
    uint32_t channel = context->met.head;
    sg_list_remove(&SG_QUEUE, &context->met, channel);
    end_hold(channel, now);
  }
  if (on_engine(loaded)) pick_kernel(loaded); /* not if the end of the holds has ended its turn */
}

/* Gives the engine to the first of the runnable contexts, or to nobody. */
static void next_turn(int index, uint64_t now) {
  struct sg_card_state *card = &sg_state->card[index];
  uint32_t next = card->runnable.head;
  SG_SET(card->since_ns, now);
  if (!next) {
    SG_SET(card->mode, SG_ENGINE_IDLE);
  } else if (next == card->loaded) {
    begin_turn(index, now);
  } else {
    SG_SET(card->loaded, next);
    SG_SET(card->mode, SG_ENGINE_SWITCH);
    SG_SET(card->switch_end_ns, now + sg_state->info[index].context_switch_ns);
  }
}

/* After something ended on the engine: goes on with this context, or with the next one. */
static void review(int index, uint64_t now) {
  struct sg_card_state *card = &sg_state->card[index];
  uint32_t loaded = card->loaded;
  if (card->mode != SG_ENGINE_RUN) return; /* what ended has led to a change of turns already */
  pick_kernel(loaded);
  if (!runnable(context_at(loaded))) {
    sg_list_remove(&SG_RUNNABLE, &card->runnable, loaded);
    SG_SET(context_at(loaded)->queued, 0);
    next_turn(index, now);
  } else if (now >= card->slice_end_ns && !alone(card)) {
    sg_list_remove(&SG_RUNNABLE, &card->runnable, loaded);
    sg_list_append(&SG_RUNNABLE, &card->runnable, loaded);
    next_turn(index, now);
  }
}

static void end_kernel(uint32_t channel, uint64_t now) {
  struct sg_context_record *context = context_at(sg_state->channel[channel].context);
  const struct sg_ring_item *item = sg_item_at(channel, sg_state->channel[channel].head);
  SG_SET(context->running, 0);
  if (item->op == SG_OP_LOCAL) {
    sg_effect_await(channel, now);
    return;
  }
  SG_ADD(sg_state->card[context->card].kernels, 1);
  SG_ADD(sg_state->process[context->process].usage[context->card].kernels, 1);
  sg_channel_next(channel, now);
}

void sg_engine_event(int index, uint64_t now) {
  struct sg_card_state *card = &sg_state->card[index];
  sg_engine_settle(index, now);
  if (card->mode == SG_ENGINE_SWITCH) {
    begin_turn(index, now);
  } else {
    uint32_t running = context_at(card->loaded)->running;
    if (running && sg_state->channel[running].remaining_ns == 0) end_kernel(running, now);
  }
  review(index, now);
}

/* The context has something to run: it joins the queue, if it is not in it. */
static void wake_context(uint32_t index, uint64_t now) {
  struct sg_context_record *context = context_at(index);
  struct sg_card_state *card = &sg_state->card[context->card];
  if (context->queued) {
    if (on_engine(index) && !context->running) {
      sg_engine_settle((int)context->card, now);
      pick_kernel(index);
    }
    return;
  }
  if (card->mode == SG_ENGINE_RUN && alone(card) && now >= card->slice_end_ns) {
    uint64_t slice_ns = sg_state->info[context->card].timeslice_ns;
    SG_ADD(card->slice_end_ns, ((now - card->slice_end_ns) / slice_ns + 1) * slice_ns);
  }
  SG_SET(context->queued, 1);
  sg_list_append(&SG_RUNNABLE, &card->runnable, index);
  if (card->mode == SG_ENGINE_IDLE) next_turn((int)context->card, now);
}

void sg_engine_ready(uint32_t index, uint64_t now) {
  struct sg_channel_record *channel = &sg_state->channel[index];
  struct sg_context_record *context = context_at(channel->context);
  uint32_t before = 0; /* the first of those that it overtakes */
  for (uint32_t other = context->ready.tail; other && sg_state->channel[other].priority > channel->priority;
       other = sg_state->channel[other].queue.prev)
    before = other;
  SG_SET(channel->phase, SG_PHASE_READY);
  sg_list_insert(&SG_QUEUE, &context->ready, index, before);
  wake_context(channel->context, now);
}

void sg_engine_hold(uint32_t index, uint64_t now) {
  uint32_t context = sg_state->channel[index].context;
  SG_ADD(context_at(context)->holds, 1);
  wake_context(context, now);
}

void sg_engine_met(uint32_t index, uint64_t now) {
  struct sg_channel_record *channel = &sg_state->channel[index];
  struct sg_context_record *context = context_at(channel->context);
  if (!on_engine(channel->context)) {
    SG_SET(channel->phase, SG_PHASE_MET_OFF);
    sg_list_append(&SG_QUEUE, &context->met, index);
    return;
  }
  sg_engine_settle((int)context->card, now);
  end_hold(index, now);
  review((int)context->card, now);
}

void sg_engine_forget(uint32_t index, uint64_t now) {
  struct sg_channel_record *channel = &sg_state->channel[index];
  struct sg_context_record *context = context_at(channel->context);
  sg_engine_settle((int)context->card, now);
  if (channel->phase == SG_PHASE_RUNNING) SG_SET(context->running, 0);
  if (channel->phase == SG_PHASE_HOLD || channel->phase == SG_PHASE_MET || channel->phase == SG_PHASE_MET_OFF)
    SG_SET(context->holds, context->holds - 1);
  if (channel->phase == SG_PHASE_READY) sg_list_remove(&SG_QUEUE, &context->ready, index);
  if (channel->phase == SG_PHASE_MET_OFF) sg_list_remove(&SG_QUEUE, &context->met, index);
}

void sg_engine_review(uint32_t index, uint64_t now) {
  struct sg_context_record *context = context_at(index);
  struct sg_card_state *card = &sg_state->card[context->card];
  sg_engine_settle((int)context->card, now);
  if (on_engine(index)) {
    review((int)context->card, now);
  } else if (context->queued && !runnable(context)) {
    sg_list_remove(&SG_RUNNABLE, &card->runnable, index);
    SG_SET(context->queued, 0);
    if (card->loaded == index) next_turn((int)context->card, now);
  }
}

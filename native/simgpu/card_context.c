/* card_context.c - contexts, channels and fences: how they come and go. */
#include "card_internal.h"

static struct sg_context_record *context_at(uint32_t index) { return &sg_state->context[index]; }
static struct sg_channel_record *channel_at(uint32_t index) { return &sg_state->channel[index]; }
static struct sg_fence_record *fence_at(uint32_t index) { return &sg_state->fence[index]; }

static uint32_t own_context(sg_context name) {
  uint32_t index = SG_FIND(context, name, SG_CONTEXT_BITS);
  return index && context_at(index)->process == sg_self ? index : 0;
}

uint32_t sg_channel_of(sg_channel name) {
  uint32_t index = SG_FIND(channel, name, SG_CHANNEL_BITS);
  return index && channel_at(index)->process == sg_self && channel_at(index)->context ? index : 0;
}

/* ---- contexts ---- */

static int make_context(int card, uint32_t *index) {
  uint32_t memory = 0;
  uint64_t bytes = sg_state->info[card].context_bytes;
  int rc = bytes ? sg_object_create(card, bytes, false, &memory) : sg_state->card[card].lost ? SG_E_LOST : SG_OK;
  if (rc != SG_OK) return rc;
  *index = SG_TAKE(context_pool, context);
  if (!*index) return SG_E_FULL;
  struct sg_context_record *context = context_at(*index);
  SG_SET(context->card, (uint32_t)card);
  SG_SET(context->process, sg_self);
  SG_SET(context->memory, memory);
  SG_SET(context->error, 0);
  if (!context->generation) SG_SET(context->generation, 1);
  sg_list_append(&SG_CONTEXTS, &sg_state->process[sg_self].contexts, *index);
  SG_ADD(sg_state->process[sg_self].usage[card].contexts, 1);
  return SG_OK;
}

int sg_context_create(int card, sg_context *name) {
  if (!sg_card(card)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = 0;
  rc = make_context(card, &index);
  if (rc == SG_OK)
    *name = SG_NAME(index, context_at(index)->generation, SG_CONTEXT_BITS);
  else
    sg_rollback();
  sg_unlock();
  return rc;
}

void sg_context_drop(uint32_t index) {
  struct sg_context_record *context = context_at(index);
  struct sg_card_state *card = &sg_state->card[context->card];
  while (context->channels.head) sg_channel_drop(context->channels.head);
  if (card->loaded == index) SG_SET(card->loaded, 0); /* nothing of it is runnable: the engine has moved on */
  for (uint32_t ref = context->memory ? sg_state->object[context->memory].refs.head : 0; ref;
       ref = sg_state->ref[ref].of_object.next) {
    if (sg_state->ref[ref].process != context->process) continue;
    sg_ref_drop(ref, 1);
    break;
  }
  struct sg_process *process = &sg_state->process[context->process];
  sg_list_remove(&SG_CONTEXTS, &process->contexts, index);
  SG_SET(process->usage[context->card].contexts, process->usage[context->card].contexts - 1);
  SG_SET(context->generation, SG_NEXT_GENERATION(context->generation, SG_CONTEXT_BITS));
  SG_GIVE(context_pool, context, index);
}

void sg_context_kill(uint32_t index, uint32_t xid) {
  struct sg_context_record *context = context_at(index);
  if (context->error) return;
  SG_SET(context->error, xid);
  for (uint32_t next, channel = context->channels.head; channel; channel = next) {
    next = channel_at(channel)->of_context.next;
    SG_SET(channel_at(channel)->error, xid);
    sg_channel_cancel(channel, sg_state->time_ns);
  }
}

int sg_context_destroy(sg_context name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = own_context(name);
  if (index) sg_context_drop(index);
  sg_unlock();
  sg_released(sg_self);
  return index ? SG_OK : SG_E_INVALID;
}

int sg_context_error(sg_context name, uint64_t *xid) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  uint32_t index = own_context(name);
  if (index) *xid = context_at(index)->error;
  sg_unlock();
  return index ? SG_OK : SG_E_INVALID;
}

/* ---- channels ---- */

int sg_channel_open(sg_context context_name, int priority, sg_channel *name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  uint32_t context = own_context(context_name);
  uint32_t index = context ? SG_TAKE(channel_pool, channel) : 0;
  if (index) {
    struct sg_channel_record *channel = channel_at(index);
    /* The ring's tail is the producer's and only grows: the new life begins where the old ended. */
    SG_SET(channel->head, atomic_load(&sg_state->ring[index].tail));
    SG_SET(channel->context, context);
    SG_SET(channel->process, sg_self);
    SG_SET(channel->priority, priority);
    SG_SET(channel->retiring, 0);
    SG_SET(channel->phase, SG_PHASE_IDLE);
    if (!channel->generation) SG_SET(channel->generation, 1);
    SG_SET(channel->error, context_at(context)->error);
    sg_list_append(&SG_CHANNELS, &context_at(context)->channels, index);
    *name = SG_NAME(index, channel->generation, SG_CHANNEL_BITS);
  } else {
    rc = context ? SG_E_FULL : SG_E_INVALID;
  }
  sg_unlock();
  return rc;
}

void sg_channel_drop(uint32_t index) {
  struct sg_channel_record *channel = channel_at(index);
  sg_channel_cancel(index, sg_state->time_ns);
  sg_list_remove(&SG_CHANNELS, &context_at(channel->context)->channels, index);
  SG_SET(channel->context, 0);
  SG_SET(channel->generation, SG_NEXT_GENERATION(channel->generation, SG_CHANNEL_BITS));
  SG_GIVE(channel_pool, channel, index);
}

int sg_channel_close(sg_channel name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = sg_channel_of(name);
  if (index) sg_channel_drop(index);
  sg_unlock();
  sg_released(sg_self);
  return index ? SG_OK : SG_E_INVALID;
}

int sg_channel_retire(sg_channel name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = sg_channel_of(name);
  if (index) {
    SG_SET(channel_at(index)->retiring, 1);
    if (channel_at(index)->phase == SG_PHASE_IDLE) sg_channel_step(index, sg_state->time_ns);
  }
  sg_unlock();
  return index ? SG_OK : SG_E_INVALID;
}

/* ---- fences ---- */

int sg_fence_create(sg_fence *name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  uint32_t index = SG_TAKE(fence_pool, fence);
  if (index) {
    struct sg_fence_record *fence = fence_at(index);
    SG_SET(fence->process, sg_self);
    SG_SET(fence->dying, 0);
    SG_SET(fence->value, 0);
    SG_SET(fence->time_ns, 0);
    SG_SET(fence->uses_done, atomic_load(&fence->uses));
    if (!fence->generation) SG_SET(fence->generation, 1);
    sg_list_append(&SG_FENCES, &sg_state->process[sg_self].fences, index);
    *name = SG_NAME(index, fence->generation, SG_FENCE_BITS);
  }
  sg_unlock();
  return index ? SG_OK : SG_E_FULL;
}

void sg_fence_drop(uint32_t index) {
  struct sg_fence_record *fence = fence_at(index);
  SG_SET(fence->generation, SG_NEXT_GENERATION(fence->generation, SG_FENCE_BITS));
  while (fence->waiters.head) { /* they look again, and find nothing to wait for */
    uint32_t channel = fence->waiters.head;
    bool hold = channel_at(channel)->phase == SG_PHASE_HOLD;
    sg_list_remove(&SG_QUEUE, &fence->waiters, channel);
    sg_timer(channel, hold ? SG_PHASE_MET : SG_PHASE_TIMER, sg_state->time_ns);
  }
  sg_list_remove(&SG_FENCES, &sg_state->process[fence->process].fences, index);
  SG_GIVE(fence_pool, fence, index);
}

int sg_fence_destroy(sg_fence name) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = SG_FIND(fence, name, SG_FENCE_BITS);
  if (index && (fence_at(index)->process != sg_self || fence_at(index)->dying)) index = 0;
  if (index) {
    SG_SET(fence_at(index)->dying, 1);
    if (fence_at(index)->uses_done == atomic_load(&fence_at(index)->uses)) sg_fence_drop(index);
  }
  sg_unlock();
  return index ? SG_OK : SG_E_INVALID;
}

int sg_fence_read(sg_fence name, uint64_t *value, uint64_t *time_ns) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = SG_FIND(fence, name, SG_FENCE_BITS);
  if (index) {
    *value = fence_at(index)->value;
    *time_ns = fence_at(index)->time_ns;
  }
  sg_unlock();
  return index ? SG_OK : SG_E_INVALID;
}

int sg_fence_signal(sg_fence name, uint64_t value) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = SG_FIND(fence, name, SG_FENCE_BITS);
  uint32_t owner = index ? fence_at(index)->process : 0;
  if (index) sg_fence_set(index, value, sg_state->time_ns);
  sg_unlock();
  if (owner && owner != sg_self) sg_foreign(owner);
  sg_released(sg_self);
  return index ? SG_OK : SG_E_INVALID;
}

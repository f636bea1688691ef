/* card_wait.c - waiting for the card without a daemon to wake us.
 *
 * Who waits predicts when its condition will hold if nobody does anything more, sleeps until shortly
 * before, and spins the rest. What somebody may do meanwhile is mostly more work, which can only
 * delay: then the sleeper finds its condition still false and predicts anew. What may bring the time
 * forward rings a bell, one futex per process: a submission, when the prediction was "never"; the end
 * of an SG_OP_LOCAL; a signal from the host. Between processes the bell is rung only by those that
 * share a fence with others. The rest (a competitor that dies, closes a channel or ends a persistent
 * kernel early) is covered by sleeping 50 ms at most while the prediction hangs on others' turns.
 */
#include "card_internal.h"

#define SPIN_NS 60000u          /* the kernel's timer slack is 50 us */
#define LONGEST_SLEEP_NS 50000000u  /* while it hangs on the turns of others */
#define LONGEST_OPEN_NS 200000000u  /* while it hangs on a submission or signal, which rings */
#define LONGEST_IDLE_NS 1000000000u /* a worker without work */

void sg_ring_bell(uint32_t process) {
  atomic_fetch_add(&sg_state->process[process].bell, 1);
  sg_futex_wake(&sg_state->process[process].bell, 0x7fffffff);
}

void sg_released(uint32_t process) {
  struct sg_process *self = &sg_state->process[process];
  if (atomic_load(&self->open_waiters)) sg_ring_bell(process);
  if (!atomic_load_explicit(&self->foreign, memory_order_relaxed)) return;
  for (uint32_t other = 1; other < sg_state->process_pool.fresh; other++) {
    struct sg_process *foreign = &sg_state->process[other];
    if (other != process && atomic_load(&foreign->foreign) && atomic_load(&foreign->open_waiters)) sg_ring_bell(other);
  }
}

static void spin_until(uint64_t time_ns) {
  while (sg_now_ns() < time_ns) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

/* Sleeps until shortly before `until`, at most so long; a bell rung since `bell` was read ends it. */
static void doze(uint64_t until, uint64_t longest_ns, uint32_t bell) {
  uint64_t now = sg_now_ns();
  uint64_t left = until > now ? until - now : 0;
  if (left <= SPIN_NS) {
    spin_until(until);
    return;
  }
  if (until != SG_NEVER) left -= SPIN_NS;
  sg_futex_wait(&sg_state->process[sg_self].bell, bell, left < longest_ns ? left : longest_ns);
}

/* Whether the wait is over: 1, not yet: 0, or an sg_error when it never can be. */
static int look(const struct sg_wait *wait) {
  const struct sg_condition *condition = &wait->condition;
  if (condition->kind == SG_WHEN_FENCE && !SG_FIND(fence, wait->name, SG_FENCE_BITS)) return SG_E_INVALID;
  if (condition->kind == SG_WHEN_CHANNEL) {
    if (!SG_FIND(channel, wait->name, SG_CHANNEL_BITS)) return SG_E_INVALID;
    if (atomic_load(&sg_state->channel[condition->index].error)) return SG_E_FAULT;
  }
  return sg_holds(condition);
}

/* Advances the machine and looks. *until: when to look again, if nothing rings; in `open` whether
 * this thread is counted among those that any release must wake. */
static int look_ahead(const struct sg_wait *wait, uint64_t *until, uint32_t *bell, bool *open) {
  struct sg_process *self = &sg_state->process[sg_self];
  for (;;) {
    *bell = atomic_load(&self->bell);
    sg_pump();
    int seen = look(wait);
    if (seen != 0) return seen;
    *until = sg_predict(&wait->condition);
    if (*until != SG_NEVER || *open) break;
    /* What is submitted from now on sees us; what was submitted before, the second look sees. */
    *open = true;
    atomic_fetch_add(&self->open_waiters, 1);
  }
  bool enough = wait->condition.kind == SG_WHEN_CHANNEL && *until == SG_NEVER &&
                sg_state->channel[wait->condition.index].head >= wait->enough;
  return enough;
}

int sg_wait_locked(const struct sg_wait *wait, uint64_t timeout_ns) {
  uint64_t start = sg_now_ns();
  uint64_t deadline = timeout_ns < SG_NEVER - start ? start + timeout_ns : SG_NEVER;
  bool work = wait->condition.kind == SG_WHEN_DUE;
  for (;;) {
    uint64_t until = 0;
    uint32_t bell = 0;
    bool open = false;
    int rc = sg_enter();
    if (rc != SG_OK) return rc;
    struct sg_process *self = &sg_state->process[sg_self];
    if (work) atomic_fetch_add(&self->work_waiters, 1);
    int seen = look_ahead(wait, &until, &bell, &open);
    bool late = seen == 0 && sg_now_ns() >= deadline;
    if (seen == 0 && !late) {
      sg_unlock();
      uint64_t longest_ns = until != SG_NEVER ? LONGEST_SLEEP_NS : work ? LONGEST_IDLE_NS : LONGEST_OPEN_NS;
      doze(until < deadline ? until : deadline, longest_ns, bell);
    }
    if (open) atomic_fetch_sub(&self->open_waiters, 1);
    if (work) atomic_fetch_sub(&self->work_waiters, 1);
    if (seen > 0) return SG_OK;
    if (seen < 0 || late) {
      sg_unlock();
      return late ? SG_E_TIMEOUT : seen;
    }
  }
}

int sg_fence_wait(sg_fence name, uint64_t value, uint64_t timeout_ns) {
  if (!sg_self) return SG_E_STATE;
  struct sg_wait wait = {{SG_WHEN_FENCE, SG_INDEX(name, SG_FENCE_BITS), value}, name, SG_NEVER};
  uint32_t owner = SG_FIND(fence, name, SG_FENCE_BITS) ? sg_state->fence[wait.condition.index].process : sg_self;
  if (owner != sg_self) sg_foreign(owner);
  int rc = sg_wait_locked(&wait, timeout_ns);
  if (rc == SG_OK) sg_unlock();
  return rc;
}

/* ---- channels ---- */

int sg_channel_idle(sg_channel name, bool *idle) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = sg_channel_of(name);
  if (!index)
    rc = SG_E_INVALID;
  else if (atomic_load(&sg_state->channel[index].error))
    rc = SG_E_FAULT;
  else
    *idle = sg_state->channel[index].head == atomic_load(&sg_state->ring[index].tail);
  sg_unlock();
  return rc;
}

int sg_channel_wait(sg_channel name, uint64_t timeout_ns) {
  uint32_t index = sg_self ? sg_channel_of(name) : 0;
  if (!index) return SG_E_INVALID;
  struct sg_wait wait = {{SG_WHEN_CHANNEL, index, atomic_load(&sg_state->ring[index].tail)}, name, SG_NEVER};
  int rc = sg_wait_locked(&wait, timeout_ns);
  if (rc == SG_OK) sg_unlock();
  return rc;
}

/* ---- work that the process itself does ---- */

int sg_local_next(struct sg_local *local, uint64_t timeout_ns) {
  if (!sg_self) return SG_E_STATE;
  struct sg_wait wait = {{SG_WHEN_DUE, sg_self, 0}, 0, SG_NEVER};
  int rc = sg_wait_locked(&wait, timeout_ns);
  if (rc != SG_OK) return rc;
  uint32_t index = sg_state->process[sg_self].due.head;
  struct sg_channel_record *channel = &sg_state->channel[index];
  sg_list_remove(&SG_DUE, &sg_state->process[sg_self].due, index);
  SG_SET(channel->effect, SG_EFFECT_DOING);
  local->channel = SG_NAME(index, channel->generation, SG_CHANNEL_BITS);
  local->tag = sg_item_at(index, channel->head)->value;
  sg_unlock();
  return SG_OK;
}

int sg_local_done(const struct sg_local *local) {
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  uint32_t index = sg_channel_of(local->channel);
  struct sg_channel_record *channel = &sg_state->channel[index];
  bool doing = index && channel->effect == SG_EFFECT_DOING && sg_item_at(index, channel->head)->value == local->tag;
  if (doing) SG_SET(channel->effect, SG_EFFECT_DONE);
  if (doing && channel->phase == SG_PHASE_LATE) sg_channel_next(index, sg_state->time_ns);
  sg_unlock();
  sg_released(sg_self);
  return doing ? SG_OK : SG_E_INVALID;
}

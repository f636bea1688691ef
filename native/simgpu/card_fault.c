/* card_fault.c - faults on demand: memory that runs out, a lost card, Xids, slow driver calls. */
#include <time.h>

#include "card_internal.h"

#define XID_FALLEN_OFF_THE_BUS 79

bool sg_card_lost(int card) { return sg_card(card) && __atomic_load_n(&sg_state->card[card].lost, __ATOMIC_RELAXED); }

/* Xids that concern one application; after others the card needs a reset, and all its contexts end.
 * See NVIDIA, "XID Errors", docs.nvidia.com/deploy/xid-errors. */
static bool of_one_application(uint64_t xid) {
  switch (xid) {
    case 13: case 31: case 32: case 43: case 45: case 68: case 69: case 94: return true;
    default: return false;
  }
}

static void raise_xid(int index, uint64_t xid) {
  struct sg_card_state *card = &sg_state->card[index];
  bool one = of_one_application(xid);
  uint32_t victim = card->mode == SG_ENGINE_RUN ? card->loaded : 0;
  SG_SET(card->xids[card->xid_count % SG_XID_RING], xid);
  SG_ADD(card->xid_count, 1);
  for (uint32_t slot = 1; slot < sg_state->process_pool.fresh; slot++)
    for (uint32_t context = sg_state->process[slot].contexts.head; context;
         context = sg_state->context[context].of_process.next)
      if (one ? context == victim : sg_state->context[context].card == (uint32_t)index)
        sg_context_kill(context, (uint32_t)xid);
  atomic_store(&card->xid_bell, (uint32_t)card->xid_count);
}

int sg_fault_set(int index, enum sg_fault fault, uint64_t value) {
  if (!sg_card(index)) return SG_E_INVALID;
  int rc = sg_enter();
  if (rc != SG_OK) return rc;
  sg_pump();
  struct sg_card_state *card = &sg_state->card[index];
  switch (fault) {
    case SG_FAULT_OOM: SG_SET(card->oom_left, value); break;
    case SG_FAULT_LOST:
      if (value && !card->lost) raise_xid(index, XID_FALLEN_OFF_THE_BUS);
      SG_SET(card->lost, value != 0);
      break;
    case SG_FAULT_SLOW: SG_SET(card->slow_ns, value); break;
    case SG_FAULT_XID:
      if (value == 0 || value > UINT32_MAX) rc = SG_E_INVALID;
      else raise_xid(index, value);
      break;
    default: rc = SG_E_INVALID;
  }
  sg_unlock();
  if (rc == SG_OK && (fault == SG_FAULT_XID || fault == SG_FAULT_LOST)) {
    sg_futex_wake(&card->xid_bell, 0x7fffffff);
    for (uint32_t slot = 1; slot < sg_state->process_pool.fresh; slot++) sg_ring_bell(slot);
  }
  return rc;
}

void sg_fault_point(int card) {
  uint64_t slow_ns = sg_card(card) ? __atomic_load_n(&sg_state->card[card].slow_ns, __ATOMIC_RELAXED) : 0;
  struct timespec left = {(time_t)(slow_ns / 1000000000u), (long)(slow_ns % 1000000000u)};
  while (slow_ns && nanosleep(&left, &left) != 0) continue;
}

int sg_xid_wait(int index, uint64_t *cursor, uint64_t *xid, uint64_t timeout_ns) {
  if (!sg_card(index)) return SG_E_INVALID;
  struct sg_card_state *card = &sg_state->card[index];
  uint64_t start = sg_now_ns();
  for (;;) {
    uint32_t bell = atomic_load(&card->xid_bell);
    int rc = sg_enter();
    if (rc != SG_OK) return rc;
    uint64_t count = card->xid_count;
    if (count > SG_XID_RING && *cursor < count - SG_XID_RING) *cursor = count - SG_XID_RING; /* forgotten */
    bool got = *cursor < count;
    if (got) *xid = card->xids[(*cursor)++ % SG_XID_RING];
    sg_unlock();
    if (got) return SG_OK;
    uint64_t spent = sg_now_ns() - start;
    if (spent >= timeout_ns) return SG_E_TIMEOUT;
    sg_futex_wait(&card->xid_bell, bell, timeout_ns == SG_NEVER ? SG_NEVER : timeout_ns - spent);
  }
}

/* charge.h - one atomic charge of memory to a tenant: the protocol that region.h describes.
 *
 * Pure functions over the `usage` file, inline, so that the shim (which charges for its own process)
 * and the agent's library (which returns what a dead process held) run the same code. Only one
 * thread at a time may work for a slot: in the living owner that is the holder of a private lock,
 * for a dead one the holder of the slot's file lock. Nothing here blocks, waits or calls the system.
 *
 * Amounts are units of CGPU_UNIT_BYTES.
 */
#ifndef CGPU_CHARGE_H
#define CGPU_CHARGE_H

#include <stdbool.h>
#include <stdint.h>

#include "region.h"

#define CGPU_ACCOUNT_USED_SHIFT (CGPU_ACCOUNT_SLOT_BITS + CGPU_ACCOUNT_SEQ_BITS)
#define CGPU_ACCOUNT_SEQ_MASK ((1ull << CGPU_ACCOUNT_SEQ_BITS) - 1)
#define CGPU_ACCOUNT_SLOT_MASK ((1ull << CGPU_ACCOUNT_SLOT_BITS) - 1)
#define CGPU_CHARGE_SEQ_MASK ((1ull << CGPU_CHARGE_SEQ_BITS) - 1)
#define CGPU_MAX_UNITS ((1ull << (64 - CGPU_ACCOUNT_USED_SHIFT)) - 1) /* what `account` can hold */

/* ---- the three words ---- */

static inline uint64_t cgpu_account_used(uint64_t account) { return account >> CGPU_ACCOUNT_USED_SHIFT; }
static inline unsigned cgpu_account_slot(uint64_t account) {
  return (unsigned)(account >> CGPU_ACCOUNT_SEQ_BITS & CGPU_ACCOUNT_SLOT_MASK);
}
static inline uint64_t cgpu_account_word(uint64_t used, unsigned slot, uint64_t seq) {
  return used << CGPU_ACCOUNT_USED_SHIFT | (uint64_t)slot << CGPU_ACCOUNT_SEQ_BITS | (seq & CGPU_ACCOUNT_SEQ_MASK);
}

/* `charge` and `intent` share their layout; the amount of an intent is signed. */
static inline uint64_t cgpu_charge_units(uint64_t charge) { return charge >> CGPU_CHARGE_SEQ_BITS; }
static inline uint64_t cgpu_charge_seq(uint64_t charge) { return charge & CGPU_CHARGE_SEQ_MASK; }
static inline int64_t cgpu_intent_delta(uint64_t intent) { return (int64_t)intent >> CGPU_CHARGE_SEQ_BITS; }
static inline uint64_t cgpu_charge_word(uint64_t units, uint64_t seq) {
  return units << CGPU_CHARGE_SEQ_BITS | (seq & CGPU_CHARGE_SEQ_MASK);
}

static inline uint64_t cgpu_units_of(uint64_t bytes) {
  return bytes / CGPU_UNIT_BYTES + (bytes % CGPU_UNIT_BYTES != 0);
}

static inline uint64_t cgpu_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
static inline bool cgpu_swap(uint64_t *word, uint64_t from, uint64_t to) {
  return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Fetches a line to write to it. Where others write to it too, a load first would fetch it twice. */
static inline void cgpu_will_write(const void *address) {
#ifdef __x86_64__
  __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address)); /* the builtin fetches it to read */
#else
  __builtin_prefetch(address, 1);
#endif
}

/* On the line of the account, which whoever charges has just written. */
static inline void cgpu_note_peak(struct cgpu_usage_gpu *row, uint64_t used_units) {
  uint64_t used = used_units * CGPU_UNIT_BYTES, peak = __atomic_load_n(&row->peak_bytes, __ATOMIC_RELAXED);
  while (peak < used &&
         !__atomic_compare_exchange_n(&row->peak_bytes, &peak, used, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
    continue;
}

/* ---- the protocol ---- */

/* Brings the charge of the slot that `account` names up to the operation that it names. False when
 * the account has moved on meanwhile: load it again.
 *
 * The order of the loads decides: charge before the second look at account, intent after it. If
 * account names operation q of the slot and its charge stood at q-1, then the intent read last is
 * that of q, or q has been completed and the swap fails. An intent that was never named is not
 * taken for one that was. */
static inline bool cgpu_charge_complete(struct cgpu_usage *usage, unsigned gpu, uint64_t account) {
  unsigned slot = cgpu_account_slot(account);
  if (slot >= CGPU_MAX_SLOTS) return true;
  struct cgpu_usage_slot_gpu *row = &usage->slot[slot].gpu[gpu];
  uint64_t charge = cgpu_load(&row->charge);
  uint64_t next = (charge + 1) & CGPU_CHARGE_SEQ_MASK;
  if ((next & CGPU_ACCOUNT_SEQ_MASK) != (account & CGPU_ACCOUNT_SEQ_MASK)) return true; /* up to date */
  if (cgpu_load(&usage->gpu[gpu].account) != account) return false;
  uint64_t intent = cgpu_load(&row->intent);
  if (cgpu_charge_seq(intent) != next) return true; /* completed since by somebody else */
  uint64_t units = cgpu_charge_units(charge) + (uint64_t)cgpu_intent_delta(intent);
  cgpu_swap(&row->charge, charge, cgpu_charge_word(units, next));
  return true;
}

/* Charges `delta` units to a slot, or returns them when negative; more than the slot holds is never
 * returned. A charge is refused, with nothing changed, when the tenant's use would exceed
 * limit_units; UINT64_MAX refuses nothing that the word can hold. */
static inline bool cgpu_charge(struct cgpu_usage *usage, unsigned slot, unsigned gpu, int64_t delta,
                               uint64_t limit_units) {
  struct cgpu_usage_slot_gpu *row = &usage->slot[slot].gpu[gpu];
  uint64_t *account = &usage->gpu[gpu].account;
  cgpu_will_write(account);
  cgpu_will_write(row);
  uint64_t seen = cgpu_load(account);
  while (cgpu_account_slot(seen) == slot && !cgpu_charge_complete(usage, gpu, seen)) seen = cgpu_load(account);
  const uint64_t own = cgpu_load(&row->charge);
  const uint64_t seq = (own + 1) & CGPU_CHARGE_SEQ_MASK;
  if (delta < 0 && (uint64_t)-delta > cgpu_charge_units(own)) delta = -(int64_t)cgpu_charge_units(own);
  /* Who sees the account name this operation sees its intent: the swap below publishes both. */
  __atomic_store_n(&row->intent, cgpu_charge_word((uint64_t)delta, seq), __ATOMIC_RELEASE);
  for (;;) {
    seen = cgpu_load(account);
    if (!cgpu_charge_complete(usage, gpu, seen)) continue;
    uint64_t used = cgpu_account_used(seen), after = used + (uint64_t)delta;
    if (delta > 0) {
      if (limit_units > CGPU_MAX_UNITS) limit_units = CGPU_MAX_UNITS;
      if (used > limit_units || (uint64_t)delta > limit_units - used) return false;
    } else if (after > used) {
      after = 0; /* only a tenant that scribbles on its own file can get here */
    }
    uint64_t named = cgpu_account_word(after, slot, seq);
    if (!cgpu_swap(account, seen, named)) continue;
    /* Done, whatever happens to this process now; others complete it before they replace it. */
    cgpu_swap(&row->charge, own, cgpu_charge_word(cgpu_charge_units(own) + (uint64_t)delta, seq));
    if (delta > 0) cgpu_note_peak(&usage->gpu[gpu], after);
    return true;
  }
}

/* Returns all that a dead slot holds and frees the slot. The caller holds the slot's file lock. Can
 * be interrupted at any point and done again. */
static inline void cgpu_charge_reclaim(struct cgpu_usage *usage, unsigned slot) {
  struct cgpu_usage_slot *dead = &usage->slot[slot];
  __atomic_fetch_add(&dead->header.claim, 1, __ATOMIC_SEQ_CST); /* tells an owner that lives after all */
  for (unsigned gpu = 0; gpu < CGPU_MAX_GPUS; gpu++) {
    struct cgpu_usage_slot_gpu *row = &dead->gpu[gpu];
    uint64_t seen = cgpu_load(&usage->gpu[gpu].account);
    while (cgpu_account_slot(seen) == slot && !cgpu_charge_complete(usage, gpu, seen))
      seen = cgpu_load(&usage->gpu[gpu].account);
    uint64_t units = cgpu_charge_units(cgpu_load(&row->charge));
    if (units) cgpu_charge(usage, slot, gpu, -(int64_t)units, 0);
    __atomic_store_n(&row->gate, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&row->contexts, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&row->explicit_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&row->managed_bytes, 0, __ATOMIC_RELAXED);
  }
  __atomic_store_n(&dead->header.state, CGPU_SLOT_FREE, __ATOMIC_SEQ_CST);
  __atomic_fetch_add(&usage->header.doorbell, 1, __ATOMIC_SEQ_CST);
}

#endif

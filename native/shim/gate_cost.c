/* gate_cost.c - what a function, a graph or a class of copies costs, learnt from markers. */
#include "gate.h"

/* A table without locks: a key, once there, keeps its place. When the neighbourhood of its home is
 * full the home itself is taken over: the loser is measured again at its next launch. */
#define PLACES 4096u
#define NEIGHBOURS 8u

struct place {
  _Atomic(uint64_t) key;
  _Atomic(uint64_t) cost_ns; /* the lowest bit: in doubt */
};
static struct place places[PLACES];

/* What is longer than this is measured again, launch after launch, until a measurement agrees with what
 * was learnt: too high a cost of long work is an idle card, since its end is looked for late, and such
 * work is so seldom launched that the usual sample would leave it so for seconds. */
#define LONG_NS 1000000u
#define AGREES_PART 32u
#define DOUBT 1u

static unsigned home(uint64_t key) { return (unsigned)(key * 0x9e3779b97f4a7c15u >> 52) % PLACES; }

static struct place *find(uint64_t key) {
  unsigned start = home(key);
  for (unsigned i = 0; i < NEIGHBOURS; i++) {
    struct place *place = &places[(start + i) % PLACES];
    uint64_t found = atomic_load_explicit(&place->key, memory_order_acquire);
    if (found == key) return place;
    if (!found) return NULL;
  }
  return NULL;
}

static struct place *claim(uint64_t key) {
  unsigned start = home(key);
  for (unsigned i = 0; i < NEIGHBOURS; i++) {
    struct place *place = &places[(start + i) % PLACES];
    uint64_t found = 0;
    if (atomic_compare_exchange_strong(&place->key, &found, key) || found == key) return place;
  }
  struct place *place = &places[start];
  atomic_store(&place->cost_ns, 0);
  atomic_store(&place->key, key);
  return place;
}

uint64_t gate_cost_known(uint64_t key, bool *doubtful) {
  struct place *place = find(key);
  uint64_t cost_ns = place ? atomic_load_explicit(&place->cost_ns, memory_order_relaxed) : 0;
  *doubtful = !cost_ns || cost_ns & DOUBT;
  return cost_ns;
}

/* Upwards at once, since too low an estimate lets too much into the queue; downwards by quarters,
 * since one launch with less to do says little about the next. */
void gate_cost_learn(uint64_t key, uint64_t cost_ns) {
  struct place *place = find(key);
  if (!place) place = claim(key);
  uint64_t old_ns = atomic_load(&place->cost_ns);
  uint64_t apart_ns = cost_ns < old_ns ? old_ns - cost_ns : cost_ns - old_ns;
  if (cost_ns < old_ns) cost_ns = old_ns - apart_ns / 4;
  cost_ns = cost_ns > DOUBT ? cost_ns & ~(uint64_t)DOUBT : DOUBT + 1;
  if (cost_ns >= LONG_NS && apart_ns > cost_ns / AGREES_PART) cost_ns |= DOUBT;
  atomic_store(&place->cost_ns, cost_ns);
}
